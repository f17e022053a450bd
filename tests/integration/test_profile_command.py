"""`pare profile` on files and on runs: what it prints, keeps and refuses."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest
from fast_run import arguments, pare, start_pare
from tiny_files import onnx_file, tflite_file

from pipeline.core.rundir import read_json

QUICK = ("--seconds", "0", "--repeats", "2", "--threads", "1")
TARGET = """
schema = "edge-target/1"
id = "{name}"
name = "This machine"
class = "pc"
[platform]
os = "linux"
[constraints]
basis = "assumed"
source = "test"
formats = ["onnx", "tflite"]
dtypes = ["fp32", "int8"]
[[runtimes]]
name = "onnxruntime"
threads = [1]
default_threads = 1
[budgets]
basis = "assumed"
source = "test"
latency_p90_ms = {latency}
[profile]
warmup_min_s = 0
cooldown_s = 0
min_s = 0
"""


def target(folder, latency=1000.0, name="this-machine"):
    path = folder / f"{name}.toml"
    path.write_text(TARGET.format(latency=latency, name=name))
    return str(path)


# --- a file -------------------------------------------------------------------------------


def test_without_a_machine_there_is_no_measured_time(tmp_path):
    path = tflite_file(tmp_path / "a.tflite")
    done = pare("profile", str(path), "--target", "raspberry-pi-4b")
    assert done.exit_code == 0, done.output
    assert "measured   no: give --on to measure" in done.output
    assert "predicted" in done.output


def test_a_measured_time_is_the_targets_where_nothing_speaks_against_it(tmp_path):
    path, out = onnx_file(tmp_path / "a.onnx"), tmp_path / "p.json"
    line = ("profile", str(path), "--target", target(tmp_path), "--on", "local", *QUICK)
    done = pare(*line, "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "(measured, n=200) on this device, p90:" in done.output
    found = json.loads(out.read_text())
    assert found["verdict"]["candidate"]["measured"]["conditions"]["statistic"] == "p90"
    assert json.loads(pare(*line, "--json").output.partition("{")[2].join(("{", "")))[
        "measured"
    ]


def test_a_time_of_this_machine_is_never_a_raspberry_pis(tmp_path):
    path = tflite_file(tmp_path / "a.tflite")
    done = pare("profile", str(path), "--target", "raspberry-pi-4b", "--on", "local", *QUICK)
    assert done.exit_code == 0, done.output
    assert "not a figure of raspberry-pi-4b: it is amd64" in done.output
    assert "latency: predicted" in done.output


def test_a_broken_limit_is_exit_code_three(tmp_path):
    path = onnx_file(tmp_path / "a.onnx")
    own = target(tmp_path, latency=1e-6)
    done = pare("profile", str(path), "--target", own, "--on", "local", *QUICK)
    assert done.exit_code == 3
    assert "this-machine: a.onnx does not fit (latency" in done.stderr
    assert "DOES NOT FIT" in done.output


@pytest.mark.parametrize(
    ("make", "options", "told"),
    [
        (lambda p: None, (), "no file at"),
        (lambda p: p.write_bytes(b"nothing"), (), "is not a readable ONNX file"),
        (lambda p: p.write_bytes(b""), (), "holds no graph. Export it again"),
        (onnx_file, ("--on", "telnet://x"), "--on 'telnet://x' names no machine"),
        (onnx_file, ("--on", "ssh"), "EDGE_PI_HOST"),
        (onnx_file, ("--on", "container:linux/arm64"), "needs --image"),
        (onnx_file, ("--out", "/nowhere/p.json", "--on", "local"), "can't be written"),
        (onnx_file, ("--runs", "200"), "--runs: for measuring only. Add --on"),
        (onnx_file, ("--on", "local", "--benchmark-model", __file__), "is for another"),
        (onnx_file, ("--out", "p.json", "--target", "stm32h7"), "--out keeps one profile"),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence(tmp_path, monkeypatch, make, options, told):
    monkeypatch.delenv("EDGE_PI_HOST", raising=False)
    path = tmp_path / "a.onnx"
    make(path)
    done = pare("profile", str(path), "--target", "raspberry-pi-4b", *options)
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert "Traceback" not in done.output


def test_a_file_needs_a_target(tmp_path):
    done = pare("profile", str(onnx_file(tmp_path / "a.onnx")))
    assert done.exit_code == 2
    assert "for which device is" in done.stderr


# --- a run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run for this machine."""
    folder = tmp_path_factory.mktemp("made")
    out = folder / "run"
    own = target(folder)
    both = ("--target", own, "--target", target(folder, name="another"))
    # One repeat: of several that disagree nothing would be kept.
    done = pare(*arguments("run", out, "profile.repeats=1"), *both, "--quiet")
    assert done.exit_code == 0, done.output
    return out, own


def test_a_device_decides_its_verdict_and_nothing_is_timed_again(made, tmp_path):
    out, own = made
    out = shutil.copytree(out, tmp_path / "run")
    before = {path.name: path.stat().st_mtime_ns for path in (out / "timings").iterdir()}
    row, other = read_json(out / "report.json")["targets"]
    assert {file["measured"] for file in row["files"]} == {None}

    done = pare("profile", str(out), "--target", own, "--on", "local", *QUICK)
    assert done.exit_code == 0, done.output
    row, unchanged = read_json(out / "report.json")["targets"]
    taken = [f for f in row["files"] if f["measured"]]
    assert {f["measured"]["basis"] for f in taken} == {"measured"}
    assert row["chosen"] in {f["file"] for f in taken}
    (latency,) = [c for c in taken[0]["checks"] if c["name"] == "latency"]
    assert "measured" in latency["why"]
    assert unchanged == other  # a time of this machine says nothing of the other target
    after = {path.name: path.stat().st_mtime_ns for path in (out / "timings").iterdir()}
    assert after == before


def test_one_machine_is_one_target(made):
    out, own = made
    line = ("profile", str(out), "--on", "local", *QUICK)
    done = pare(*line, "--target", own, "--target", "raspberry-pi-4b")
    assert done.exit_code == 2
    assert "is one machine, and the targets are" in done.stderr
    done = pare(*line)
    assert done.exit_code == 2
    assert "is one machine, and the targets are" in done.stderr
    done = pare(*line, "--target", "generic-x86")
    assert done.exit_code == 2
    assert "makes no files for generic-x86, only for this-machine, another" in done.stderr


def test_a_folder_that_is_no_run_is_told(tmp_path):
    done = pare("profile", str(tmp_path), "--on", "local", "--target", "generic-x86")
    assert done.exit_code == 2
    assert "is not the folder of a run" in done.stderr


def test_a_profile_that_was_harmed_is_told(made, tmp_path):
    out, _ = made
    out = shutil.copytree(out, tmp_path / "run")
    (out / "profiles" / "this-machine").mkdir(parents=True)
    (out / "profiles" / "this-machine" / "model.float32.onnx.json").write_text('{"sch')
    done = pare("profile", str(out))
    assert done.exit_code == 2
    assert "model.float32.onnx.json is no readable profile" in done.stderr


def test_killed_while_it_measures_nothing_looks_whole(made, tmp_path):
    """SIGKILL in the stage: what was measured is kept, and the stage is not there."""
    out, own = made
    out = shutil.copytree(out, tmp_path / "run")
    shutil.rmtree(out / "timings")
    line = arguments(
        "profile", out, "profile.seconds=0.4", "profile.threads=[1,2,3,4]", "profile.repeats=1"
    )
    both = ("--target", own, "--target", own.replace("this-machine", "another"))
    started = start_pare(*line, *both, "--quiet", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list((out / "timings").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    kept = {path: path.stat().st_mtime_ns for path in (out / "timings").glob("*.json")}
    assert 1 <= len(kept) < 8
    assert all(read_json(path)["complete"] for path in kept)
    stale = read_json(out / "6-profile" / "stage.json")["provenance"]["parameters"]
    assert stale["profile"]["threads"] == [1, 2]  # still the earlier result, whole

    done = pare(*line, *both, "--quiet")
    assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_options_that_would_be_lost_are_refused(made):
    out, own = made
    for option in (("--fresh",), ("--set", "seed=1"), ("--out", "x"), ("--json",)):
        done = pare("profile", str(out), "--target", own, "--on", "local", *option)
        assert done.exit_code == 2
        assert "don't go with --on RUN" in done.stderr


def test_a_run_that_is_busy_is_not_measured(made):
    from pipeline.core.rundir import RunDir

    out, own = made
    with RunDir(out).lock():
        done = pare("profile", str(out), "--target", own, "--on", "local", *QUICK)
    assert done.exit_code == 2
    assert "repeat" not in done.stderr
    assert not (out / "profiles").exists()


def test_what_no_engine_of_ours_runs_on_is_not_measured(tmp_path):
    path = tflite_file(tmp_path / "a.tflite")
    done = pare("profile", str(path), "--target", "smart-camera-imx500", "--on", "local")
    assert done.exit_code == 2
    assert "no engine of ours runs on smart-camera-imx500" in done.stderr


def test_an_ending_in_capitals_is_told(tmp_path):
    path = onnx_file(tmp_path / "NET.ONNX")
    done = pare("profile", str(path), "--target", "raspberry-pi-4b")
    assert done.exit_code == 2
    assert "Rename it to end in .onnx" in done.stderr


def test_a_prediction_says_what_it_rests_on(tmp_path):
    done = pare(
        "profile", str(tflite_file(tmp_path / "a.tflite")), "--target", "raspberry-pi-4b"
    )
    assert "from google/XNNPACK README" in done.output
    assert "extrapolated: outside the sizes" in done.output
