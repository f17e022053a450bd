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
from torch.utils._pytree import tree_leaves

from pipeline.core.errors import PareError
from pipeline.graph.mutations import follow_mutations


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
    try:
        own = copy.deepcopy(model).cpu().eval()
        graph = fx.symbolic_trace(own)
    except Exception as error:
        raise PareError(
            f"the network {_refusal('cannot be traced', model, error)} Write the forward pass "
            "without branches or loops that depend on tensor values, or wrap that part in a "
            "function marked with torch.fx.wrap."
        ) from error
    follow_mutations(graph)
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
    _demand_same_outputs(own, graph, shape)
    for node in graph.graph.nodes:
        found = node.meta.get("tensor_meta")
        if isinstance(found, tuple) and hasattr(found, "shape"):
            node.meta["shape"] = tuple(found.shape)
    return graph


@torch.no_grad()
def _demand_same_outputs(
    model: nn.Module, graph: fx.GraphModule, shape: tuple[int, ...]
) -> None:
    """Refuse a graph that computes something else than the code it was traced from.

    Raises:
        PareError: the outputs differ on noise.
    """
    dtype = next(model.parameters()).dtype
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected, found = (tree_leaves(net(noise.clone())) for net in (model, graph))
    for a, b in zip(expected, found, strict=True):
        if isinstance(a, torch.Tensor) and not torch.allclose(
            a, b, rtol=1e-4, atol=1e-5, equal_nan=True
        ):
            raise PareError(
                f"the graph traced from the network {type(model).__name__} computes something "
                "else than its code. An assignment such as `y += z` to a value that is read "
                "again under another name is traced wrongly by torch.fx: write `y = y + z`. "
                "Randomness in evaluation mode does it too."
            )


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
