"""The main job end to end: a recipe becomes proved files for three devices."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from pathlib import Path

import pytest

from pipeline import Recipe, run
from pipeline.core.errors import OverBudget
from pipeline.core.target import shipped
from pipeline.stages.runner import Run

OVERRIDES: list[str] = []  # the quickstart as it ships: what is tested is what a user gets
# Looked for, never imported: tensorflow and torch in one process crash each other.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="the tflite extra is not installed"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(Recipe.load("quickstart", OVERRIDES), out=tmp_path_factory.mktemp("run"))


def test_every_stage_ran_and_left_its_record(finished: Run) -> None:
    names = ["train", "prune", "compact", "quantize", "export", "profile"]
    assert finished.executed == names
    for number, name in enumerate(names, 1):
        record = json.loads((finished.path / f"{number}-{name}" / "stage.json").read_text())
        assert record["provenance"]["stage"] == name
        assert record["provenance"]["versions"]["torch"]
    assert not list(finished.path.glob("*.partial"))


def test_exactly_the_budget_is_kept_and_the_outputs_are_equal(finished: Run) -> None:
    prune, compact = finished.artifacts["prune"].metrics, finished.artifacts["compact"].metrics
    assert prune["kept_weights"] == prune["weights"] // 10
    assert prune["effective_weights"] <= prune["kept_weights"]
    assert compact["worst_relative_difference"] <= 1e-5
    assert compact["test_accuracy"] == prune["accuracy_after"]
    assert compact["after"]["parameters"] < compact["before"]["parameters"]


def test_every_file_is_there_faithful_and_measured(finished: Run) -> None:
    files = {entry["file"]: entry for entry in finished.report["files"]}
    assert set(files) == {
        "model.float32.onnx", "model.float16.onnx", "model.int8.onnx", "model.float32.tflite",
        "model.float16.tflite", "model.dynamic_range.tflite", "model.int8.tflite",
        "model.int8-per-tensor.tflite",
    }  # fmt: skip
    for name, entry in files.items():
        path = finished.path / "5-export" / name
        assert entry["state"] == "made", entry
        assert path.stat().st_size == entry["bytes"]
        assert json.loads(path.with_name(name + ".json").read_text())["classes"][3] == "3"
        assert entry["gzip_bytes"] < entry["bytes"]
        assert entry["parity"]["top1"]["n"] == 359
        assert [timing["threads"] for timing in entry["latency"]] == [1, 2]
        assert all(timing["median"]["n"] >= 100 for timing in entry["latency"])
        assert all(timing["median"]["basis"] == "measured" for timing in entry["latency"])
    assert files["model.int8.tflite"]["bytes"] < files["model.float32.tflite"]["bytes"] / 2


def test_each_target_has_a_file_that_fits_and_every_loser_a_reason(finished: Run) -> None:
    targets = {entry["id"]: entry for entry in finished.report["targets"]}
    assert set(targets) == set(Recipe.load("quickstart").targets)
    for entry in targets.values():
        assert entry["chosen"]
        others = {row["file"] for row in entry["files"]} - {entry["chosen"]}
        assert set(entry["lost"]) == others
        chosen = next(row for row in entry["files"] if row["file"] == entry["chosen"])
        assert chosen["fits"]
        assert chosen["predicted"]["basis"] == "predicted"
        low, high = chosen["predicted"]["spread"]
        assert low < chosen["predicted"]["value"] < high
    assert targets["smart-camera-imx8mp"]["chosen"] == "model.int8-per-tensor.tflite"


def test_a_second_run_skips_every_stage_at_once(finished: Run) -> None:
    began = time.monotonic()
    again = run(Recipe.load("quickstart", OVERRIDES), out=finished.path)
    assert again.executed == []
    assert again.report == finished.report
    assert time.monotonic() - began < 5


def test_another_target_costs_no_training(finished: Run, tmp_path: Path) -> None:
    """And a target that nothing fits is said so, with limit and figure, after the report."""
    tight = tmp_path / "tight.toml"
    text = shipped()["smart-camera-imx8mp"].read_text(encoding="utf-8")
    tight.write_text(_with_limit(text, "model_mb", 0.01), encoding="utf-8")
    folder = tmp_path / "copy"
    shutil.copytree(finished.path, folder)
    overrides = [*OVERRIDES, f"targets=['{tight}']"]
    with pytest.raises(OverBudget) as refusal:
        run(Recipe.load("quickstart", overrides), out=folder)
    assert refusal.value.exit_code == 3
    assert "no file fits" in str(refusal.value)
    assert "limit 0.01 MB" in str(refusal.value)
    report = json.loads((folder / "report.json").read_text())
    assert report["targets"][0]["chosen"] is None
    keys = {name: artifact.provenance.key for name, artifact in finished.artifacts.items()}
    assert report["keys"]["train"] == keys["train"]
    assert report["keys"]["profile"] != keys["profile"]


def test_a_damaged_file_is_made_again(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished.path, folder)
    plan = folder / "4-quantize" / "plan.json"
    plan.write_text(plan.read_text().replace("float32", "float33", 1))
    again = run(Recipe.load("quickstart", OVERRIDES), out=folder, until="quantize")
    assert again.executed == ["quantize"]
    assert "float33" not in plan.read_text()


def _with_limit(text: str, key: str, value: float) -> str:
    """Replace one limit of a target file."""
    lines = [
        f"{key} = {value}" if line.startswith(f"{key} =") else line
        for line in text.splitlines()
    ]
    assert any(line == f"{key} = {value}" for line in lines), f"no {key} in the target"
    return "\n".join(lines)
