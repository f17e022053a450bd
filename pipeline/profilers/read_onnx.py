"""Read an ONNX file with inferred shapes, quantized pairs folded as the runtime does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.core.errors import PareError
from pipeline.profilers.file_graph import (
    EIGHT_BIT,
    FileGraph,
    Node,
    TensorInfo,
    arithmetic,
    granularity,
    overall,
    size,
    to_ops,
)

_Shape = tuple[int, ...]
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
# An integer kernel's output range does their work, a float kernel applies them as it writes.
_PASSED = ("Relu", "Clip")
_APPLIES = ("Conv", "Gemm")
# Between DQ and Q onnxruntime 1.31 runs these in integers, and nothing else.
_INTEGER = (
    "Add", "AveragePool", "Concat", "Conv", "DepthToSpace", "Expand", "Flatten", "Gather",
    "GlobalAveragePool", "Identity", "LeakyRelu", "MaxPool", "Mul", "ReduceMax", "ReduceMin",
    "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Transpose",
    "Unsqueeze", *_PASSED,
)  # fmt: skip
# These read integers even where nothing quantizes what they write.
_WRITES_FLOAT = ("Gemm", "MatMul")
_LOWEST = {"int8": -128, "uint8": 0}
_HIGHEST = {"int8": 127, "uint8": 255}


@dataclass(frozen=True)
class _Raw:
    """A node as the file has it, nameless optional inputs left out of ``inputs``."""

    type: str
    slots: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(name for name in self.slots if name)


def read_onnx(path: Path) -> FileGraph:
    """Read an ``.onnx`` file.

    A file quantized in QDQ form says in float what the runtime does in integers: it fuses
    DequantizeLinear, Conv, QuantizeLinear into one integer convolution, so the float
    tensors between them never exist. They are folded here in the same way: a tensor
    counts one byte an element where an integer kernel reads or writes it, and a Q or DQ
    between two such kernels is no operation. What remains is real: Q behind a float
    input, DQ before a float output or before an operation that runs in float. In the same
    way Relu and Clip right behind Conv or Gemm cost nothing of their own.

    Pairs alone make no integer kernel. A convolution between them stays float where what it
    writes is not quantized at once: behind an operation that has no integer form, or behind
    a Relu whose quantized range goes below zero.

    Raises:
        PareError: not an ONNX file, control flow, or sizes other than the batch left open.
    """
    model, is_static, batch = _load(path)
    raw = [_raw_node(node) for node in model.graph.node]
    nested = next((node.type for node in raw if _has_graph(node)), None)
    if nested:
        raise PareError(
            f"{path}: {nested} holds a graph of its own (a loop or a branch), which can't be "
            f"counted. Export the network without control flow."
        )
    inputs = tuple(value.name for value in _true_inputs(model))
    outputs = tuple(value.name for value in model.graph.output)
    constants = _constants(model)
    tensors, nodes = _executed(raw, _tensors(model, path), inputs, outputs, _scalars(model))
    used = {name for node in nodes for name in (*node.inputs, *node.outputs)}
    used.update(inputs, outputs)
    input_dtypes = tuple(tensors[name].dtype for name in inputs)
    return FileGraph(
        format="onnx",
        tensors=tuple(tensors[name] for name in tensors if name in used),
        ops=to_ops(nodes, tensors),
        inputs=inputs,
        outputs=outputs,
        dtype=overall(nodes, input_dtypes),
        int8_granularity=granularity(nodes),
        input_dtypes=input_dtypes,
        output_dtypes=tuple(tensors[name].dtype for name in outputs),
        op_types=tuple(sorted({node.type for node in raw})),
        static_shapes=is_static,
        batch=batch,
        weight_bytes=sum(tensor.bytes for tensor in constants),
        stored=constants,
    )


def _executed(
    raw: list[_Raw],
    stored: Mapping[str, TensorInfo],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    scalars: Mapping[str, float],
) -> tuple[dict[str, TensorInfo], list[Node]]:
    """Return the operations the runtime is left with, and every tensor by name."""
    origins, computed = _fold_constants(raw, stored)
    found = _quantization(computed, scalars)
    tensors = {
        name: tensor.model_copy(
            update={"constant": tensor.constant or name in origins} | found.get(name, {})
        )
        for name, tensor in stored.items()
    }
    view = _View(computed, tensors, outputs, origins, scalars)
    names, kept = _fold_pairs(computed, view, inputs)
    through = {node.outputs[0]: node.inputs[0] for node in computed if node.type == _DQ}
    scales = _weight_scales(raw, tensors)
    nodes = []
    for node in kept:
        seen = names | through if view.is_integer(node) else names
        nodes.append(_to_node(node, seen, tensors, origins, scales))
    return tensors, nodes


def _load(path: Path) -> tuple[Any, bool, int]:
    """Parse the file and infer every shape, at batch 1 where the batch is open."""
    import onnx
    import onnx.inliner

    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's own class, which differs between its versions
        raise PareError(f"{path} is not a readable ONNX file: {error}") from error
    if not model.HasField("graph") or not model.graph.output:
        raise PareError(f"{path} holds no graph. Export it again.")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    is_static = _fix_batch(model, path)
    try:
        model = _with_shapes(model)
    except onnx.shape_inference.InferenceError as error:
        raise PareError(
            f"{path}: no shape can be inferred: {error}. Export it again."
        ) from error
    sizes = [value.type.tensor_type.shape.dim for value in _true_inputs(model)]
    batch = sizes[0][0].dim_value if sizes and len(sizes[0]) else 1
    return model, is_static, batch


def _with_shapes(model: Any) -> Any:
    """Infer every shape; onnxruntime knows some that onnx does not follow."""
    import onnx

    known = onnx.shape_inference.infer_shapes(model, data_prop=True)
    named = {value.name for value in (*known.graph.value_info, *known.graph.output)}
    if all(name in named for node in known.graph.node for name in node.output if name):
        return known
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    try:
        more = SymbolicShapeInference.infer_shapes(model, auto_merge=True)
    except Exception:  # it gives up in any way; what onnx knows is then all there is
        return known
    return onnx.shape_inference.infer_shapes(more, data_prop=True)


def _fix_batch(model: Any, path: Path) -> bool:
    """Set an open batch to 1 in a model just loaded; return whether there was none."""
    open_sizes = [
        (value, axis)
        for value in _true_inputs(model)
        for axis, size_ in enumerate(value.type.tensor_type.shape.dim)
        if not size_.HasField("dim_value") or size_.dim_value < 1
    ]
    for value, axis in open_sizes:
        if axis > 0:
            raise PareError(
                f"{path}: size {axis} of input {value.name!r} is left open, so nothing can be "
                f"planned. Export with a fixed input size."
            )
        value.type.tensor_type.shape.dim[0].dim_value = 1
    # Shapes stored for an open batch would win over those inferred for a batch of one.
    if open_sizes:
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
    return not open_sizes


def _true_inputs(model: Any) -> list[Any]:
    """Return the inputs that are fed; old files list their weights as inputs, too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _raw_node(node: Any) -> _Raw:
    import onnx

    plain = node.domain in ("", "ai.onnx")
    return _Raw(
        type=node.op_type if plain else f"{node.domain}:{node.op_type}",
        slots=tuple(node.input),
        outputs=tuple(name for name in node.output if name),
        attributes={a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
        name=node.name,
    )


def _has_graph(node: _Raw) -> bool:
    return any(hasattr(value, "node") for value in node.attributes.values())


def _tensors(model: Any, path: Path) -> dict[str, TensorInfo]:
    """Describe every tensor whose shape is known, weights and computed ones alike."""
    graph = model.graph
    found = {tensor.name: tensor for tensor in _constants(model)}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
        known = kind.elem_type and kind.HasField("shape") and min(sizes, default=0) >= 0
        if value.name not in found and known:
            found[value.name] = _info(value.name, sizes, kind.elem_type, constant=False)
    for node in graph.node:
        for name in (*node.input, *node.output):
            if name and name not in found:
                raise PareError(
                    f"{path}: the shape of {name!r}, near operator {node.op_type!r}, can't be "
                    f"told from the file. Export with fixed shapes and standard operators."
                )
    return found


def _stored(model: Any) -> list[tuple[str, Any]]:
    """Return the constants of a file by name: its initializers and its Constant nodes."""
    constants = [(tensor.name, tensor) for tensor in model.graph.initializer]
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants += [(node.output[0], a.t) for a in node.attribute if a.HasField("t")]
    return constants


def _constants(model: Any) -> tuple[TensorInfo, ...]:
    return tuple(
        _info(name, tensor.dims, tensor.data_type, constant=True)
        for name, tensor in _stored(model)
    )


def _scalars(model: Any) -> dict[str, float]:
    """Return the constants of one element, as scales, zero points and bounds are."""
    import onnx

    return {
        name: float(onnx.numpy_helper.to_array(tensor).item())
        for name, tensor in _stored(model)
        if math.prod(tensor.dims) == 1 and tensor.data_type != onnx.TensorProto.STRING
    }


def _quantization(
    nodes: list[_Raw], scalars: Mapping[str, float]
) -> dict[str, dict[str, float | int]]:
    """Return scale and zero point of each integer tensor that Q writes or DQ reads."""
    found: dict[str, dict[str, float | int]] = {}
    for node in nodes:
        if node.type not in (_Q, _DQ):
            continue
        name = node.outputs[0] if node.type == _Q else node.inputs[0]
        scale, point = (scalars.get(slot, 0.0) for slot in (*node.slots, "")[1:3])
        if math.isfinite(scale) and scale > 0:
            found[name] = {"scale": scale, "zero_point": int(point)}
    return found


def _info(name: str, shape: Any, kind: int, *, constant: bool) -> TensorInfo:
    import onnx

    label = onnx.TensorProto.DataType.Name(kind).lower()
    dtype = {"float": "float32", "double": "float64"}.get(label, label)
    narrow = dtype.endswith(("int4", "4e2m1"))
    bits = 4 if narrow else onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize * 8
    sizes = tuple(int(n) for n in shape)
    return TensorInfo(
        name=name, bytes=size(sizes, bits), shape=sizes, dtype=dtype, constant=constant
    )


def _fold_constants(
    nodes: list[_Raw], tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, str], list[_Raw]]:
    """Split off what follows from constants alone; the runtime does it when it loads.

    Returns:
        Each such tensor with the stored constant it comes from, and the other nodes.
    """
    origins: dict[str, str] = {}
    computed = []
    for node in nodes:
        if all(tensors[n].constant or n in origins for n in node.inputs):
            first = node.inputs[0] if node.inputs else node.outputs[0]
            origins.update(dict.fromkeys(node.outputs, origins.get(first, first)))
        else:
            computed.append(node)
    return origins, computed


def _fold_pairs(
    nodes: list[_Raw], view: _View, inputs: tuple[str, ...]
) -> tuple[dict[str, str], list[_Raw]]:
    """Fold the Q, DQ and activation nodes that the kernels beside them absorb.

    Returns:
        Each tensor that a kernel never writes with the one it writes instead, and the
        nodes that remain.
    """
    names: dict[str, str] = {}
    absorbed: set[str] = set()
    for node in nodes:
        if node.type == _DQ and view.feeds_integer_kernels(node):
            absorbed.add(node.outputs[0])
        if node.type in _PASSED and view.is_applied(node):
            names[node.inputs[0]] = node.outputs[0]
            absorbed.add(node.outputs[0])
        if node.type == _Q and node.inputs[0] not in inputs:
            chain = view.chain_before(node)
            names.update(dict.fromkeys(chain, node.outputs[0]))
            # The chain's first tensor is the kernel's own output: that node stays.
            absorbed.update((node.outputs[0], *chain[:-1]) if chain else ())
    return names, [node for node in nodes if node.outputs[0] not in absorbed]


class _View:
    """Who makes and who reads each tensor of a list of nodes."""

    def __init__(
        self,
        nodes: list[_Raw],
        tensors: Mapping[str, TensorInfo],
        outputs: tuple[str, ...],
        origins: Mapping[str, str],
        scalars: Mapping[str, float],
    ) -> None:
        self._tensors, self._outputs = tensors, outputs
        self._origins, self._scalars = origins, scalars
        self._maker = {name: node for node in nodes for name in node.outputs}
        self._readers: dict[str, list[_Raw]] = {}
        for node in nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)

    def feeds_integer_kernels(self, node: _Raw) -> bool:
        """Whether nobody needs the float values a DQ node would write."""
        readers = self._readers.get(node.outputs[0], [])
        return node.outputs[0] not in self._outputs and all(map(self.is_integer, readers))

    def chain_before(self, node: _Raw) -> list[str]:
        """Return the float tensors between an integer kernel and Q, last one first."""
        chain = []
        name = node.inputs[0]
        while self._is_private(name):
            chain.append(name)
            maker = self._maker[name]
            if self._reads_integers(maker):
                return chain if self.is_integer(maker) else []
            if not self._is_done_by(maker, node):
                break
            name = maker.inputs[0]
        return []

    def is_applied(self, node: _Raw) -> bool:
        """Whether the kernel before an activation can apply it as it writes."""
        name = node.inputs[0]
        return self._is_private(name) and self._maker[name].type in _APPLIES

    def is_integer(self, node: _Raw) -> bool:
        """Whether the runtime has an integer kernel for it, here where it stands."""
        if not self._reads_integers(node):
            return False
        if node.type in _WRITES_FLOAT:
            return True
        return node.type in _INTEGER and all(
            self._ends_quantized(name, node) for name in node.outputs
        )

    def _is_private(self, name: str) -> bool:
        """Whether exactly one node reads it, the graph's caller not counted."""
        one = len(self._readers.get(name, [])) == 1
        return one and name in self._maker and name not in self._outputs

    def _reads_integers(self, node: _Raw) -> bool:
        """Whether all it reads comes through DQ, so an integer kernel can stand for it."""
        if node.type in (_Q, _DQ):
            return False
        moving = [name for name in node.inputs if not self._tensors[name].constant]
        return all(map(self._is_eight_bit, moving)) and self._has_integer_weight(node)

    def _is_eight_bit(self, name: str) -> bool:
        maker = self._maker.get(name)
        if maker is None or maker.type != _DQ:
            return False
        return self._tensors[maker.inputs[0]].dtype in EIGHT_BIT

    def _has_integer_weight(self, node: _Raw) -> bool:
        mac = _MACS.get(node.type)
        if mac is None or not self._tensors[node.slots[mac.weight]].constant:
            return True
        weight = node.slots[mac.weight]
        return self._tensors[self._origins.get(weight, weight)].dtype in EIGHT_BIT

    def _ends_quantized(self, name: str, made_by: _Raw) -> bool:
        readers = self._readers.get(name, [])
        if name in self._outputs or len(readers) != 1:
            return False
        reader = readers[0]
        if reader.type in _PASSED:
            return self._ends_quantized(reader.outputs[0], reader)
        return reader.type == _Q and (
            made_by.type not in _PASSED or self._is_done_by(made_by, reader)
        )

    def _is_done_by(self, node: _Raw, quantize: _Raw) -> bool:
        """Whether an activation is done by the range that Q cuts its values to."""
        stored = self._tensors[quantize.outputs[0]]
        low, high = _LOWEST.get(stored.dtype), _HIGHEST.get(stored.dtype)
        if node.type not in _PASSED or stored.scale is None or low is None or high is None:
            return False
        point = stored.zero_point or 0
        if node.type == "Relu":
            return point == low
        floor, ceiling = self._bounds(node)
        slack = 1e-5 * (high - low) * stored.scale  # a scale is the range, rounded
        return (
            floor <= (low - point) * stored.scale + slack
            and (high - point) * stored.scale <= ceiling + slack
        )

    def _bounds(self, node: _Raw) -> tuple[float, float]:
        """Return what a Clip cuts to: given by its inputs, in old files by attributes."""
        given = [self._scalars.get(slot) if slot else None for slot in node.slots[1:3]]
        low, high = [*given, None, None][:2]
        return (
            float(node.attributes.get("min", -math.inf)) if low is None else low,
            float(node.attributes.get("max", math.inf)) if high is None else high,
        )


def _to_node(
    raw: _Raw,
    names: Mapping[str, str],
    tensors: Mapping[str, TensorInfo],
    origins: Mapping[str, str],
    scales: Mapping[str, int],
) -> Node:
    """Count one operation on the tensors that really exist."""
    node = Node(
        raw.type,
        tuple(_final(name, names) for name in raw.inputs),
        tuple(_final(name, names) for name in raw.outputs),
        name=raw.name,
    )
    mac = _MACS.get(raw.type)
    if mac is None:
        return node
    data, weight = raw.slots[0], raw.slots[mac.weight]
    shapes = [tensors[name].shape for name in (data, weight, raw.outputs[0])]
    stored = tensors[origins.get(weight, _final(weight, names))].dtype
    kind = arithmetic(tensors[_final(data, names)].dtype, stored, unpacked=weight in origins)
    if raw.type.endswith("Integer"):
        kind = "dynamic"  # its activations were made integer on the fly
    if mac.scale is not None:
        count = _count_scales(raw, mac.scale, tensors)
    else:
        count = scales.get(weight, 1)
    return replace(
        node,
        macs=mac.count(shapes[0], shapes[1], shapes[2], raw.attributes),
        depthwise="Conv" in raw.type and _is_depthwise(shapes, raw.attributes),
        arithmetic=kind,
        scales=count if stored in EIGHT_BIT else 0,
    )


def _final(name: str, names: Mapping[str, str]) -> str:
    while name in names:
        name = names[name]
    return name


def _is_depthwise(shapes: list[_Shape], attributes: Mapping[str, Any]) -> bool:
    return bool(attributes.get("group", 1) == shapes[0][1] == shapes[1][0] > 1)


def _count_scales(raw: _Raw, scale: int, tensors: Mapping[str, TensorInfo]) -> int:
    """Count the scales of the weight of an integer kernel, told by one of its inputs."""
    given = scale < len(raw.slots) and raw.slots[scale]
    return math.prod(tensors[raw.slots[scale]].shape) if given else 1


def _weight_scales(nodes: list[_Raw], tensors: Mapping[str, TensorInfo]) -> dict[str, int]:
    """Return how many scales each tensor made by DQ has, and what is made of it alone."""
    found: dict[str, int] = {}
    for node in nodes:
        if node.type == _DQ:
            found[node.outputs[0]] = _count_scales(node, 1, tensors)
        elif len(node.inputs) == 1 and node.inputs[0] in found:
            found.update(dict.fromkeys(node.outputs, found[node.inputs[0]]))
    return found


def _conv(_x: _Shape, weight: _Shape, out: _Shape, _: Mapping[str, Any]) -> int:
    return math.prod(out) * math.prod(weight[1:])  # [out, in / groups, kh, kw]


def _transposed(x: _Shape, weight: _Shape, _out: _Shape, _: Mapping[str, Any]) -> int:
    return math.prod(x) * math.prod(weight[1:])  # [in, out / groups, kh, kw]


def _gemm(x: _Shape, _weight: _Shape, out: _Shape, attributes: Mapping[str, Any]) -> int:
    return math.prod(out) * x[0 if attributes.get("transA", 0) else 1]


def _product(x: _Shape, _weight: _Shape, out: _Shape, _: Mapping[str, Any]) -> int:
    return math.prod(out) * x[-1]


@dataclass(frozen=True)
class _Mac:
    """Where a multiplying operator has its operands, and how many products it makes.

    ``scale`` is the slot that tells how many scales an integer kernel's weight has; where
    it is absent the weight comes through DQ, which tells.
    """

    count: Callable[[_Shape, _Shape, _Shape, Mapping[str, Any]], int]
    weight: int = 1
    scale: int | None = None


_MACS: Mapping[str, _Mac] = {
    "Conv": _Mac(_conv),
    "ConvInteger": _Mac(_conv, scale=3),
    "QLinearConv": _Mac(_conv, weight=3, scale=4),
    "ConvTranspose": _Mac(_transposed),
    "Gemm": _Mac(_gemm),
    "MatMul": _Mac(_product),
    "MatMulInteger": _Mac(_product, scale=3),
    "QLinearMatMul": _Mac(_product, weight=3, scale=4),
}
