"""Told beside a measured time: whose it is, whether answers agree, energy, operators."""

import sys
import time

import pytest
from tiny_files import onnx_file, tflite_file

from pipeline.core.errors import PareError
from pipeline.core.target import Target
from pipeline.profilers.agreement import agreement, compare
from pipeline.profilers.belonging import stranger
from pipeline.profilers.file_graph import FileGraph, OpInfo, TensorInfo
from pipeline.profilers.operator_table import operator_rows
from pipeline.profilers.power_meter import PowerMeter
from pipeline.runtime.harness import Settings, answers, profile, seeded_inputs
from pipeline.runtime.sessions import open_session

PI = Target.load("raspberry-pi-4b")


# --- whose time it is ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "parts", "why"),
    [
        ("aarch64", ["0xd08"], None),
        ("armv7l", ["0xd08"], None),
        ("aarch64", [], None),
        ("aarch64", ["0x804"], None),  # a part no table knows speaks neither for nor against
        ("aarch64", ["0xd0b"], "its cores are cortex-a76, not cortex-a72"),
        ("x86_64", [], "it is amd64 (An x86), raspberry-pi-4b is arm64"),
    ],
)  # fmt: skip
def test_a_machine_of_another_kind_is_a_stranger(machine, parts, why):
    found = stranger({"machine": machine, "cpu": "An x86", "cpu_parts": parts}, PI)
    assert found == why


# --- agreement ----------------------------------------------------------------------------


@pytest.fixture(params=["onnx", "tflite"])
def path(request, tmp_path):
    make = {"onnx": onnx_file, "tflite": tflite_file}[request.param]
    return make(tmp_path / f"a.{request.param}")


def spoiled(tensor):
    """Answers of which the first number is the smallest step off."""
    import base64

    import numpy as np

    values = np.frombuffer(base64.b64decode(tensor["base64"]), tensor["dtype"]).copy()
    if values.dtype.kind == "f":
        values[0] = np.nextafter(values[0], np.float32(10))
    else:
        values[0] += 1 if values[0] < 100 else -1
    content = values.tobytes()
    return {**tensor, "base64": base64.b64encode(content).decode(), "sha256": "other"}


def test_equal_answers_are_equal_and_the_smallest_step_is_noticed(path):
    session = open_session(path)
    here = answers(session, seeded_inputs(session, 0))
    assert compare(here, here).equal is True
    there = {**here, "tensors": [spoiled(here["tensors"][0])]}
    found = compare(here, there)
    assert found.equal is False
    integer = here["tensors"][0]["dtype"] == "int8"
    assert found.steps == (1 if integer else None)
    assert integer or 0 < found.difference < 1e-6


def test_answers_of_another_file_are_refused(path):
    session = open_session(path)
    here = answers(session, seeded_inputs(session, 0))
    there = {**here, "tensors": [{**here["tensors"][0], "shape": [4, 9]}]}
    with pytest.raises(PareError, match="not the same file"):
        compare(here, there)


def test_a_machine_that_gave_no_answers_is_not_compared(path):
    settings = Settings(warmup_runs=1, warmup_s=0, seconds=0, repeats=1, operators=False)
    found = profile(path, settings, lambda _event: None)
    assert agreement({**found, "outputs": None}, path) is None
    assert agreement(found, path).equal is True


# --- a power meter ------------------------------------------------------------------------

_METER = "import time\nwhile True: print({}, flush=True); time.sleep(0.01)"


def window(meter, n, seconds=0.3, kind="window"):
    meter.tell({"event": kind, "state": "begin"})
    time.sleep(seconds)
    meter.tell({"event": kind, "state": "end", "n": n})


def test_a_meter_gives_the_energy_of_an_inference():
    with PowerMeter([sys.executable, "-c", _METER.format(2.0)]) as meter:
        time.sleep(0.5)  # the program starts
        window(meter, 0, kind="idle")
        for _ in range(3):
            window(meter, 100)
        found = meter.energy()
    assert found.gross_mj == pytest.approx(2.0 * 0.3 / 100 * 1e3, rel=0.2)
    assert found.idle_w == pytest.approx(2.0)
    assert found.net_mj == pytest.approx(0, abs=1e-9)
    assert found.windows == 3
    assert found.method.startswith("power meter: ")


def test_a_meter_that_is_too_slow_is_told():
    with PowerMeter([sys.executable, "-c", "import time; time.sleep(60)"]) as meter:
        window(meter, 10, seconds=0.05)
        with pytest.raises(PareError, match=r"printed 0 numbers in .* at least 3 are needed"):
            meter.energy()


def test_a_meter_that_is_not_there_is_told():
    with (
        pytest.raises(PareError, match=r"no-such-meter can't be started.*meter_command"),
        PowerMeter(["no-such-meter"]),
    ):
        pass


# --- operators ----------------------------------------------------------------------------


def graph():
    ops = (
        OpInfo(type="Conv", inputs=("x",), outputs=("relu",), macs=10_000_000,
               activation_bytes=1000, name="conv", arithmetic="fp32"),
        OpInfo(type="Add", inputs=("relu",), outputs=("y",), activation_bytes=10_000_000,
               name="add", arithmetic="fp32"),
    )  # fmt: skip
    tensors = tuple(
        TensorInfo(name=n, bytes=1000, shape=(250,), dtype="float32", constant=False)
        for n in ("x", "relu", "y")
    )
    return FileGraph(
        format="onnx", tensors=tensors, ops=ops, inputs=("x",), outputs=("y",), dtype="fp32"
    )


def test_kernels_are_joined_with_the_operators_they_came_from():
    kernels = [
        {"name": "add", "kernel": "Add", "median_ms": 1.0},
        {"name": "relu_nchwc", "kernel": "Conv", "median_ms": 3.0},
        {"name": "Reorder_token_3", "kernel": "ReorderOutput", "median_ms": 1.0},
    ]
    rows = operator_rows({"kernels": kernels}, graph(), PI, 4)
    assert [(row.kernel, row.macs, row.bound) for row in rows] == [
        ("Conv", 10_000_000, "compute"), ("Add", 0, "memory"), ("ReorderOutput", None, None),
    ]  # fmt: skip
    assert [row.share for row in rows] == pytest.approx([0.6, 0.2, 0.2])
