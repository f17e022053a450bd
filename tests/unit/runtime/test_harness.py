import base64
import json
import statistics
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_files import onnx_file, tflite_file

from pipeline.runtime import harness
from pipeline.runtime.bench import measure
from pipeline.runtime.harness import Settings, answers, profile, seeded_inputs
from pipeline.runtime.sessions import open_session
from pipeline.runtime.tensors import EngineError

QUICK = Settings(warmup_runs=2, warmup_s=0, runs=100, seconds=0, repeats=3, operators=False)


@pytest.fixture(params=["onnx", "tflite"])
def path(request, tmp_path):
    make = {"onnx": onnx_file, "tflite": tflite_file}[request.param]
    return make(tmp_path / f"a.{request.param}")


def test_a_whole_measurement_says_everything(path):
    events = []
    found = profile(path, QUICK, events.append)
    assert found["complete"] is True
    assert found["refused"] is None
    assert found["file"]["bytes"] == path.stat().st_size
    assert found["timing"]["n"] == 300
    assert [window["n"] for window in found["windows"]] == [100] * 3
    assert found["load"]["cold_ms"] > 0
    assert found["load"]["warm_ms"] > 0
    assert found["first_ms"] > 0
    assert found["memory"]["peak_bytes"] >= found["memory"]["steady_bytes"] > 1e6
    assert found["conditions"]["before"]["cores"]
    assert [event["state"] for event in events] == ["begin", "end"] * 3
    json.dumps(found)


def heavy(path):
    """A file that takes long enough for the clock not to count."""
    weights = numpy_helper.from_array(np.ones((32, 32, 3, 3), np.float32), "w")
    value = helper.make_tensor_value_info
    shape = [1, 32, 48, 48]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], "heavy",
        [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, shape)],
        [weights],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), str(path))
    return path


def independent(path, runs_each=1):
    """Ten lines that time a file with nothing of ours; return a function of one window."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    feed = {"x": np.random.default_rng(0).normal(size=(1, 32, 48, 48)).astype(np.float32)}

    def window():
        taken = []
        for _ in range(20):
            begin = time.monotonic_ns()
            for _ in range(runs_each):
                session.run(None, feed)
            taken.append((time.monotonic_ns() - begin) * 1e-6)
        return statistics.median(taken)

    return window


@pytest.mark.parametrize(("runs_each", "agrees"), [(1, True), (2, False)])
def test_the_time_is_that_of_an_independent_timer(tmp_path, runs_each, agrees):
    """Windows in turns, as a ratio, so that what else the machine does counts for both."""
    path = heavy(tmp_path / "a.onnx")
    session, theirs = open_session(path), independent(path, runs_each)
    session.set(seeded_inputs(session, 0)[0])
    ratios = []
    for _ in range(15):
        ours = measure(session.invoke, warmup_runs=3, warmup_s=0, runs=20).median_ms
        ratios.append(ours / theirs())
    assert (statistics.median(ratios) == pytest.approx(1, rel=0.05)) == agrees


def test_windows_that_disagree_are_unstable():
    def window(ms):
        return {"n": 2, "median_ms": ms, "samples_ms": [ms, ms]}

    assert harness._summary([window(1.0), window(1.049)])["repeats"]["stable"] is True
    assert harness._summary([window(1.0), window(1.051)])["repeats"]["stable"] is False
    assert harness._summary([window(1.0)])["repeats"]["stable"] is None


def test_many_samples_are_thinned_and_counted_all():
    window = {"n": 2500, "median_ms": 1.0, "samples_ms": [1.0] * 2500}
    found = harness._summary([window])
    assert found["timing"]["n"] == 2500
    assert len(found["windows"][0]["samples_ms"]) == 834


def test_emulated_time_is_refused_and_the_answers_are_there(path, monkeypatch):
    monkeypatch.setattr(harness, "emulation", lambda: "user-mode emulation by qemu-arm")
    found = profile(path, QUICK, lambda _event: pytest.fail("timed"))
    assert found["refused"].startswith("user-mode emulation by qemu-arm. Emulated time")
    assert "timing" not in found
    assert "load" not in found
    assert found["complete"] is True
    assert found["outputs"]["tensors"][0]["base64"]


def test_inputs_are_the_same_every_time_and_of_the_seed(path):
    session = open_session(path)
    first, again, other = (seeded_inputs(session, seed) for seed in (0, 0, 1))
    assert len(first) == harness.AGREEMENT_INPUTS
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0][0], other[0][0])
    assert not np.array_equal(first[0][0], first[1][0])


def test_inputs_are_frozen_for_good(tmp_path):
    """What another version of numpy draws on a board has to be what is drawn here."""
    (values,) = seeded_inputs(open_session(tflite_file(tmp_path / "a.tflite")), 0)[0]
    assert values.ravel().tolist() == [44, -81, -11, 64, -61, 123, 67, -25]


def test_answers_are_those_of_each_input(tmp_path):
    session = open_session(onnx_file(tmp_path / "a.onnx"))
    feeds = seeded_inputs(session, 3)
    (tensor,) = answers(session, feeds)["tensors"]
    content = np.frombuffer(base64.b64decode(tensor["base64"]), tensor["dtype"])
    wanted = np.stack([feed[0].mean(axis=(2, 3)) for feed in feeds])
    assert np.allclose(content.reshape(tensor["shape"]), wanted, atol=1e-6)


def test_files_with_several_inputs_and_outputs_are_measured(tmp_path):
    path = onnx_file(tmp_path / "a.onnx", inputs=2, outputs=3, batch="n")
    found = profile(path, QUICK, lambda _event: None)
    assert len(found["outputs"]["tensors"]) == 3
    assert found["timing"]["n"] == 300
    assert "one image in" in found["around"]["why"]


def test_numbers_that_are_no_settings_are_refused():
    assert Settings.of('{"threads": 2}').threads == 2
    with pytest.raises(EngineError, match="unknown settings: thread"):
        Settings.of('{"thread": 2}')
    with pytest.raises(EngineError, match="not a JSON object"):
        Settings.of("threads")


def program(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "pipeline.runtime", "bench", *arguments],
        capture_output=True, text=True, check=False, timeout=120, **options,
    )  # fmt: skip


def test_the_program_ends_with_its_result(path):
    done = program(str(path), "--settings", '{"seconds": 0, "repeats": 1, "warmup_s": 0}')
    *events, last = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0
    assert {event["event"] for event in events} == {"window"}
    assert last["event"] == "result"
    assert last["result"]["complete"] is True


@pytest.mark.parametrize(
    ("name", "told"), [("none.onnx", "no file at"), ("a.h5", "no engine for '.h5'")]
)
def test_the_program_says_what_is_wrong_in_one_sentence(tmp_path, name, told):
    done = program(str(tmp_path / name))
    (event,) = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 2
    assert event["event"] == "error"
    assert told in event["message"]
    assert done.stderr == ""


def test_the_program_ends_with_whoever_started_it(path):
    line = [sys.executable, "-m", "pipeline.runtime", "bench", "--lifeline", str(path)]
    line += ["--settings", '{"seconds": 600, "most_s": 600, "warmup_s": 0}']
    child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline()  # it is at work
    child.stdin.close()
    assert child.wait(timeout=20) == 1
    child.stdout.close()


def test_without_an_engine_the_room_still_answers(tmp_path):
    code = (
        "import sys; sys.modules['numpy'] = None; from pipeline.runtime.__main__ import main; "
        "sys.exit(main(['bench', 'a.onnx']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "numpy is not installed" in json.loads(done.stdout)["message"]
