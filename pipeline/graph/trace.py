"""A network as a list of calls with known shapes."""

from __future__ import annotations

import contextlib
import copy
import io
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
        raise PareError(
            f"the network {_refusal('cannot be traced', own, error)} Write the forward pass "
            "without branches or loops that depend on tensor values, or wrap that part in a "
            "function marked with torch.fx.wrap."
        ) from error
    example = torch.zeros(2, *shape, dtype=next(own.parameters()).dtype)
    try:
        # ShapeProp prints a traceback of its own before it raises.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            ShapeProp(graph).propagate(example)
    except Exception as error:
        raise PareError(
            f"the network {_refusal(f'does not accept images of shape {shape}', own, error)} "
            "Choose a model made for this image size, or resize the images."
        ) from error
    for node in graph.graph.nodes:
        found = node.meta.get("tensor_meta")
        if isinstance(found, tuple) and hasattr(found, "shape"):
            node.meta["shape"] = tuple(found.shape)
    return graph


def _refusal(what: str, model: nn.Module, error: BaseException) -> str:
    """Name the network, the line of the user's code where it went wrong, and the reason."""
    torch_home = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(torch_home) and f.name == "forward"]
    where = ""
    if own:
        code = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
        where = f" at {own[-1].filename}:{own[-1].lineno}: `{code}`"
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    reason = str(root).strip().partition("\n")[0] or type(root).__name__
    return f"{type(model).__name__} {what}{where}: {reason.rstrip('.')}."
