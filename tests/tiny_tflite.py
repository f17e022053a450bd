"""TFLite files of one dense layer that LiteRT runs, made without a converter."""

from __future__ import annotations

from typing import Any

import numpy as np

CLASSES = 3
FEATURES = 8


def dense(
    schema: Any, *, integer: bool = False, weights: Any = None, entry: str = ""
) -> bytes:
    """Return a file: x [1, 8] times weights [3, 8], float32 or full int8.

    ``entry`` is the name of a metadata entry with 4 bytes of content.
    """
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [0], [3]
    kind, width = ("INT8", np.int8) if integer else ("FLOAT32", np.float32)
    if weights is None:
        weights = np.arange(CLASSES * FEATURES).reshape(CLASSES, FEATURES) % 7 - 3
    bias = np.zeros(CLASSES, np.int32 if integer else np.float32)

    def tensor(name: str, shape: list[int], type_: str, data: Any, scale: float) -> None:
        made, buffer = schema.TensorT(), schema.BufferT()
        made.name, made.shape, made.buffer = name, shape, len(model.buffers)
        made.type = getattr(schema.TensorType, type_)
        if data is not None:
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        if integer:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [0]
        model.buffers.append(buffer)
        graph.tensors.append(made)

    tensor("x", [1, FEATURES], kind, None, 0.5)
    tensor("w", [CLASSES, FEATURES], kind, weights.astype(width), 0.1)
    tensor("b", [CLASSES], "INT32" if integer else kind, bias, 0.05)
    tensor("y", [1, CLASSES], kind, None, 0.25)
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4 if integer else 1
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    model.operatorCodes, graph.operators = [code], [operator]
    if entry:
        told, content = schema.MetadataT(), schema.BufferT()
        content.data = np.frombuffer(b"told", np.uint8)
        told.name, told.buffer = entry, len(model.buffers)
        model.buffers.append(content)
        model.metadata = [told]
    return packed(model)


def packed(model: Any) -> bytes:
    """Return a model of the schema's object API as a file."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
