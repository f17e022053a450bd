"""``pare inspect``: what a user reads of a file, and what a script does."""

import json
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from fast_run import pare
from onnx import TensorProto, helper, numpy_helper
from tiny_tflite import dense

from pipeline.exporters.tflite_metadata import embed
from pipeline.profilers import measurement
from pipeline.profilers.inspection import Inspection, inspect
from pipeline.profilers.op_times import OpTime, OpTimes

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "data" / "mlperf-tiny"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(),
    reason="the MLPerf Tiny reference files are not beside the checkout",
)
FACTS = {
    "input_layout": "NHWC",
    "mean": [0.5],
    "std": [0.25],
    "classes": ["a", "b", "c"],
    "licence": "CC0-1.0",
    "dtype": "int8",
}


@pytest.fixture(autouse=True)
def _real_processor(monkeypatch):
    monkeypatch.setattr(measurement, "emulation", lambda: None)


@pytest.fixture(scope="module")
def schema():
    return pytest.importorskip("ai_edge_litert.schema_py_generated")


def save_onnx(path, *, island=False, props=None):
    """Two 8-bit convolutions between quantize and dequantize, Tanh between them or not."""
    pairs = 0

    def pair(x):
        nonlocal pairs
        pairs += 1
        names = f"q{pairs}", f"d{pairs}"
        nodes.append(helper.make_node("QuantizeLinear", [x, "s", "z"], [names[0]]))
        nodes.append(helper.make_node("DequantizeLinear", [names[0], "s", "z"], [names[1]]))
        return names[1]

    nodes = [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"])]
    nodes.append(helper.make_node("Conv", [pair("x"), "wd"], ["c1"], name="first"))
    x = pair("c1")
    if island:
        nodes.append(helper.make_node("Tanh", [x], ["t"], name="the_tanh"))
        x = pair("t")
    nodes.append(helper.make_node("Conv", [x, "wd"], ["c2"], name="second"))
    last = pair("c2")
    weights = {"w": np.ones((4, 4, 1, 1), np.uint8), "s": np.float32(0.1), "z": np.uint8(7)}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, props or {})
    onnx.save(model, str(path))
    return path


def test_an_integer_file_is_shown_from_all_sides(tmp_path):
    path = save_onnx(tmp_path / "net.int8.onnx", props={"classes": '["a", "b", "c", "d"]'})
    result = pare("inspect", str(path))
    assert result.exit_code == 0, result.stderr
    text = result.output
    assert text.startswith(
        f"net.int8.onnx: onnx, int8 (per-tensor weights), {path.stat().st_size}"
    )
    assert "  classes  [a, b, c, d]" in text
    assert "scale 0.1, zero point 7 (as uint8 inside)" in text
    assert (
        "int8: 2 of 2 that compute (100.0%), 100.0% of MACs; 1 quantize, 1 dequantize" in text
    )
    assert "  int8  2,048 MACs  100.0%" in text
    assert "QLinearConv" in text
    assert "float parts" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_an_island_is_named_and_warned_of(tmp_path):
    result = pare("inspect", str(save_onnx(tmp_path / "net.onnx", island=True)))
    assert result.exit_code == 0
    assert "  inside: 1 operator, 0 MACs: Tanh\n      the_tanh\n" in result.output
    assert "1 float part stands between integer parts" in result.output


def test_json_has_all_of_it(tmp_path):
    path = save_onnx(tmp_path / "net.onnx", island=True)
    result = pare("inspect", str(path), "--json")
    found = json.loads(result.output)
    assert found["audit"]["int8_mac_share"] == 1
    assert found["audit"]["int8_operator_share"] == pytest.approx(2 / 3)
    assert [island["types"] for island in found["audit"]["islands"]] == [["Tanh"]]
    assert found["size"]["plain"] == path.stat().st_size > found["size"]["gzip"]
    assert found["times"]["by_kernel_ms"].keys() >= {"QLinearConv", "Tanh"}
    assert found["metadata"] == {}
    assert "no metadata" in found["warnings"][0]


def test_without_time_nothing_is_run(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("it was run")

    monkeypatch.setattr("pipeline.profilers.inspection.op_times", refuse)
    result = pare("inspect", str(save_onnx(tmp_path / "net.onnx")), "--no-time")
    assert result.exit_code == 0
    assert "by time" not in result.output


@pytest.mark.parametrize("top", [0, 1, 3])
def test_top_bounds_the_single_operators(tmp_path, top):
    result = pare("inspect", str(save_onnx(tmp_path / "n.onnx")), "--top", str(top))
    after = (
        result.output.partition("  the slowest\n")[2]
        or result.output.partition("  one by one\n")[2]
    )
    rows = after.partition("\n\n")[0].splitlines()[1:]
    assert len(rows) == top


def test_emulated_time_is_not_printed_but_all_else_is(tmp_path, monkeypatch):
    monkeypatch.setattr(measurement, "emulation", lambda: "user-mode emulation by qemu-arm")
    result = pare("inspect", str(save_onnx(tmp_path / "net.onnx")))
    assert result.exit_code == 0
    assert "not timed: latency is not measured here: user-mode emulation" in result.output
    assert "100.0% of MACs" in result.output


def test_a_lite_file_shows_what_it_carries(schema, tmp_path):
    path = tmp_path / "net.int8.tflite"
    path.write_bytes(embed(dense(schema, integer=True), FACTS))
    result = pare("inspect", str(path))
    assert result.exit_code == 0, result.stderr
    assert "  licence       CC0-1.0" in result.output
    assert "  classes       [a, b, c]" in result.output
    assert "in   x  int8  1x8  scale 0.5, zero point 0" in result.output
    assert "LiteRT's Python package has no timer" in result.output
    assert "warnings" not in result.output


@pytest.mark.parametrize("as_json", [True, False])
def test_a_file_that_says_int8_and_is_not_ends_with_the_sentence(schema, tmp_path, as_json):
    path = tmp_path / "net.int8.tflite"
    path.write_bytes(dense(schema))
    result = pare("inspect", str(path), *(["--json"] if as_json else []))
    assert result.exit_code == 2
    assert "but is 0 % int8: its products compute in fp32" in result.stderr
    assert "its name is 'net.int8.tflite'" in result.stderr
    shown = json.loads(result.stdout)["audit"]["honest"] if as_json else result.stdout
    assert shown is False or "0.0% of MACs" in shown


def test_the_same_file_under_another_name_is_fine(schema, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(dense(schema))
    assert pare("inspect", str(path)).exit_code == 0


def test_what_the_metadata_says_is_compared_with_what_is(schema, tmp_path):
    path = tmp_path / "net.tflite"
    wrong = {"dtype": "fp16", "input_shape": [1, 9], "classes": ["a", "b"], "mean": [0.5]}
    path.write_bytes(embed(dense(schema), wrong))
    warnings = inspect(path, timed=False).warnings
    assert warnings == (
        "the metadata does not tell the layout of its input.",
        "the metadata has dtype = 'fp16', its products compute in fp32.",
        "the metadata has input_shape = [1, 9], its input is [1, 8].",
        "the metadata has 2 classes, its output 3 numbers.",
    )
    right = {"dtype": "fp32", "input_shape": [None, 8], "classes": ["a", "b", "c"]}
    path.write_bytes(embed(dense(schema), right | {"mean": [0.5], "input_layout": "NC"}))
    assert inspect(path, timed=False).warnings == ()


def test_a_side_car_is_read_and_told(schema, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(dense(schema))
    path.with_name("net.tflite.json").write_text(json.dumps(FACTS | {"dtype": "fp32"}))
    found = inspect(path, timed=False)
    assert found.metadata["licence"] == "CC0-1.0"
    assert found.warnings == (
        "the metadata is in net.tflite.json beside the file, not in it.",
    )


@pytest.mark.parametrize(("kernel", "warned"), [("QLinearConv", False), ("Conv", True)])
def test_products_the_runtime_left_in_float_are_told(tmp_path, monkeypatch, kernel, warned):
    ops = [
        OpTime(name=name, kernel=ran, median_ms=1.0, share=0.5)
        for name, ran in (("first", "QLinearConv"), ("second", kernel))
    ]
    times = OpTimes(ops=tuple(ops), runs=1, total_ms=2.0)
    monkeypatch.setattr("pipeline.profilers.inspection.op_times", lambda *_, **__: times)
    told = "ran 1 of 2 int8 products in float"
    warnings = inspect(save_onnx(tmp_path / "net.onnx")).warnings
    assert any(told in warning for warning in warnings) is warned


@pytest.mark.parametrize("there", [True, False])
def test_zstd_is_told_where_python_has_it(tmp_path, monkeypatch, there):
    module = ModuleType("zstd")
    module.compress = lambda content: content[:10]
    for name in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, module if there else None)
    found = inspect(save_onnx(tmp_path / "net.onnx"), timed=False)
    assert found.size.zstd == (10 if there else None)


def test_damaged_metadata_hides_nothing_else(schema, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(dense(schema))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("pare.json", "[]")
    found = inspect(path, timed=False)
    assert found.audit.macs == 24
    assert len(found.warnings) == 1
    assert "its metadata can't be read" in found.warnings[0]


def test_what_commands_a_terminal_is_not_passed_on(schema, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(embed(dense(schema), {"licence": "\x1b[2J\nfree", "classes": ["a"] * 3}))
    result = pare("inspect", str(path))
    assert "\x1b" not in result.output
    assert "?[2J?free" in result.output


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.h5", b"", "only .onnx and .tflite"),
        ("a.onnx", b"nothing of the kind", "not a readable ONNX file"),
        ("a.tflite", b"nothing of the kind", "not a TFLite file"),
    ],
)
def test_a_file_nobody_reads_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    result = pare("inspect", str(tmp_path / name))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "no file at" in pare("inspect", str(tmp_path / "missing.onnx")).stderr


def test_an_inspection_travels_as_json(tmp_path):
    found = inspect(save_onnx(tmp_path / "net.onnx"))
    assert Inspection.model_validate_json(found.model_dump_json()) == found


@needs_reference
@pytest.mark.parametrize(("name", "share"), [("int8", 1.0), ("float32", 0.0)])
def test_the_published_resnet8_is_what_its_name_says(schema, name, share):
    path = REFERENCE / f"resnet8_{name}.tflite"
    result = pare("inspect", str(path), "--json")
    assert result.exit_code == 0, result.stderr
    audit = json.loads(result.output)["audit"]
    assert (audit["macs"], audit["int8_mac_share"]) == (12_501_632, share)
    assert audit["islands"] == []


@needs_reference
def test_the_published_resnet8_under_a_wrong_name_is_found_out(schema, tmp_path):
    path = tmp_path / "resnet8_int8.tflite"
    shutil.copyfile(REFERENCE / "resnet8_float32.tflite", path)
    assert pare("inspect", str(path), "--no-time").exit_code == 2
