"""A network as a list of calls with known shapes."""

from __future__ import annotations

import contextlib
import copy
import io
import linecache
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from pipeline.core.errors import PareError
from pipeline.graph.modules import as_modules
from pipeline.graph.mutations import follow_mutations
from pipeline.graph.subnormals import flush_subnormals

#: Of one input image, ``(c, h, w)``; of each, where a network takes several inputs.
Shape = tuple[int, ...] | tuple[tuple[int, ...], ...]


def trace(model: nn.Module, shape: Shape) -> fx.GraphModule:
    """Trace a copy of ``model`` in evaluation mode; ``torch.nn`` modules stay leaves.

    ``torch.fx`` goes first, since it keeps the network's own modules; where it fails, or
    gives a graph that computes something else than the code, ``torch.export`` follows.

    Args:
        model: any network of images; it is not changed.
        shape: of one input image, ``(c, h, w)``, or of one of each input.

    Returns:
        A graph whose nodes carry ``meta["shape"]``, the shape of their value for a batch of
        two images, ``meta["shapes"]`` for a list of values, or ``meta["value"]`` for what
        is no tensor, such as a size.

    Raises:
        PareError: the forward code depends on the data, or does not fit the input; names
            the line and what to do.
    """
    own = _own_copy(model)
    flush_subnormals(own)
    dtype = next((p.dtype for p in own.parameters()), torch.get_default_dtype())
    noise = _noise(shape, dtype)
    expected = _outputs(own, noise, shape)
    refusal: PareError | None = None
    for capture in (_by_symbols, _by_export):
        try:
            graph = capture(own, noise)
            found = record(graph, noise, shape)
            if as_modules(graph):
                found = record(graph, noise, shape)
            _demand_same_outputs(type(model).__name__, expected, found)
            if capture is _by_export:
                _demand_any_batch(own, graph, noise, shape)
        except PareError as error:
            refusal = refusal or error
        else:
            return graph
    assert refusal is not None
    raise refusal


def _own_copy(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in evaluation mode.

    Raises:
        PareError: the network holds tensors that are computed, such as pruned weights.
    """
    try:
        return copy.deepcopy(model).cpu().eval()
    except RuntimeError as error:
        raise PareError(
            f"the network {type(model).__name__} cannot be copied, since it holds tensors "
            "that hooks compute: make the pruning permanent with torch.nn.utils.prune.remove, "
            "or use the parametrizations of torch.nn.utils.parametrizations for weight norm."
        ) from error


def _noise(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return a batch of two for each input."""
    generator = torch.Generator().manual_seed(0)
    several = [size for size in shape if isinstance(size, tuple)]
    sizes = several or [tuple(size for size in shape if isinstance(size, int))]
    return tuple(torch.randn(2, *one, generator=generator).to(dtype) for one in sizes)


def _by_symbols(model: nn.Module, _images: tuple[Tensor, ...]) -> fx.GraphModule:
    """Trace with ``torch.fx``."""
    try:
        graph = fx.symbolic_trace(model)
    except Exception as error:
        raise PareError(
            f"the network {_refusal('cannot be traced', model, error)} Write the forward pass "
            "without branches or loops that depend on tensor values, or wrap that part in a "
            "function marked with torch.fx.wrap."
        ) from error
    _name_inputs_by_position(graph)
    follow_mutations(graph)
    return graph


def _name_inputs_by_position(graph: fx.GraphModule) -> None:
    """Turn ``torch.reshape(input=x, ...)`` into ``torch.reshape(x, ...)``, in place."""
    for node in graph.graph.nodes:
        called = node.op in ("call_function", "call_module")
        if called and not node.args and "input" in node.kwargs:
            others = dict(node.kwargs)
            node.args = (others.pop("input"),)
            node.kwargs = others


def _by_export(model: nn.Module, images: tuple[Tensor, ...]) -> fx.GraphModule:
    """Trace with ``torch.export``, sizes of batch and image left open where they can be."""
    auto = torch.export.Dim.AUTO
    open_axes = tuple({0: auto} | dict.fromkeys(range(2, x.dim()), auto) for x in images)
    try:
        # What torch prints here is of its own inside, and the error says it again.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            exported = torch.export.export(model, images, dynamic_shapes=open_axes)
            graph = _plain(exported, type(model).__name__)
            try:
                follow_mutations(graph)
            except PareError:  # a view of what was changed: torch resolves it, less legibly
                graph = _plain(exported.run_decompositions({}), type(model).__name__)
    except Exception as error:
        raise PareError(
            f"the network {_refusal('cannot be exported', model, error)} Write the forward "
            "pass without branches or loops that depend on tensor values."
        ) from error
    return graph


def _plain(exported: torch.export.ExportedProgram, name: str) -> fx.GraphModule:
    """Return an exported network as a module like any other, without checks of its inputs."""
    found = exported.module()
    assert isinstance(found, fx.GraphModule)
    for node in list(found.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            found.graph.erase_node(node)
    # The module of torch.export refuses train() and eval().
    return fx.GraphModule(found, found.graph, name)


class _Recorder(fx.Interpreter):
    """Runs a graph and notes the shape, or the value, of every node."""

    def run_node(self, node: fx.Node) -> Any:
        """Run one node."""
        result = super().run_node(node)
        for key in ("shape", "shapes", "value"):
            node.meta.pop(key, None)
        if isinstance(result, Tensor):
            node.meta["shape"] = tuple(result.shape)
        elif isinstance(result, tuple | list) and any(isinstance(r, Tensor) for r in result):
            node.meta["shapes"] = [
                tuple(r.shape) if isinstance(r, Tensor) else None for r in result
            ]
        else:
            node.meta["value"] = result
        return result


@torch.no_grad()
def record(graph: fx.GraphModule, images: tuple[Tensor, ...], shape: Shape) -> list[Tensor]:
    """Note shapes on the nodes of a graph, and return its outputs for ``images``.

    Raises:
        PareError: the graph does not accept the images.
    """
    try:
        return _tensors(_Recorder(graph).run(*(x.clone() for x in images)))
    except Exception as error:
        raise PareError(
            f"the graph traced from the network cannot be run on images of shape {shape}: "
            f"{_reason(error)}. Please report this network."
        ) from error


@torch.no_grad()
def _outputs(model: nn.Module, images: tuple[Tensor, ...], shape: Shape) -> list[Tensor]:
    try:
        return _tensors(model(*(x.clone() for x in images)))
    except Exception as error:
        raise _not_accepted(model, shape, error) from error


def _demand_any_batch(
    model: nn.Module, graph: fx.GraphModule, noise: tuple[Tensor, ...], shape: Shape
) -> None:
    """Refuse an exported graph that holds the number of images as a number.

    Raises:
        PareError: three images come out otherwise than from the code.
    """
    three = tuple(torch.cat([images, images.flip(0)[:1]]) for images in noise)
    expected = _outputs(model, three, shape)
    try:
        with torch.no_grad():
            found = _tensors(graph(*three))
        _demand_same_outputs(type(model).__name__, expected, found)
    except Exception as error:
        raise PareError(
            f"the network {type(model).__name__} makes something of the number of images in a "
            "batch, which torch.export takes for a constant. Write the forward pass without "
            "branches or loops over the batch."
        ) from error


def _not_accepted(model: nn.Module, shape: Shape, error: Exception) -> PareError:
    return PareError(
        f"the network {_refusal(f'does not accept images of shape {shape}', model, error)} "
        "Choose a model made for this image size, or resize the images."
    )


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _demand_same_outputs(name: str, expected: list[Tensor], found: list[Tensor]) -> None:
    """Refuse a graph that computes something else than the code it was traced from.

    Raises:
        PareError: the outputs differ on noise.
    """
    same = len(expected) == len(found) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in zip(expected, found, strict=True)
    )
    if not same:
        raise PareError(
            f"the graph traced from the network {name} computes something "
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
    return f"{type(model).__name__} {what}{where}: {_reason(error)}."


def _reason(error: BaseException) -> str:
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    reason = str(root).strip().partition("\n")[0] or type(root).__name__
    return reason.rstrip(".")
