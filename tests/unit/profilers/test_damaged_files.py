"""Files that are damaged, empty or unusual end in a sentence, never in a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.errors import PareError
from pipeline.profilers.audit import audit
from pipeline.profilers.file_graph import read
from pipeline.runtime.engines import open_model
from pipeline.runtime.metadata import read_metadata
from pipeline.runtime.tensors import EngineError


def ends(shape_in, shape_out):
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", shape_in), ("y", shape_out))
    ]


def conv_in_a_function() -> onnx.ModelProto:
    """A float convolution inside a function of the file's own, called once."""
    weight = numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")
    inside = helper.make_node("Conv", ["a", "b"], ["c"])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    function = helper.make_function("mine", "Hidden", ["a", "b"], ["c"], [inside], opsets[:1])
    call = helper.make_node("Hidden", ["x", "w"], ["y"], domain="mine")
    before, after = ends([1, 1, 5, 5], [1, 2, 3, 3])
    graph = helper.make_graph([call], "g", [before], [after], [weight])
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)


def test_what_a_function_computes_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "hidden.onnx"
    onnx.save(conv_in_a_function(), path)
    found = audit(read(path), "int8")
    assert (found.macs, found.int8_macs) == (2 * 9 * 9, 0)
    assert not found.honest


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.onnx", b""),
        ("noise.onnx", bytes(range(256))),
        ("empty.tflite", b""),
        ("zeros.tflite", b"\x08\0\0\0TFL3" + b"\0" * 100),
        ("noise.tflite", b"\x40\0\0\0TFL3" + bytes(range(256)) * 4),
    ],
)
def test_what_is_no_model_is_told(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PareError, match=name):
        read(path)


@pytest.mark.parametrize("seed", range(30))
def test_a_file_with_one_wrong_byte_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    content = bytearray(conv_in_a_function().SerializeToString())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, len(content), 3):
        content[place] ^= int(rng.integers(1, 256))
    path = tmp_path / "spoiled.onnx"
    path.write_bytes(content)
    told = _read_or_told(path)
    assert told is None or "spoiled.onnx" in told


def _read_or_told(path: Path) -> str | None:
    """Return what a refusal says; anything but a refusal is raised."""
    try:
        read(path)
    except PareError as error:
        return str(error)
    return None


def with_facts(path: Path, facts: dict[str, str]) -> Path:
    model = conv_in_a_function()
    helper.set_model_props(model, facts)
    onnx.save(model, path)
    return path


def test_facts_that_are_nested_deeply_stay_text(tmp_path: Path) -> None:
    deep = "[" * 400 + "]" * 400
    path = with_facts(tmp_path / "deep.onnx", {"classes": deep, "mean": "[0.5]"})
    facts = read_metadata(path)
    assert facts["classes"] == deep
    assert facts["mean"] == [0.5]
    json.dumps(facts)


def test_a_step_that_is_no_number_is_told(tmp_path: Path) -> None:
    path = with_facts(tmp_path / "step.onnx", {"output_step": "abc"})
    with pytest.raises(EngineError, match="cannot load it"):
        open_model(path)
