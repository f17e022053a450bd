"""Read a PyTorch network as the file that a converter would make of it.

What a runtime fuses costs nothing: batch norm is folded into the convolution before it, and
ReLU and ReLU6 are applied by whatever makes their input. Other activations, pooling, adds,
splits and transposes read and write memory and are operations of their own. No weight is
needed, so a network on the ``meta`` device will do.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from pipeline.core.errors import PareError
from pipeline.profilers.file_graph import FileGraph, Node, TensorInfo, to_ops

_FREE_MODULES = (
    nn.BatchNorm2d, nn.Dropout, nn.Flatten, nn.Identity, nn.ReLU, nn.ReLU6,
)  # fmt: skip
_FREE_CALLS = (
    "contiguous", "dropout", "flatten", "relu", "relu_", "reshape", "stochastic_depth",
    "unsqueeze", "view",
)  # fmt: skip
_DTYPES = {1: "int8", 2: "float16", 4: "float32"}


def read_network(
    model: nn.Module, shape: tuple[int, ...], *, element_bytes: int = 4
) -> FileGraph:
    """Count what a network computes and moves for one image.

    Args:
        model: traceable by ``torch.fx``; left as it was.
        shape: of one image, ``(c, h, w)``.
        element_bytes: of one activation and one weight: 4 for float32, 1 for int8.

    Returns:
        A graph of format ``tflite``, its operations in the order of the code.

    Raises:
        PareError: the network can't be traced, or doesn't take such images.
    """
    own = copy.deepcopy(model).to("meta").eval()
    try:
        traced = fx.symbolic_trace(own)
        ShapeProp(traced).propagate(torch.empty(1, *shape, device="meta"))
    except Exception as error:  # tracing runs the network's own code, which fails in any way
        raise PareError(
            f"the network {type(model).__name__} can't be traced for images of "
            f"{list(shape)}: {str(error).partition(chr(10))[0]}. Export it and read the file."
        ) from error
    return _Reader(traced, element_bytes).graph(own)


class _Reader:
    """The tensors and the operations of one traced network."""

    def __init__(self, traced: fx.GraphModule, element_bytes: int) -> None:
        self._modules = dict(traced.named_modules())
        self._bytes = element_bytes
        self._tensors: dict[str, TensorInfo] = {}
        self._same: dict[str, str] = {}  # what nothing writes is the tensor it comes from
        self._nodes: list[Node] = []
        for node in traced.graph.nodes:
            self._take(node)
        self._inputs = tuple(n.name for n in traced.graph.nodes if n.op == "placeholder")
        last = next(iter(reversed(traced.graph.nodes)))
        self._outputs = tuple(self._name(node) for node in last.all_input_nodes)

    def graph(self, model: nn.Module) -> FileGraph:
        dtype = _DTYPES.get(self._bytes, "float32")
        return FileGraph(
            format="tflite",
            tensors=tuple(self._tensors.values()),
            ops=to_ops(self._nodes, self._tensors),
            inputs=self._inputs,
            outputs=self._outputs,
            dtype="int8" if dtype == "int8" else "fp16" if dtype == "float16" else "fp32",
            op_types=tuple(sorted({node.type for node in self._nodes})),
            weight_bytes=self._bytes * sum(p.numel() for p in model.parameters()),
        )

    def _take(self, node: fx.Node) -> None:
        shapes = _shapes(node)
        if node.op == "output" or not shapes or _is_part(node):
            return
        if node.op == "placeholder":
            self._add(node.name, shapes[0])
        elif self._is_free(node):
            self._same[node.name] = self._name(node.all_input_nodes[0])
        else:
            self._operate(node, shapes)

    def _is_free(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self._modules[str(node.target)], _FREE_MODULES)
        return _call(node) in _FREE_CALLS

    def _operate(self, node: fx.Node, shapes: list[tuple[int, ...]]) -> None:
        # The parts of a split are the nodes that take them out of the list.
        parts = [user for user in node.users if _is_part(user)] if len(shapes) > 1 else []
        for part in parts:
            self._add(part.name, _shapes(part)[0])
        if not parts:
            self._add(node.name, shapes[0])
        outputs = tuple(part.name for part in parts) or (node.name,)
        inputs = tuple(self._name(n) for n in node.all_input_nodes if _shapes(n))
        layer = self._modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d):
            depthwise = layer.groups == layer.in_channels > 1
            kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
            macs = math.prod(shapes[0]) * layer.weight[0].numel()
            self._nodes.append(Node(kind, inputs, outputs, macs, depthwise))
        elif isinstance(layer, nn.Linear):
            macs = math.prod(shapes[0]) * layer.in_features
            self._nodes.append(Node("FULLY_CONNECTED", inputs, outputs, macs))
        else:
            kind = type(layer).__name__ if layer is not None else _call(node)
            self._nodes.append(Node(kind.upper(), inputs, outputs))

    def _add(self, name: str, shape: tuple[int, ...]) -> None:
        self._tensors[name] = TensorInfo(
            name=name,
            bytes=math.prod(shape) * self._bytes,
            shape=shape,
            dtype=_DTYPES.get(self._bytes, "float32"),
            constant=False,
        )

    def _name(self, node: fx.Node) -> str:
        return self._same.get(node.name, node.name)


def _call(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else node.target.__name__


def _is_part(node: fx.Node) -> bool:
    """Whether a node takes one tensor out of a list."""
    return _call(node) == "getitem" and len(_shapes(node.all_input_nodes[0])) > 1


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors that a node makes; none for sizes and the like."""
    found: Any = node.meta.get("tensor_meta")
    if found is None:
        return []
    several: Iterable[Any] = (found,) if hasattr(found, "shape") else found
    return [tuple(one.shape) for one in several if isinstance(one.shape, torch.Size | Tensor)]
