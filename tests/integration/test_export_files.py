"""The files of a run: which are asked for, made, refused or wrong, and what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from export_runs import asked, copied, entries, go_on, needs, write_target
from fast_run import ROOT, arguments, pare, run_fast
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.core.recipe import DataChoice
from pipeline.core.rundir import read_json
from pipeline.data import load
from pipeline.exporters.to_onnx import ToOnnx
from pipeline.runtime.engines import open_model
from pipeline.runtime.metadata import read_metadata

# Runs before anything else in the run and in each of its children.
SPY = """
import os, sys

_LOOKS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")

def spy(event, arguments):
    if event in _LOOKS:
        with open({record!r}, "a") as file:
            file.write(f"{{sys.orig_argv[:4]}} {{event}} {{arguments}}\\n")
        raise OSError("no network here")

sys.addaudithook(spy)
with open({started!r}, "a") as file:
    file.write(" ".join(sys.orig_argv) + "\\n")
"""


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_fast(tmp_path_factory.mktemp("compacted") / "run").path


class Spied(NamedTuple):
    """A run that was watched from its start."""

    run: subprocess.CompletedProcess[str]
    folder: Path
    record: Path
    started: Path


def watched(place: Path, *command: str) -> tuple[subprocess.CompletedProcess[str], Path, Path]:
    """Run Python with a spy that refuses every look beyond the process."""
    record, started = place / "record", place / "started"
    spy = SPY.format(record=str(record), started=str(started))
    (place / "sitecustomize.py").write_text(spy, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *command],
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(place)])},
        capture_output=True,
        text=True,
        timeout=280,
    )
    return done, record, started


@pytest.fixture(scope="module")
def spied(compacted: Path, tmp_path_factory: pytest.TempPathFactory) -> Spied:
    """A run for two devices that want other integers, by both converters, without network."""
    place = tmp_path_factory.mktemp("spied")
    camera = write_target(
        place, "camera", ["tflite"], ["int8"],
        'int8_granularity = ["per-tensor"]', 'io_dtypes = ["int8"]',
    )  # fmt: skip
    phone = write_target(
        place, "phone", ["tflite", "onnx"], ["int8"],
        'int8_granularity = ["per-channel"]', 'io_dtypes = ["float32"]',
    )  # fmt: skip
    folder = copied(compacted, place / "run")
    line = arguments("run", folder, *asked([camera, phone]))
    return Spied(*_spied(place, folder, line))


def _spied(place: Path, folder: Path, line: list[str]) -> tuple[Any, Path, Path, Path]:
    done, record, started = watched(place, "-m", "pipeline.cli", *line)
    return done, folder, record, started


CAMERAS, PHONES = "model.int8-per-tensor.tflite", "model.int8-float32-io.tflite"


@needs("litert", "onnx2tf")
def test_a_run_asks_nothing_of_any_network(spied: Spied) -> None:
    assert spied.run.returncode == 0, spied.run.stdout + spied.run.stderr
    assert not spied.record.exists(), spied.record.read_text()
    started = spied.started.read_text()
    for program in ("pipeline.cli", "litert_worker", "onnx2tf_worker"):
        assert program in started  # each was watched


def test_the_spy_sees_a_look_beyond_the_process(tmp_path: Path) -> None:
    code = "import socket\nsocket.getaddrinfo('127.0.0.1', 9)"
    done, record, _ = watched(tmp_path, "-c", code)
    assert done.returncode != 0
    assert "no network here" in done.stderr
    assert "socket.getaddrinfo" in record.read_text()


@needs("litert", "onnx2tf")
def test_two_devices_that_want_other_integers_get_a_file_each(spied: Spied) -> None:
    found = entries(spied.folder)
    assert set(found) == {CAMERAS, PHONES, "model.int8.onnx"}
    assert {entry["state"] for entry in found.values()} == {"made"}
    for name, grain, border in (
        (CAMERAS, "per-tensor", "int8"),
        (PHONES, "per-channel", "float32"),
        ("model.int8.onnx", "per-channel", "float32"),
    ):
        path = spied.folder / "5-export" / name
        facts, engine = read_metadata(path, beside=False), open_model(path)
        assert (facts["granularity"], facts["input_dtype"]) == (grain, border)
        assert (engine.input.dtype, engine.output.dtype) == (border, border)
    targets = {one["id"]: one for one in read_json(spied.folder / "report.json")["targets"]}
    assert targets["camera"]["chosen"] == CAMERAS
    assert targets["phone"]["chosen"] in (PHONES, "model.int8.onnx")
    assert CAMERAS in targets["phone"]["lost"]


@needs("litert", "onnx2tf")
def test_the_file_that_was_not_elected_is_a_cross_check_in_the_report(spied: Spied) -> None:
    reported = {
        entry["file"]: entry for entry in read_json(spied.folder / "report.json")["files"]
    }
    for name in (CAMERAS, PHONES):
        entry = reported[name]
        both = {one["exporter"]: one for one in entry["candidates"]}
        assert set(both) == {"tflite_litert", "tflite_onnx2tf"}
        for key, one in both.items():
            assert one["state"] == "made", one["why"]
            assert one["parity"]["passed"]
            assert one["parity"]["top1"]["n"] == 359
            assert 0 < one["gzip_bytes"] < one["bytes"]
            assert one["validation_top1"] > 0
            worker = f"{key.removeprefix('tflite_')}_worker.log"
            room = spied.folder / "5-export" / "candidates" / key
            assert (room / "logs" / worker).is_file()
            # The other stays to be looked at, outside of what is offered.
            assert (room / name).is_file() == (key != entry["exporter"])
        elected = both[entry["exporter"]]
        path = spied.folder / "5-export" / name
        assert path.stat().st_size == elected["bytes"] == entry["bytes"]
        assert "litert" in entry["elected"]
        assert "onnx2tf" in entry["elected"]


@needs("litert", "onnx2tf")
def test_no_file_names_a_folder_of_this_machine(spied: Spied) -> None:
    places = [str(spied.folder), str(ROOT), sys.prefix, str(Path.home())]
    for path in (spied.folder / "5-export").rglob("model.*"):
        content = path.read_bytes()
        assert not [text for text in places if len(text) > 4 and text.encode() in content]


@pytest.fixture
def other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter takes another network's weights for its integer file."""
    write = ToOnnx.write

    def mistaken(self, model, plans, signature, calibration, folder, timeout_s):
        right = [plan for plan in plans if plan.scheme != "int8"]
        wrong = [plan for plan in plans if plan.scheme == "int8"]
        rest = (signature, calibration, folder, timeout_s)
        made = dict(write(self, model, right, *rest))
        # For another class each.
        last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
        kept = last.weight.data.clone(), last.bias.data.clone()
        last.weight.data, last.bias.data = kept[0].roll(1, 0), kept[1].roll(1, 0)
        made |= write(self, model, wrong, *rest)
        last.weight.data, last.bias.data = kept
        return made

    monkeypatch.setattr(ToOnnx, "write", mistaken)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("servers")
    return [
        write_target(folder, "any", ["onnx"], ["fp32", "int8"]),
        write_target(folder, "integers", ["onnx"], ["int8"]),
    ]


def test_a_wrong_file_is_kept_aside_and_offered_to_nobody(
    compacted: Path, servers: list[Path], tmp_path: Path, other_weights: None
) -> None:
    folder = copied(compacted, tmp_path / "run")
    result = pare(*arguments("run", folder, *asked(servers)))
    assert result.exit_code == 3
    assert "error: integers: no file fits" in result.output
    wrong = entries(folder)["model.int8.onnx"]
    assert wrong["state"] == "wrong"
    assert "same class as the network on" in wrong["why"]
    assert "limit 90.00%" in wrong["why"]
    (line,) = (line for line in result.output.splitlines() if line.startswith("warning"))
    assert "model.int8.onnx: wrong." in line
    assert "limit 90.00%" in line
    out = folder / "5-export"
    assert (out / "model.int8.onnx.rejected").is_file()
    assert not list(folder.rglob("model.int8.onnx"))
    assert (out / "model.float32.onnx").is_file()
    profiled = read_json(folder / "6-profile" / "profile.json")
    assert [entry["file"] for entry in profiled["files"]] == ["model.float32.onnx"]
    chosen = {target["id"]: target["chosen"] for target in profiled["targets"]}
    assert chosen == {"any": "model.float32.onnx", "integers": None}
    report = {one["file"]: one for one in read_json(folder / "report.json")["files"]}
    assert report["model.int8.onnx"]["state"] == "wrong"


def test_the_same_file_untouched_is_offered(
    compacted: Path, servers: list[Path], tmp_path: Path
) -> None:
    folder = copied(compacted, tmp_path / "run")
    assert pare(*arguments("run", folder, *asked(servers))).exit_code == 0
    assert entries(folder)["model.int8.onnx"]["state"] == "made"
    profiled = read_json(folder / "6-profile" / "profile.json")
    chosen = {target["id"]: target["chosen"] for target in profiled["targets"]}
    assert chosen["integers"] == "model.int8.onnx"
    assert not list(folder.rglob("*.rejected"))


#: A trained network of which one channel dwarfs the others of its layer.
HARD = ("method={ name = 'dense' }", "budget.weights=1.0", "train.lr=1e-12", "train.epochs=1")
PER_TENSOR = 'int8_granularity = ["per-tensor"]'


class Hard(NamedTuple):
    """A compacted run whose network does not survive one scale a weight."""

    folder: Path
    options: tuple[str, ...]
    target: Path


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Hard:
    place = tmp_path_factory.mktemp("hard")
    learnt = run_fast(
        place / "learnt", HARD[0], HARD[1], "train.epochs=12", "model.hidden=16", until="train"
    )
    weights = load_file(learnt.path / "1-train" / "model.safetensors")
    # Behind the first layer's ReLU a channel times s, before the next a channel by s.
    weights["0.weight"][0] *= 2.0**10
    weights["0.bias"][0] *= 2.0**10
    weights["2.weight"][:, 0] /= 2.0**10
    checkpoint = place / "hard.safetensors"
    save_file(weights, checkpoint)
    options = (*HARD, "model.hidden=16", f"model.checkpoint={checkpoint}")
    folder = run_fast(place / "run", *options).path
    target = write_target(place, "server", ["onnx"], ["fp32", "int8"], PER_TENSOR)
    return Hard(folder, options, target)


def validation_top1(path: Path) -> float:
    """Measure a file on the split that chooses, as its user would."""
    data = load(DataChoice(name="digits"))
    images = data.normalise(data.validation.images).numpy()
    found = open_model(path).run(np.ascontiguousarray(images)).argmax(1)
    return float((found == data.validation.labels.numpy()).mean())


def test_the_worst_layers_stay_in_float_until_the_limit_holds(
    hard: Hard, tmp_path: Path
) -> None:
    folder = copied(hard.folder, tmp_path / "run")
    limits = ("quantize.max_accuracy_drop=2.0", "export.min_agreement=0.0")
    run, warnings = go_on(folder, [hard.target], *hard.options, *limits)
    out, found = folder / "5-export", entries(folder)
    plain, mixed = (
        found["model.int8-per-tensor.onnx"],
        found["model.int8-per-tensor-mixed.onnx"],
    )

    assert plain["state"] == "wrong"
    assert plain["why"].endswith("points of top-1 lost, limit 2")
    assert (out / "model.int8-per-tensor.onnx.rejected").is_file()
    assert any("model.int8-per-tensor.onnx: wrong" in text for text in warnings)

    assert mixed["state"] == "made", mixed["why"]
    top1 = validation_top1(out / "model.float32.onnx")
    assert top1 > 0.5  # it learnt something that can be lost
    measured = validation_top1(out / mixed["file"])
    assert measured == pytest.approx(mixed["validation_top1"])
    assert (top1 - measured) * 100 <= 2.0 + 1e-9

    kept = {one["layer"] for one in mixed["kept"]}
    assert kept
    assert "0" in kept
    facts = read_metadata(out / mixed["file"])
    assert set(facts["layers_in_float"]) == kept
    assert facts["variant"] == "per-tensor-mixed"

    text = (out / "mixed-precision.txt").read_text(encoding="utf-8")
    rows = [line.split(maxsplit=2) for line in text.splitlines() if "alone in int8" in line]
    assert {row[0] for row in rows} == {"0", "2", "6", "8", "10"}
    assert {row[0] for row in rows if row[1] == "float32"} == kept
    assert {row[0] for row in rows if row[1] == "int8"} == {"0", "2", "6", "8", "10"} - kept
    assert all(" dB" in row[2] and "of the MACs" in row[2] for row in rows)
    assert "limit 2" in text
    (control,) = run.artifacts["export"].metrics["accuracy_control"]
    assert [one["holds"] for one in control["tries"] if one["in_float"] == len(kept)] == [True]
    assert control["tries"][0]["in_float"] == 0
    assert control["tries"][0]["drop"] > 2


def test_where_the_limit_holds_all_layers_are_integers(hard: Hard, tmp_path: Path) -> None:
    folder = copied(hard.folder, tmp_path / "run")
    limits = ("quantize.max_accuracy_drop=99.0", "export.min_agreement=0.0")
    go_on(folder, [hard.target], *hard.options, *limits)
    found = entries(folder)
    assert set(found) == {"model.float32.onnx", "model.int8-per-tensor.onnx"}
    assert found["model.int8-per-tensor.onnx"]["state"] == "made"
    text = (folder / "5-export" / "mixed-precision.txt").read_text(encoding="utf-8")
    assert "within the limit of 99" in text
    assert " float32 " not in text


def test_equalised_layers_need_no_float(hard: Hard, tmp_path: Path) -> None:
    """One channel a thousand times the others is what equalisation is for."""
    folder = copied(hard.folder, tmp_path / "run")
    options = ("quantize.equalise=true", "quantize.max_accuracy_drop=2.0")
    go_on(folder, [hard.target], *hard.options, *options)
    plan, found = read_json(folder / "4-quantize" / "plan.json"), entries(folder)
    assert plan["equalised"]["worst"] == 0
    assert max(pair["before"] for pair in plan["equalised"]["pairs"]) > 500
    assert found["model.int8-per-tensor.onnx"]["state"] == "made"
    assert "model.int8-per-tensor-mixed.onnx" not in found
    assert found["model.float32.onnx"]["state"] == "made"


def int8_weights(path: Path) -> set[bytes]:
    kind = onnx.TensorProto.INT8
    constants = onnx.load(path).graph.initializer
    return {one.raw_data for one in constants if one.data_type == kind and len(one.dims) > 1}


def test_training_with_rounding_and_shifted_biases_are_measured_on_the_file(
    compacted: Path, servers: list[Path], tmp_path: Path
) -> None:
    folder = copied(compacted, tmp_path / "run")
    options = ("quantize.qat_epochs=1", "quantize.bias_correction=true")
    go_on(folder, servers[1:], *options)
    plan = read_json(folder / "4-quantize" / "plan.json")
    assert plan["qat"]["epochs"] == 1
    assert {"best_epoch", "simulated_before", "simulated_after"} <= set(plan["qat"])
    assert set(plan["corrected"]) == {"per-channel"}
    assert plan["corrected"]["per-channel"]
    assert plan["equalised"] is None
    entry = entries(folder)["model.int8.onnx"]
    assert entry["state"] == "made"
    both = {one["weights"]: one for one in entry["candidates"]}
    assert set(both) == {"trained", "qat"}
    for one in both.values():
        assert one["state"] == "made", one["why"]
        assert 0 < one["validation_top1"] < 1
    # Offered for what was measured of the file; where that is no gain, it is said.
    assert entry["weights"] in both
    gain = both["qat"]["validation_top1"] - both["trained"]["validation_top1"]
    if gain > 0.005:
        assert entry["weights"] == "qat"
    if gain < -0.005:
        assert entry["weights"] == "trained"
    assert "after training with rounding" in entry["elected"]
    rooms = folder / "5-export" / "candidates"
    other = rooms / ("onnx" if entry["weights"] == "qat" else "onnx-qat") / "model.int8.onnx"
    assert int8_weights(other) != int8_weights(folder / "5-export" / "model.int8.onnx")
    assert not list((folder / "4-quantize").glob("*checkpoint*"))


def test_noise_calibrates_only_where_it_is_asked_for(
    compacted: Path, servers: list[Path], tmp_path: Path
) -> None:
    folder = copied(compacted, tmp_path / "run")
    options = ("quantize.calibration_data=random", "export.min_agreement=0.0")
    _, warnings = go_on(folder, servers[1:], *options)
    (warning,) = (text for text in warnings if "random noise" in text)
    assert "quantize.calibration_data" in warning
    record = read_json(folder / "4-quantize" / "plan.json")["calibration"]
    assert (record["split"], record["class_histogram"]) == ("noise", {})
    assert record["count"] == 200
    assert entries(folder)["model.int8.onnx"]["state"] == "made"


def test_calibration_images_are_recorded(
    compacted: Path, servers: list[Path], tmp_path: Path
) -> None:
    folder = copied(compacted, tmp_path / "run")
    options = ("quantize.calibration_images=50", "quantize.calibration_seed=3")
    _, warnings = go_on(folder, servers[1:], *options, until="quantize")
    assert not warnings
    record = read_json(folder / "4-quantize" / "plan.json")["calibration"]
    images = np.load(folder / "4-quantize" / "calibration.npy")
    assert images.shape == (50, 1, 8, 8)
    assert (record["split"], record["count"], record["seed"]) == ("train", 50, 3)
    assert list(record["class_histogram"]) == [str(digit) for digit in range(10)]
    assert sum(record["class_histogram"].values()) == 50
    assert (record["minimum"], record["maximum"]) == (images.min(), images.max())
    assert len(record["sha256"]) == 64
    data = load(DataChoice(name="digits"))
    known = {image.tobytes() for image in data.normalise(data.train.images).numpy()}
    assert all(image.tobytes() in known for image in images)


@pytest.mark.parametrize(
    ("method", "taken"),
    [("percentile", "percentile"), ("entropy", "entropy"), ("mse", "min-max")],
)
def test_how_ranges_are_taken_is_in_the_plan_and_in_the_file(
    compacted: Path, servers: list[Path], tmp_path: Path, method: str, taken: str
) -> None:
    """A file says what was done, not what was asked for."""
    folder = copied(compacted, tmp_path / "run")
    go_on(folder, servers[1:], f"quantize.method={method}")
    plan = read_json(folder / "4-quantize" / "plan.json")
    assert plan["calibration"]["method"] == method
    assert {one["method"] for one in plan["files"]} == {method}
    assert entries(folder)["model.int8.onnx"]["state"] == "made"
    facts = read_metadata(folder / "5-export" / "model.int8.onnx")
    assert facts["calibration"] == taken


def test_a_file_with_its_preprocessing_takes_pixels(
    compacted: Path, servers: list[Path], tmp_path: Path
) -> None:
    folder = copied(compacted, tmp_path / "run")
    go_on(folder, servers, "export.preprocessing=baked")
    data = load(DataChoice(name="digits"))
    pixels = data.test.images.numpy()
    for name, entry in entries(folder).items():
        assert entry["state"] == "made", entry["why"]
        assert entry["parity"]["passed"]
        path = folder / "5-export" / name
        facts, engine = read_metadata(path), open_model(path)
        assert facts["preprocessing"] == "raw uint8"
        assert facts["input_dtype"] == engine.input.dtype == "uint8"
        right = engine.run(pixels.astype(np.float32)).argmax(1) == data.test.labels.numpy()
        assert right.mean() == pytest.approx(entry["parity"]["top1"]["value"])


@needs("litert")
def test_a_tflite_file_with_its_preprocessing_takes_bytes(
    compacted: Path, tmp_path: Path
) -> None:
    phone = write_target(tmp_path, "phone", ["tflite"], ["fp32", "int8"])
    folder = copied(compacted, tmp_path / "run")
    options = ("export.preprocessing=baked", "export.exporters=['tflite_litert']")
    go_on(folder, [phone], *options)
    for name, border in (("int8", "uint8"), ("float32", "float32")):
        (entry,) = (e for e in entries(folder).values() if e["scheme"] == name)
        assert entry["state"] == "made", entry["why"]
        path = folder / "5-export" / entry["file"]
        facts, engine = read_metadata(path, beside=False), open_model(path)
        assert facts["preprocessing"] == "raw uint8"
        assert facts["input_dtype"] == engine.input.dtype == border
        if border == "uint8":  # bytes as a camera gives them, nothing in between
            assert (engine.input.scale, engine.input.zero_point) == (pytest.approx(1), 0)


@pytest.mark.parametrize(
    ("asked_for", "meant"),
    [
        ("quantize.schemes=['int9']", "int8"),
        ("export.exporters=['tflite_litter']", "tflite_litert"),
    ],
)
def test_a_name_nobody_has_is_refused_before_any_training(
    tmp_path: Path, asked_for: str, meant: str
) -> None:
    result = pare(*arguments("run", tmp_path / "run", asked_for))
    assert result.exit_code == 2
    assert "Did you mean" in result.output
    assert meant in result.output
    assert not (tmp_path / "run").exists()


def test_side_cars_are_read_without_any_engine(
    compacted: Path, servers: list[Path], tmp_path: Path
) -> None:
    folder = copied(compacted, tmp_path / "run")
    go_on(folder, servers)
    for name in entries(folder):
        path = folder / "5-export" / name
        beside = json.loads(path.with_name(f"{name}.json").read_text(encoding="utf-8"))
        inside = read_metadata(path, beside=False)
        assert {key: inside[key] for key in beside} == beside
