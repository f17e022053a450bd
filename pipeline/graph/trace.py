"""A network as a list of calls with known shapes."""

from __future__ import annotations

import copy
import linecache
import traceback
from pathlib import Path

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from pipeline.core.errors import PareError


def trace(model: nn.Module, shape: tuple[int, ...]) -> fx.GraphModule:
    """Trace a copy of ``model`` in evaluation mode; ``torch.nn`` modules stay leaves.

    Args:
        model: any network of one image input; it is not changed.
        shape: of one input image, ``(c, h, w)``.

    Returns:
        A graph whose nodes carry ``meta["shape"]``, the shape of their value for a batch of
        two images (absent for values that are not tensors).

    Raises:
        PareError: the forward code depends on the data, or does not fit the input; names
            the line and what to do.
    """
    own = copy.deepcopy(model).cpu().eval()
    try:
        graph = fx.symbolic_trace(own)
    except Exception as error:
        raise PareError(_refusal("cannot be traced", own, error)) from error
    example = torch.zeros(2, *shape, dtype=next(own.parameters()).dtype)
    try:
        with torch.no_grad():
            ShapeProp(graph).propagate(example)
    except Exception as error:
        raise PareError(_refusal(f"does not accept images of shape {shape}", own, error)) from error
    for node in graph.graph.nodes:
        found = node.meta.get("tensor_meta")
        if isinstance(found, tuple) and hasattr(found, "shape"):
            node.meta["shape"] = tuple(found.shape)
    return graph


def _refusal(what: str, model: nn.Module, error: Exception) -> str:
    """Name the line of the user's code where it went wrong, and the remedy."""
    torch_home = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(torch_home) and f.name == "forward"]
    where = ""
    if own:
        frame = own[-1]
        code = linecache.getline(frame.filename, frame.lineno or 0).strip()
        where = f" at {frame.filename}:{frame.lineno}: `{code}`"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"the network {type(model).__name__} {what}{where}: {reason}. Write the forward pass "
        "without branches or loops that depend on tensor values, or wrap that part in a "
        "module decorated with torch.fx.wrap."
    )
