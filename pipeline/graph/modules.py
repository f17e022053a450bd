"""Functional calls on parameters become modules, so that one rule serves both spellings.

``F.conv2d(x, self.weight, self.bias)``, and every layer of a graph that ``torch.export``
made, reads its parameters in the graph. Where nobody else reads them, the call becomes the
``torch.nn`` module that does the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.graph.rules import operation

#: Parameters by their names in the module, and the other arguments, of each call in order.
_SIGNATURES = {
    "linear": ("weight", "bias"),
    "conv1d": ("weight", "bias", "stride", "padding", "dilation", "groups"),
    "conv2d": ("weight", "bias", "stride", "padding", "dilation", "groups"),
    "conv3d": ("weight", "bias", "stride", "padding", "dilation", "groups"),
    "layer_norm": ("normalized_shape", "weight", "bias", "eps"),
    "group_norm": ("num_groups", "weight", "bias", "eps"),
    "prelu": ("weight",),
}
_LAST = ("training", "momentum", "eps")
_BATCH_NORMS = {
    # F.batch_norm and aten.batch_norm name and order them differently.
    "function": (
        "running_mean",
        "running_var",
        "weight",
        "bias",
        "training",
        "momentum",
        "eps",
    ),
    "aten": ("weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
}
_CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_BATCH_NORMS_OF_RANK = {
    2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d,
}  # fmt: skip


def as_modules(graph: fx.GraphModule) -> bool:
    """Put a module in the place of each functional call on parameters of its own.

    Args:
        graph: with shapes recorded; the modules take its parameters over, in place.

    Returns:
        Whether anything changed.
    """
    changed = False
    for node in list(graph.graph.nodes):
        given = _arguments(node)
        module = _module(graph, node, given) if given else None
        if given and module is not None:
            _put(graph, node, given, module)
            changed = True
    if changed:
        graph.graph.lint()
        graph.recompile()
    return changed


def _arguments(node: fx.Node) -> dict[str, Any] | None:
    """Return the arguments of a call that could be a module, by name, or None."""
    name = operation(node)
    if node.op != "call_function" or name is None or "shape" not in node.meta:
        return None
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    names = _SIGNATURES.get(name)
    if name == "batch_norm":
        exported = isinstance(node.target, torch._ops.OpOverload)
        names = _BATCH_NORMS["aten" if exported else "function"]
    if names is None:
        return None
    return dict(zip(names, node.args[1:], strict=False)) | {
        key: value for key, value in node.kwargs.items() if key in names
    }


def _tensors(graph: fx.GraphModule, given: dict[str, Any]) -> dict[str, Tensor] | None:
    """Return the parameters among the arguments; None if one is computed or shared."""
    found = {}
    called = [
        graph.get_submodule(n.target) for n in graph.graph.nodes if n.op == "call_module"
    ]
    taken = {id(tensor) for module in called for tensor in module.parameters()}
    for name, argument in given.items():
        if not isinstance(argument, fx.Node):
            continue
        if argument.op != "get_attr" or len(argument.users) != 1:
            return None
        twins = [
            n for n in graph.graph.nodes if n.op == "get_attr" and n.target == argument.target
        ]
        if len(twins) != 1:
            return None
        owner, _, attribute = str(argument.target).rpartition(".")
        found[name] = getattr(graph.get_submodule(owner), attribute)
        if id(found[name]) in taken:
            return None
    return found


def _module(graph: fx.GraphModule, node: fx.Node, given: dict[str, Any]) -> nn.Module | None:
    """Return the module that does what a call does, with the call's own parameters."""
    tensors = _tensors(graph, given)
    if not tensors or "weight" not in tensors:
        return None
    plain = {name: value for name, value in given.items() if name not in tensors}
    module = _MAKERS[str(operation(node))](_Layer(tensors, plain, len(node.meta["shape"])))
    if module is None:
        return None
    buffers = dict(module.named_buffers())
    for key, tensor in tensors.items():
        if key in buffers or isinstance(tensor, nn.Parameter):
            setattr(module, key, tensor)
        else:
            setattr(module, key, nn.Parameter(tensor, requires_grad=False))
    for key in buffers.keys() - tensors.keys():
        setattr(module, key, torch.zeros_like(buffers[key], device="cpu"))
    return module.eval()


@dataclass(frozen=True)
class _Layer:
    """What a functional call says of the module it could be."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]
    rank: int

    @property
    def weight(self) -> Tensor:
        return self.tensors["weight"]

    def options(self, *names: str) -> dict[str, Any]:
        return {name: self.plain[name] for name in names if name in self.plain}


def _linear(layer: _Layer) -> nn.Module | None:
    if layer.weight.dim() != 2:
        return None
    outputs, inputs = layer.weight.shape
    return nn.Linear(inputs, outputs, bias="bias" in layer.tensors, device="meta")


def _convolution(layer: _Layer) -> nn.Module | None:
    weight, groups = layer.weight, int(layer.plain.get("groups", 1))
    if layer.rank != weight.dim():
        return None
    sizes = layer.options("stride", "padding", "dilation")
    make: Callable[..., nn.Module] = _CONVOLUTIONS[layer.rank]
    return make(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        groups=groups,
        bias="bias" in layer.tensors,
        device="meta",
        **{name: _for_each_axis(size, layer.rank - 2) for name, size in sizes.items()},
    )


def _for_each_axis(size: Any, count: int) -> Any:
    if isinstance(size, tuple | list):
        return tuple(size) * (count if len(size) == 1 else 1)
    return size


def _batch_norm(layer: _Layer) -> nn.Module | None:
    needed = {"running_mean", "running_var", "bias"}
    if layer.plain.get("training") or not needed <= layer.tensors.keys():
        return None
    make = _BATCH_NORMS_OF_RANK[layer.rank]
    return make(layer.weight.numel(), device="meta", **layer.options("eps", "momentum"))


def _layer_norm(layer: _Layer) -> nn.Module:
    shape = [int(size) for size in layer.weight.shape]
    bias = "bias" in layer.tensors
    return nn.LayerNorm(shape, bias=bias, device="meta", **layer.options("eps"))


def _group_norm(layer: _Layer) -> nn.Module | None:
    if "bias" not in layer.tensors:
        return None
    width, groups = layer.weight.numel(), layer.plain["num_groups"]
    return nn.GroupNorm(groups, width, device="meta", **layer.options("eps"))


def _prelu(layer: _Layer) -> nn.Module:
    return nn.PReLU(layer.weight.numel(), device="meta")


_MAKERS: dict[str, Callable[[_Layer], nn.Module | None]] = {
    "linear": _linear,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
}


def _put(
    graph: fx.GraphModule, node: fx.Node, given: dict[str, Any], module: nn.Module
) -> None:
    """Call the module in the place of the function; its parameters move into it."""
    reads = [argument for argument in given.values() if isinstance(argument, fx.Node)]
    owner, _, attribute = str(given["weight"].target).rpartition(".")
    for read in reads:
        home, _, name = str(read.target).rpartition(".")
        delattr(graph.get_submodule(home), name)
    holder = graph.get_submodule(owner)
    left = {name for name, _ in holder.named_buffers()} - {"num_batches_tracked"}
    left |= {name for name, _ in (*holder.named_parameters(), *holder.named_children())}
    free = owner and not left
    target = owner if free else f"{owner}.{attribute}_layer".lstrip(".")
    graph.set_submodule(target, module)
    with graph.graph.inserting_before(node):
        call = graph.graph.call_module(target, (node.args[0],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.graph.erase_node(node)
    for read in reads:
        graph.graph.erase_node(read)
