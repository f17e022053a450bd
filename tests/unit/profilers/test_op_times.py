import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.errors import PareError
from pipeline.profilers import measurement, op_times
from pipeline.profilers.op_times import OpTimes
from pipeline.runtime.operators import _medians


@pytest.fixture(autouse=True)
def _real_processor(monkeypatch):
    monkeypatch.setattr(measurement, "emulation", lambda: None)


def save(path, nodes, weights, shape, out):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    imports = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), str(path))
    return path


def convolution(path, quantized=False, batch=1):
    """A convolution, between quantize and dequantize or not, then a reduction."""
    weights = {"w": np.ones((8, 4, 3, 3), np.float32), "axes": np.int64([2, 3])}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv")]
    if quantized:
        weights["w"] = weights["w"].astype(np.uint8)
        weights |= {"s": np.float32(0.1), "z": np.uint8(0)}
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
            helper.make_node("Conv", ["d", "wd"], ["f"], name="conv"),
            helper.make_node("QuantizeLinear", ["f", "s", "z"], ["fq"]),
            helper.make_node("DequantizeLinear", ["fq", "s", "z"], ["c"]),
        ]
    nodes.append(helper.make_node("ReduceMean", ["c", "axes"], ["y"], name="mean"))
    return save(path, nodes, weights, [batch, 4, 32, 32], [batch, 8, 1, 1])


def test_every_kernel_is_timed_the_slowest_first(tmp_path):
    found = op_times.op_times(convolution(tmp_path / "a.onnx"), runs=5, warmup=1)
    assert {op.kernel for op in found.ops} >= {"Conv", "ReduceMean"}
    times = [op.median_ms for op in found.ops]
    assert times == sorted(times, reverse=True)
    assert sum(times) == pytest.approx(found.total_ms)
    assert sum(op.share for op in found.ops) == pytest.approx(1)
    assert (found.runs, found.threads, found.why) == (5, 1, "")
    assert "cpu" in found.conditions


@pytest.mark.parametrize("quantized", [True, False])
def test_the_kernel_that_really_ran_is_named(tmp_path, quantized):
    path = convolution(tmp_path / "a.onnx", quantized)
    kernels = op_times.op_times(path, runs=2).kernels()
    assert ("QLinearConv" in kernels) is quantized
    assert kernels["ReduceMean"] == 1


def test_a_kernel_called_twice_is_summed():
    ops = [
        op_times.OpTime(name=name, kernel=kernel, median_ms=ms, share=0.25)
        for name, kernel, ms in (("a", "Conv", 3.0), ("b", "Add", 4.0), ("c", "Conv", 2.0))
    ]
    found = OpTimes(ops=tuple(ops), total_ms=9.0)
    assert found.kernels() == {"Conv": 2, "Add": 1}
    assert found.by_kernel() == {"Conv": 5.0, "Add": 4.0}


def test_the_median_is_of_the_timed_runs_alone():
    def event(ms, index="0"):
        args = {"op_name": "Conv", "node_index": index}
        return {"name": "c_kernel_time", "dur": ms * 1000, "args": args}

    events = [event(900), event(1), event(2), event(9), event(5, "1")]
    found = _medians(events, runs=3)
    assert found == [("c", "Conv", pytest.approx(2)), ("c", "Conv", pytest.approx(5))]


def test_an_open_batch_is_run_as_one(tmp_path):
    found = op_times.op_times(convolution(tmp_path / "a.onnx", batch="n"), runs=1, warmup=0)
    assert found.ops


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    op_times.op_times(convolution(tmp_path / "a.onnx"), runs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_without_a_timer_the_reason_is_told(tmp_path):
    found = op_times.op_times(tmp_path / "a.tflite")
    assert found.ops == ()
    assert "no timer for single operators" in found.why


def test_emulated_time_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(measurement, "emulation", lambda: "user-mode emulation by qemu-arm")
    with pytest.raises(PareError, match="not measured here: user-mode emulation"):
        op_times.op_times(convolution(tmp_path / "a.onnx"))


@pytest.mark.parametrize("options", [{"runs": 0}, {"warmup": -1}])
def test_nothing_to_time_is_refused(tmp_path, options):
    with pytest.raises(PareError, match="at least one run"):
        op_times.op_times(convolution(tmp_path / "a.onnx"), **options)


def test_a_file_the_runtime_refuses_is_the_users_problem(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(PareError, match=r"a\.onnx: onnxruntime cannot load it"):
        op_times.op_times(tmp_path / "a.onnx")


def test_times_travel_as_json(tmp_path):
    found = op_times.op_times(convolution(tmp_path / "a.onnx"), runs=1)
    assert OpTimes.model_validate(json.loads(found.model_dump_json())) == found
