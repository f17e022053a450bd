"""Model files of a few bytes that both engines run, with any number of tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper
from tiny_tflite import dense


def onnx_file(path: Path, *, inputs: int = 1, outputs: int = 1, batch: int | str = 1) -> Path:
    """Write a file that adds its images and takes as many means of them as outputs."""
    names = [f"x{number}" for number in range(inputs)]
    shape = [batch, 3, 8, 8]
    nodes = [helper.make_node("Sum", names, ["sum"], name="sum")]
    nodes += [
        helper.make_node(
            "ReduceMean", ["sum", "axes"], [f"y{number}"], keepdims=0, name=f"mean{number}"
        )
        for number in range(outputs)
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [
            helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, [batch, 3])
            for number in range(outputs)
        ],
        [numpy_helper.from_array(np.int64([2, 3]), "axes")],
    )
    imports = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), str(path))
    return path


def tflite_file(path: Path, *, integer: bool = True) -> Path:
    """Write a file of one dense layer."""
    path.write_bytes(dense(schema, integer=integer))
    return path
