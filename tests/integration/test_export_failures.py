"""Converters that are missing, crash, hang or are cut off, as a user of a run sees them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import Result
from export_runs import (
    CRASHES,
    asked,
    at_start,
    copied,
    entries,
    go_on,
    hidden,
    is_alive,
    names,
    needs,
    states,
    write_target,
)
from fast_run import ROOT, arguments, pare, run_fast

from pipeline.core.errors import PareError
from pipeline.core.rundir import read_json

BOTH = {"litert": CRASHES, "onnx2tf": CRASHES}


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_fast(tmp_path_factory.mktemp("compacted") / "run").path


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A device for TFLite, one for ONNX, one for either."""
    folder = tmp_path_factory.mktemp("devices")
    return {
        "phone": write_target(folder, "phone", ["tflite"], ["fp32"]),
        "server": write_target(folder, "server", ["onnx"], ["fp32"]),
        "board": write_target(folder, "board", ["tflite", "onnx"], ["fp32"]),
    }


class Ended(NamedTuple):
    """A whole run of the command line, and its folder."""

    result: Result
    folder: Path


@pytest.fixture(scope="module")
def without_onnx2tf(
    compacted: Path, devices: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Ended:
    """A run for two devices on a machine where one TFLite converter is not installed."""
    place = tmp_path_factory.mktemp("without")
    folder = copied(compacted, place / "run")
    chosen = asked([devices["phone"], devices["server"]])
    with pytest.MonkeyPatch.context() as patch:
        hide = at_start(place / "start", onnx2tf=hidden("onnx2tf"))
        patch.setenv("PYTHONPATH", str(hide))
        return Ended(pare(*arguments("run", folder, *chosen)), folder)


@needs("litert")
def test_a_missing_converter_is_a_warning_and_the_other_file_is_offered(
    without_onnx2tf: Ended,
) -> None:
    result, folder = without_onnx2tf
    assert result.exit_code == 0, result.output
    entry = entries(folder)["model.float32.tflite"]
    assert (entry["state"], entry["exporter"]) == ("made", "tflite_litert")
    assert states(entry) == {"tflite_litert": "made", "tflite_onnx2tf": "refused"}
    (refused,) = (one for one in entry["candidates"] if one["state"] == "refused")
    assert "import of onnx2tf halted" in refused["why"]
    assert "onnx2tf is refused" in entry["elected"]
    (target,) = (t for t in read_json(folder / "report.json")["targets"] if t["id"] == "phone")
    assert target["chosen"] == "model.float32.tflite"
    assert (folder / "5-export" / "model.float32.tflite").is_file()


@needs("litert")
def test_the_warning_of_a_missing_converter_can_be_copied_into_a_shell(
    without_onnx2tf: Ended,
) -> None:
    """Square brackets mean colours to the terminal; what a converter said is no markup."""
    (line,) = (
        line for line in without_onnx2tf.result.output.splitlines() if "warning" in line
    )
    assert "model.float32.tflite: tflite_onnx2tf refused" in line
    assert 'pip install "pare[onnx2tf]"' in line
    assert "The file is tflite_litert's" in line


@needs("litert")
def test_the_log_of_a_converter_that_made_nothing_is_kept(without_onnx2tf: Ended) -> None:
    rooms = without_onnx2tf.folder / "5-export" / "candidates"
    log = rooms / "tflite_onnx2tf" / "logs" / "onnx2tf_worker.log"
    assert "onnx2tf" in log.read_text(encoding="utf-8")
    assert (rooms / "tflite_litert" / "logs" / "litert_worker.log").is_file()
    assert names(rooms / "tflite_onnx2tf") == {"logs/onnx2tf_worker.log"}


@needs("onnx2tf")
def test_a_crashing_converter_is_a_warning_and_the_other_file_is_offered(
    compacted: Path, devices: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(compacted, tmp_path / "run")
    monkeypatch.setenv("PYTHONPATH", str(at_start(tmp_path / "start", litert=CRASHES)))
    _, warnings = go_on(folder, [devices["phone"]])
    entry = entries(folder)["model.float32.tflite"]
    assert (entry["state"], entry["exporter"]) == ("made", "tflite_onnx2tf")
    assert states(entry) == {"tflite_litert": "refused", "tflite_onnx2tf": "made"}
    (warning,) = warnings
    assert "tflite_litert refused: the converter ended with code -11: stack smashed" in warning
    log = folder / "5-export" / "candidates" / "tflite_litert" / "logs" / "litert_worker.log"
    assert "stack smashed" in log.read_text(encoding="utf-8")


def test_without_any_tflite_a_device_that_takes_nothing_else_ends_the_run(
    compacted: Path, devices: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(compacted, tmp_path / "run")
    monkeypatch.setenv("PYTHONPATH", str(at_start(tmp_path / "start", **BOTH)))
    result = pare(*arguments("run", folder, *asked([devices["phone"]])))
    assert result.exit_code == 3
    (error,) = (line for line in result.output.splitlines() if line.startswith("error: "))
    assert "litert: the converter ended with code -11: stack smashed" in error
    assert "onnx2tf: the converter ended with code -11: stack smashed" in error
    assert not (folder / "5-export").exists()
    logs = folder.glob("5-export.partial/candidates/*/logs/*_worker.log")
    assert sorted(log.name for log in logs) == ["litert_worker.log", "onnx2tf_worker.log"]


def test_without_any_tflite_a_device_that_takes_onnx_too_gets_that(
    compacted: Path, devices: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(compacted, tmp_path / "run")
    monkeypatch.setenv("PYTHONPATH", str(at_start(tmp_path / "start", **BOTH)))
    result = pare(*arguments("run", folder, *asked([devices["board"]])))
    assert result.exit_code == 0, result.output
    assert "warning: model.float32.tflite: refused." in result.output
    assert "stack smashed" in result.output
    found = entries(folder)
    assert found["model.float32.tflite"]["state"] == "refused"
    assert set(states(found["model.float32.tflite"]).values()) == {"refused"}
    report = read_json(folder / "report.json")
    assert report["targets"][0]["chosen"] == "model.float32.onnx"
    assert not list((folder / "5-export").rglob("*.tflite*"))
    # What is refused stays so: nothing is tried again.
    assert go_on(folder, [devices["board"]], until=None)[0].executed == []


def test_a_device_without_its_file_is_code_3_though_another_has_one(
    compacted: Path, devices: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(compacted, tmp_path / "run")
    monkeypatch.setenv("PYTHONPATH", str(at_start(tmp_path / "start", **BOTH)))
    chosen = asked([devices["phone"], devices["server"]])
    exported = pare(*arguments("export", folder, *chosen))
    assert exported.exit_code == 3
    (error,) = (text for text in exported.output.splitlines() if text.startswith("error: "))
    assert error.startswith("error: phone: ")
    assert "model.float32.tflite refused: litert: the converter ended" in error
    assert "stack smashed" in error
    assert (folder / "5-export" / "model.float32.onnx").is_file()
    result = pare(*arguments("run", folder, *chosen))
    assert result.exit_code == 3
    assert "error: phone: no file fits" in result.output
    targets = {one["id"]: one for one in read_json(folder / "report.json")["targets"]}
    assert targets["server"]["chosen"] == "model.float32.onnx"
    assert targets["phone"]["chosen"] is None


HANGS = """
import os, subprocess, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(100)"])
open({pids!r}, "a").write(f"{{os.getpid()}} {{child.pid}} ")
open("model.float32.tflite.part", "w").write("half")
print("still thinking", flush=True)
time.sleep(100)
"""


def test_a_hanging_converter_ends_in_time_and_leaves_only_its_log(
    compacted: Path, devices: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(compacted, tmp_path / "run")
    hangs = HANGS.format(pids=str(tmp_path / "pids"))
    start = at_start(tmp_path / "start", litert=hangs, onnx2tf=hangs)
    monkeypatch.setenv("PYTHONPATH", str(start))
    began = time.monotonic()
    _, warnings = go_on(folder, [devices["board"]], "export.converter_timeout_s=3.0")
    assert time.monotonic() - began < 45
    entry = entries(folder)["model.float32.tflite"]
    for one in entry["candidates"]:
        assert one["state"] == "refused"
        assert "stopped after 3 s. Raise export.converter_timeout_s" in one["why"]
    assert any("Raise export.converter_timeout_s" in text for text in warnings)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 4
    deadline = time.monotonic() + 5
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, pids))
    left = folder / "5-export" / "candidates"
    for key, worker in (("tflite_litert", "litert"), ("tflite_onnx2tf", "onnx2tf")):
        assert names(left / key) == {f"logs/{worker}_worker.log"}
        log = left / key / "logs" / f"{worker}_worker.log"
        assert "still thinking" in log.read_text(encoding="utf-8")
    found = [p.name for p in folder.rglob("*")]
    assert not [n for n in found if n.endswith((".part", ".partial")) or "scratch" in n]


LINGERS = """
import os, time, types

def linger(*_, **__):
    open({pid!r}, "w").write(str(os.getpid()))
    while not os.path.exists({enough!r}):
        time.sleep(0.05)
    raise SystemExit("it was told to end")

for name in ("litert_torch", "ai_edge_quantizer"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["litert_torch"].convert = linger
"""


class Killed(NamedTuple):
    """A run whose process was killed while a converter worked."""

    folder: Path
    left: set[str]
    worker: int


@pytest.fixture(scope="module")
def killed(
    compacted: Path, devices: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Killed]:
    place = tmp_path_factory.mktemp("killed")
    folder = copied(compacted, place / "run")
    pid, enough = place / "pid", place / "enough"
    start = at_start(place / "s", litert=LINGERS.format(pid=str(pid), enough=str(enough)))
    chosen = asked([devices["phone"], devices["server"]])
    run = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *arguments("run", folder, *chosen)],
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(start)])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        while not (pid.is_file() and pid.read_text()):
            assert run.poll() is None, "it ended before a converter was started"
            assert time.monotonic() < deadline, "no converter was started"
            time.sleep(0.05)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    yield Killed(folder, names(folder), int(pid.read_text()))
    enough.touch()


def test_a_killed_run_left_no_file_that_looks_finished(killed: Killed) -> None:
    finished = {name for name in killed.left if name.split("/")[0] == "5-export"}
    assert not finished
    assert not [n for n in killed.left if n.endswith(("files.json", ".tflite", ".html"))]


def test_a_converter_ends_with_the_run_that_started_it(killed: Killed) -> None:
    """It may be one that would never have ended by itself."""
    deadline = time.monotonic() + 10
    while is_alive(killed.worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(killed.worker)


@needs("litert")
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(
    killed: Killed,
    without_onnx2tf: Ended,
    devices: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide = at_start(tmp_path / "start", onnx2tf=hidden("onnx2tf"))
    monkeypatch.setenv("PYTHONPATH", str(hide))
    folder = copied(killed.folder, tmp_path / "run")
    run, _ = go_on(folder, [devices["phone"], devices["server"]], until=None)
    assert run.executed == ["export", "profile"]
    assert names(folder) == names(without_onnx2tf.folder)
    for name in ("model.float32.onnx", "model.float32.tflite"):
        made, unbroken = (f / "5-export" / name for f in (folder, without_onnx2tf.folder))
        assert made.read_bytes() == unbroken.read_bytes()


def test_an_exporter_that_is_asked_for_is_used_however_it_is_written(
    compacted: Path, devices: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are taken with hyphens too, as everywhere in a recipe."""
    folder = copied(compacted, tmp_path / "run")
    monkeypatch.setenv("PYTHONPATH", str(at_start(tmp_path / "start", **BOTH)))
    go_on(folder, [devices["board"]], "export.exporters=['onnx', 'tflite-litert']")
    assert states(entries(folder)["model.float32.tflite"]) == {"tflite_litert": "refused"}


def test_an_accuracy_limit_without_an_exporter_that_can_mix_is_no_crash(
    compacted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the exporter that could is not asked for."""
    device = write_target(tmp_path, "chip", ["tflite", "onnx"], ["int8"])
    folder = copied(compacted, tmp_path / "run")
    monkeypatch.setenv("PYTHONPATH", str(at_start(tmp_path / "start", **BOTH)))
    options = ("export.exporters=['onnx', 'tflite_onnx2tf']", "quantize.max_accuracy_drop=99")
    go_on(folder, [device], *options)
    found = entries(folder)
    assert found["model.int8.onnx"]["state"] == "made"
    assert found["model.int8.tflite"]["state"] == "refused"
    text = (folder / "5-export" / "mixed-precision.txt").read_text(encoding="utf-8")
    assert "model.int8.tflite" in text


def test_what_no_format_can_carry_is_said(compacted: Path, tmp_path: Path) -> None:
    """A scheme that was asked for by name does not go missing without a word."""
    device = write_target(tmp_path, "server", ["onnx"], ["fp32"])
    folder = copied(compacted, tmp_path / "run")
    try:
        _, warnings = go_on(folder, [device], "quantize.schemes=['int4']")
    except PareError as refusal:
        warnings = [str(refusal)]
    assert any("int4" in text for text in warnings)
