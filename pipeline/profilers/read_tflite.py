"""Read a TFLite file from its flatbuffer; no interpreter, so nothing rewrites the graph."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Mapping
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

_BITS = {
    "float64": 64, "int64": 64, "uint64": 64, "complex64": 64, "complex128": 128,
    "float32": 32, "int32": 32, "uint32": 32, "resource": 32, "variant": 32,
    "float16": 16, "bfloat16": 16, "int16": 16, "uint16": 16,
    "int8": 8, "uint8": 8, "bool": 8, "float8_e4m3fn": 8, "float8_e5m2": 8,
    "int4": 4, "uint4": 4, "int2": 2,
}  # fmt: skip

_Shape = tuple[int, ...]


def read_tflite(path: Path) -> FileGraph:
    """Read a ``.tflite`` file.

    A constant that is only dequantized (half-precision weights) stays a constant: the
    runtime unpacks it once, when it loads the file.

    The batch alone may be left open by the file's shape signature, as converters do: the
    runtime then takes the shape that is stored, one image.

    Raises:
        PareError: not a TFLite file, damaged, sizes left open, or more than one subgraph.
    """
    schema, model = _parse(path)
    if len(model.subgraphs) != 1:
        raise PareError(
            f"{path} holds {len(model.subgraphs)} subgraphs (loops or branches), which can't "
            f"be counted. Export the network without control flow."
        )
    return _Reader(schema, model, path).graph()


def _parse(path: Path) -> tuple[Any, Any]:
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ModuleNotFoundError as error:
        raise PareError(
            f"reading {path.name} needs ai-edge-litert, which is not installed. "
            f"Install it with `pip install 'pare[tflite]'`."
        ) from error
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise PareError(f"{path} is not a TFLite file. Export it again.")
    try:
        return schema, schema.ModelT.InitFromPackedBuf(data, 0)
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise PareError(f"{path} is damaged: {error}. Export it again.") from error


class _Reader:
    """The one subgraph of a parsed model, its tensors by unique names."""

    def __init__(self, schema: Any, model: Any, path: Path) -> None:
        self._model, self._graph, self._path = model, model.subgraphs[0], path
        self._types = _names_of(schema.TensorType)
        self._operators = _names_of(schema.BuiltinOperator)
        self._names = _unique_names(self._graph.tensors)

    def graph(self) -> FileGraph:
        raw = [self._raw_node(operator) for operator in self._graph.operators]
        tensors = {name: self._tensor(index) for index, name in enumerate(self._names)}
        origins = _fold(raw, tensors)
        tensors = {
            name: tensor.model_copy(update={"constant": tensor.constant or name in origins})
            for name, tensor in tensors.items()
        }
        nodes = [
            self._with_macs(node, tensors, origins)
            for node in raw
            if not all(name in origins for name in node.outputs)
        ]
        inputs, outputs = self._named(self._graph.inputs), self._named(self._graph.outputs)
        input_dtypes = tuple(tensors[name].dtype for name in inputs)
        return FileGraph(
            format="tflite",
            tensors=tuple(tensors.values()),
            ops=to_ops(nodes, tensors),
            inputs=inputs,
            outputs=outputs,
            dtype=overall(nodes, input_dtypes),
            int8_granularity=granularity(nodes),
            input_dtypes=input_dtypes,
            output_dtypes=tuple(tensors[name].dtype for name in outputs),
            op_types=tuple(sorted({node.type for node in raw})),
            static_shapes=self._is_static(),
            batch=next(iter(tensors[inputs[0]].shape), 1) if inputs else 1,
            weight_bytes=self._weight_bytes(),
            stored=self._constants(tensors),
        )

    def _named(self, indices: Any) -> tuple[str, ...]:
        return tuple(self._names[i] for i in indices if i >= 0)  # -1: optional, not given

    def _raw_node(self, operator: Any) -> Node:
        code = self._model.operatorCodes[operator.opcodeIndex]
        # Files older than schema 3a keep the operator in the narrow, deprecated field.
        kind = self._operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if kind == "CUSTOM":
            kind = (code.customCode or b"CUSTOM").decode()
        return Node(kind, self._named(operator.inputs), self._named(operator.outputs))

    def _tensor(self, index: int) -> TensorInfo:
        raw = self._graph.tensors[index]
        shape = tuple(int(n) for n in raw.shape) if raw.shape is not None else ()
        dtype = self._types[raw.type].lower()
        if dtype not in _BITS or any(n < 0 for n in shape):
            raise PareError(
                f"{self._path}: tensor {self._names[index]!r} ({dtype}, shape {list(shape)}) "
                f"has no fixed size. Export with fixed shapes."
            )
        return TensorInfo(
            name=self._names[index],
            bytes=size(shape, _BITS[dtype]),
            shape=shape,
            dtype=dtype,
            constant=self._stored(raw.buffer) > 0,
            **_quantization(raw.quantization),
        )

    def _stored(self, buffer: int) -> int:
        """Return the bytes a buffer holds, inline or (in very large files) behind it."""
        raw = self._model.buffers[buffer]
        return len(raw.data) if raw.data is not None else int(raw.size or 0)

    def _weight_bytes(self) -> int:
        return sum(self._stored(b) for b in {tensor.buffer for tensor in self._graph.tensors})

    def _constants(self, tensors: Mapping[str, TensorInfo]) -> tuple[TensorInfo, ...]:
        """Return what the file stores; what several tensors share is there once."""
        first = {tensor.buffer: i for i, tensor in reversed([*enumerate(self._graph.tensors)])}
        return tuple(
            tensors[self._names[index]]
            for buffer, index in sorted(first.items())
            if self._stored(buffer) > 0
        )

    def _is_static(self) -> bool:
        signatures = (tensor.shapeSignature for tensor in self._graph.tensors)
        return all(n >= 0 for s in signatures if s is not None for n in list(s)[1:])

    def _scales(self, name: str) -> int:
        quantization = self._graph.tensors[self._names.index(name)].quantization
        scale = quantization.scale if quantization is not None else None
        return len(scale) if scale is not None else 0

    def _with_macs(
        self, node: Node, tensors: Mapping[str, TensorInfo], origins: Mapping[str, str]
    ) -> Node:
        counted = _MACS.get(node.type)
        if counted is None:
            return node
        data, weight, macs = counted
        source = origins.get(node.inputs[weight], node.inputs[weight])
        stored = tensors[source]
        shapes = [tensors[name].shape for name in node.inputs]
        return Node(
            node.type,
            node.inputs,
            node.outputs,
            macs=macs(shapes[data], shapes[weight], tensors[node.outputs[0]].shape),
            depthwise=node.type == "DEPTHWISE_CONV_2D"
            and shapes[data][-1] == shapes[weight][-1],
            arithmetic=arithmetic(
                tensors[node.inputs[data]].dtype,
                stored.dtype,
                unpacked=source != node.inputs[weight],
            ),
            scales=self._scales(source) if stored.dtype in EIGHT_BIT else 0,
        )


def _fold(nodes: list[Node], tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Return what follows from constants alone, each with the constant it comes from."""
    origins: dict[str, str] = {}
    for node in nodes:
        known = [n for n in node.inputs if tensors[n].constant or n in origins]
        if node.inputs and len(known) == len(node.inputs):
            source = origins.get(known[0], known[0])
            origins.update(dict.fromkeys(node.outputs, source))
    return origins


def _quantization(parameters: Any) -> dict[str, Any]:
    """Return the one scale and zero point of a tensor; many, or blocks, are no such pair."""
    scales = parameters.scale if parameters is not None else None
    if scales is None or len(scales) != 1 or not math.isfinite(scales[0]):
        return {}
    points = parameters.zeroPoint
    point = int(points[0]) if points is not None and len(points) else 0
    return {"scale": float(scales[0]), "zero_point": point}


def _names_of(enumeration: Any) -> dict[int, str]:
    return {v: k for k, v in vars(enumeration).items() if isinstance(v, int)}


def _unique_names(tensors: Any) -> list[str]:
    names = [(tensor.name or b"").decode(errors="replace") for tensor in tensors]
    seen = Counter(names)
    return [
        name if seen[name] == 1 and name else f"{name}#{i}" for i, name in enumerate(names)
    ]


def _conv(_data: _Shape, weight: _Shape, out: _Shape) -> int:
    return math.prod(out) * math.prod(weight[1:])  # [out, kh, kw, in / groups]


def _depthwise(_data: _Shape, weight: _Shape, out: _Shape) -> int:
    return math.prod(out) * math.prod(weight[1:3])  # [1, kh, kw, out]


def _transposed(data: _Shape, weight: _Shape, _out: _Shape) -> int:
    return math.prod(data) // data[-1] * math.prod(weight)  # [out, kh, kw, in]


def _dense(_data: _Shape, weight: _Shape, out: _Shape) -> int:
    return math.prod(out) * weight[-1]  # [out, in]


def _product(data: _Shape, _weight: _Shape, out: _Shape) -> int:
    # Either operand may be transposed: the shared size is the one of the data that is not
    # the number of rows of the result. Square data is the same either way.
    rows = out[-2] if len(out) > 1 else 1
    inner = data[-1] if len(data) < 2 or data[-2] == rows else data[-2]
    return math.prod(out) * inner


# Operator: index of the data, index of the weight, and how they multiply.
_MACS: Mapping[str, tuple[int, int, Callable[[_Shape, _Shape, _Shape], int]]] = {
    "CONV_2D": (0, 1, _conv),
    "DEPTHWISE_CONV_2D": (0, 1, _depthwise),
    "TRANSPOSE_CONV": (2, 1, _transposed),
    "FULLY_CONNECTED": (0, 1, _dense),
    "BATCH_MATMUL": (0, 1, _product),
}
