"""Files on an emulated 64-bit Arm board: they run, and answer as they do here.

An emulator tells nothing of time, and everything of correctness. The root file system is
made by ``tests/device/rootfs.sh``; ``make test-device`` does both.
"""

from __future__ import annotations

import json
import subprocess

import pytest
from conftest import ROOT, SHARED
from fast_run import pare
from tiny_files import onnx_file, tflite_file

from pipeline.profilers.agreement import agreement
from pipeline.profilers.transports.container import Container
from pipeline.runtime.harness import Settings

BOARD = ROOT / "build" / "rootfs-arm64"
REFERENCE = SHARED / "data" / "mlperf-tiny"
QUICK = Settings(warmup_runs=1, warmup_s=0, runs=100, seconds=0, repeats=1, operators=False)

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(
        not (BOARD / ".whole").is_file(), reason=f"no board at {BOARD}; run `make test-device`"
    ),
]


@pytest.fixture(params=["cortex-a53", "cortex-a72", "cortex-a76"])
def board(request, monkeypatch):
    """The board with each of the Raspberry Pis' cores."""
    monkeypatch.setenv("QEMU_CPU", request.param)
    return Container("container:linux/arm64", image=str(BOARD))


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The files of a small run for a Raspberry Pi: float and integer, both formats."""
    out = tmp_path_factory.mktemp("run") / "run"
    done = pare(
        "export", "quickstart", "--out", str(out), "--target", "raspberry-pi-4b",
        "--set", "train.epochs=3", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return out / "5-export"


def no_event(event):
    pytest.fail(f"something was timed: {event}")


@pytest.mark.parametrize("name", ["model.int8.tflite", "model.int8.onnx"])
def test_integer_files_answer_bit_for_bit(board, files, name):
    found = board.measure(files / name, QUICK, no_event)
    assert found["conditions"]["before"]["machine"] == "aarch64"
    assert agreement(found, files / name).equal is True


@pytest.mark.parametrize("name", ["model.float32.tflite", "model.float32.onnx"])
def test_float_files_answer_within_rounding(board, files, name):
    found = agreement(board.measure(files / name, QUICK, no_event), files / name)
    assert found.difference < 1e-5


def test_answers_of_another_file_are_noticed(board, files):
    """The twin: the answers of one float file are not those of another."""
    found = board.measure(files / "model.float32.tflite", QUICK, no_event)
    assert agreement(found, files / "model.dynamic_range.tflite").difference > 1e-5


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference models are not there")
def test_a_layer_of_one_scale_is_rounded_otherwise_on_arm(board):
    """MLPerf Tiny's resnet8: all is equal up to its dense layer, whose weights have one scale.

    XNNPACK rounds such products otherwise on Arm, by one step of a logit, which softmax
    makes a few steps of a probability. Layers of many scales are equal to the bit.
    """
    path = REFERENCE / "resnet8_int8.tflite"
    assert 0 <= agreement(board.measure(path, QUICK, no_event), path).steps <= 6


def test_its_time_is_refused_and_its_answers_are_told(tmp_path):
    path, out = tflite_file(tmp_path / "a.tflite"), tmp_path / "profile.json"
    done = pare(
        "profile", str(path), "--target", "raspberry-pi-4b", "--on", "container:linux/arm64",
        "--image", str(BOARD), "--out", str(out),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "measured   not on container:linux/arm64: " in done.output
    assert "Emulated time says nothing about a device" in done.output
    assert "equal to the bit" in done.output
    found = json.loads(out.read_text())
    assert found["measured"] is None
    assert found["verdict"]["candidate"]["measured"] is None


def test_emulation_is_seen_where_proc_is_there(tmp_path):
    """With /proc, as a container has it, the emulator gives itself away."""
    mounted = subprocess.run(
        ["mount", "-t", "proc", "proc", str(BOARD / "proc")], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("/proc can't be mounted there")
    try:
        way = Container("container:linux/arm64", image=str(BOARD))
        found = way.measure(tflite_file(tmp_path / "a.tflite"), QUICK, no_event)
    finally:
        subprocess.run(["umount", str(BOARD / "proc")], check=True)
    assert "qemu-aarch64" in found["refused"] or "a program for aarch64" in found["refused"]


def test_nothing_is_left_on_the_board(board, tmp_path):
    before = set((BOARD / "tmp").iterdir())
    board.measure(onnx_file(tmp_path / "a.onnx"), QUICK, no_event)
    assert set((BOARD / "tmp").iterdir()) == before
