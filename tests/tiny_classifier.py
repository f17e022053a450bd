"""Image classifiers of a few bytes: the class is the colour that an image has most of."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from PIL import Image
from tiny_files import onnx_file
from tiny_tflite import packed

from pipeline.exporters.tflite_metadata import embed

SIZE = 8
COLOURS = ["red", "green", "blue"]
FACTS: dict[str, Any] = {
    "input_name": "x",
    "output_name": "y",
    "preprocessing": "(pixel / 255 - mean) / std",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "classes": COLOURS,
    "weights": "float32",
}


def classifier_file(path: Path, **facts: Any) -> Path:
    """Write a file of the format that its ending names; ``None`` removes a fact."""
    told = {key: value for key, value in {**FACTS, **facts}.items() if value is not None}
    if path.suffix == ".onnx":
        model = onnx.load(onnx_file(path))
        values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in told.items()}
        onnx.helper.set_model_props(model, values)
        onnx.save(model, path)
    else:
        path.write_bytes(embed(_means(), {"input_shape": [1, SIZE, SIZE, 3], **told}))
    return path


def coloured(colour: str, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """Return an image ``[h, w, 3]`` that is mostly of one colour."""
    pixels = np.full((*size, 3), 60, np.uint8)
    pixels[..., COLOURS.index(colour)] = 180
    pixels[0, 0] = 0
    return pixels


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image as the bytes of a file."""
    content = BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def _means() -> bytes:
    """Return an int8 TFLite file that takes the mean of each channel."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [0], [2]

    def tensor(name: str, shape: list[int], kind: str, data: Any = None) -> None:
        made, buffer = schema.TensorT(), schema.BufferT()
        made.name, made.shape, made.buffer = name, shape, len(model.buffers)
        made.type = getattr(schema.TensorType, kind)
        if data is None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [1 / 64], [0]
        else:
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        model.buffers.append(buffer)
        graph.tensors.append(made)

    tensor("x", [1, SIZE, SIZE, 3], "INT8")
    tensor("axes", [2], "INT32", np.int32([1, 2]))
    tensor("y", [1, 3], "INT8")
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MEAN
    code.version = 2
    operator.inputs, operator.outputs = [0, 1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.ReducerOptions
    operator.builtinOptions = schema.ReducerOptionsT()
    model.operatorCodes, graph.operators = [code], [operator]
    return packed(model)
