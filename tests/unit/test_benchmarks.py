"""The comparisons: equal conditions, lines that are found again, honest tables."""

from __future__ import annotations

import argparse
import doctest
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core.budget import Budget
from pipeline.core.recipe import Recipe
from pipeline.methods import create

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_hostile_bodies_are_what_they_are_called(tmp_path: Path) -> None:
    from tiny_classifier import classifier_file

    from pipeline.runtime.classifier import Classifier
    from pipeline.runtime.images import ImageError

    serving = script("serving")
    classifier = Classifier(classifier_file(tmp_path / "a.onnx"), most_pixels=16_000_000)
    bodies = serving.hostile(classifier, *serving.pictures())
    assert sum(len(some) for some in bodies.values()) == 190
    for kind in ("fuzzed JPEG", "fuzzed PNG", "truncated", "huge dimensions", "500 scans"):
        for body, _ in bodies[kind]:
            with pytest.raises(ImageError):
                classifier.decode(body)
    assert classifier.decode(serving.pictures()[1]).shape == (8, 8, 3)


@pytest.fixture(scope="module")
def methods() -> ModuleType:
    return script("methods")


@pytest.fixture(scope="module")
def compaction() -> ModuleType:
    return script("compaction")


def row(method: str, accuracy: float, seed: int = 0, weights: float = 0.1) -> dict[str, str]:
    return {
        "network": "resnet8", "method": method, "weights": str(weights), "seed": str(seed),
        "epochs": "12", "accuracy": str(accuracy), "kept": "0.1", "effective": "0.09",
        "test_images": "10000",
    }  # fmt: skip


@pytest.mark.parametrize("size", ["cpu", "gpu"])
def test_every_method_gets_the_same_number_of_epochs_in_all(methods: ModuleType, size: str):
    for cell in methods.SIZES[size].cells:
        recipe: Recipe = cell.recipe({"name": "digits"})
        phases = create(recipe.method, recipe.budget, (3, 32, 32)).phases(recipe.train.epochs)
        assert sum(phase.epochs for phase in phases) == cell.epochs, cell


def test_no_cell_is_run_twice(methods: ModuleType):
    for size in methods.SIZES.values():
        names = [(c.network, c.label, c.weights, c.seed) for c in size.cells]
        assert len(names) == len(set(names))


def test_a_line_is_found_again_wherever_the_images_are_and_not_for_another_recipe(
    methods: ModuleType,
):
    one, other = methods.SIZES["cpu"].cells[:2]
    here, there = {"name": "image-folder:here"}, {"name": "image-folder:there"}
    assert methods.fingerprint(one, here) == methods.fingerprint(one, there)
    assert methods.fingerprint(one, here) != methods.fingerprint(other, here)
    assert methods.fingerprint(one, here) != methods.fingerprint(one, {**here, "per_class": 5})


def test_a_line_is_not_found_where_a_default_of_the_method_has_changed(
    methods: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    cell = methods.Cell("resnet8", "reparam", 0.1, 0, 12, {"name": "reparam"})
    before = methods.fingerprint(cell, {"name": "digits"})
    explicit = methods.Cell("resnet8", "reparam", 0.1, 0, 12, {"name": "reparam", "n": 6})
    changed = create(explicit.recipe({"name": "digits"}).method, Budget(weights=0.1))
    monkeypatch.setattr(methods, "create", lambda *args: changed)
    assert methods.fingerprint(cell, {"name": "digits"}) != before


def test_a_teacher_is_the_dense_network_of_the_same_seed(methods: ModuleType):
    taught = [cell for cell in methods.SIZES["cpu"].cells if cell.teacher]
    assert taught
    for cell in taught:
        assert cell.teacher in methods.SIZES["cpu"].cells
        recipe = cell.recipe({"name": "digits"}, Path("runs"))
        assert recipe.train.teacher == f"runs/{cell.teacher.folder}/1-train/model.safetensors"


def test_the_table_gives_mean_spread_and_number(methods: ModuleType):
    rows = [row("reparam", 0.6), row("reparam", 0.62, 1), row("gradual", 0.5)]
    text = methods.table(rows, "cpu")
    assert "| reparam | 61.0 ± 1.4 (2) |" in text
    assert "| gradual | 50.0 (1) |" in text
    assert "12 epochs in all" in text


def test_lines_that_are_written_are_read_again(methods: ModuleType, tmp_path: Path):
    full = [dict.fromkeys(methods.FIELDS, "1"), dict.fromkeys(methods.FIELDS, "0")]
    methods.write(tmp_path / "a.csv", full)
    assert methods.read(tmp_path / "a.csv") == full[::-1]
    assert methods.read(tmp_path / "none.csv") == []


def compaction_row(tool: str = "this project", **changes: Any) -> dict[str, Any]:
    return {
        "network": "resnet18", "image": "64", "pruning": "50 % of the filters", "tool": tool,
        "version": "1.0", "protocol": "1", "verdict": "exact", "difference": "3e-07",
        "error": "", "parameters_before": "1000", "parameters": "440",
        "macs_before": "2000", "macs": "1000", "bytes_before": "4000", "bytes": "1800",
        "moves_before": "", "moves": "", "ms_before": "2.0", "ms": "1.0", "seconds": "0.3",
        "widths": "20", "uneven": "15", "grouped": "0", "uneven_grouped": "0", "note": "",
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "said"),
    [(0.0, "exact"), (1e-5, "exact"), (1.1e-5, "WRONG"), (float("nan"), "WRONG")],
)
def test_an_output_that_differs_is_wrong(compaction: ModuleType, difference: float, said: str):
    assert compaction.verdict(difference) == said


def test_wrong_outputs_and_crashes_are_marked_in_the_table(compaction: ModuleType):
    rows = [
        compaction_row(),
        compaction_row("torch-simplify", verdict="WRONG", difference="0.36"),
        compaction_row("Torch-Pruning", verdict="crash", error="IndexError: a | b"),
    ]
    text = compaction.table(rows, [])
    assert "| resnet18 | this project | exact (3e-07) | 44.0% | 50.0% | 45.0% |" in text
    assert "| resnet18 | torch-simplify | **WRONG** (0.36) |" in text
    assert "| crash: `IndexError: a / b` |  |  |  |" in text
    assert "| torch-simplify | 1 | 0 | 1 | 0 |" in text
    assert "Time by depth" not in text


def test_outputs_of_another_width_are_wrong(compaction: ModuleType):
    found = compaction.compare(nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1), 5)
    assert found["verdict"] == "WRONG"
    assert compaction.outcome(found) == "**WRONG** (outputs [2, 2, 5, 5])"


def test_a_row_that_is_not_faster_says_what_may_be_why(compaction: ModuleType):
    assert compaction.remark(compaction_row()) == ""
    slower = compaction_row(ms="2.5", grouped="17", uneven_grouped="12")
    assert compaction.remark(slower).endswith("12 of 17 grouped and 15 of 20 dense layers")
    assert compaction.remark(compaction_row(ms="", ms_before="", note="no file")) == "no file"


def test_nodes_that_the_pruned_network_had_are_not_counted(compaction: ModuleType):
    row = compaction_row(moves_before="Gather 13", moves="Gather 13, ScatterElements 36")
    assert compaction.new_moves(row) == "ScatterElements 36"
    assert compaction.new_moves(compaction_row()) == ""


def test_macs_are_counted_through_layers_that_scatter(compaction: ModuleType):
    class Scattering(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([super().forward(x)] * 2, 1)

    model = nn.Sequential(Scattering(3, 4, 1, bias=False), nn.Conv2d(8, 2, 1, bias=False))
    assert compaction.size_of(model, torch.zeros(1, 3, 5, 5)) == (28, 28 * 25)


def test_filters_are_zeroed_with_or_without_what_follows_them(compaction: ModuleType):
    def network() -> nn.Module:
        layers = (
            nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, groups=16),
            nn.BatchNorm2d(16), nn.Conv2d(16, 5, 1),
        )  # fmt: skip
        model = nn.Sequential(*layers)
        compaction.settle(model, seed=0)
        return model

    kept, everything = network(), network()
    compaction.zero_filters(kept, 0.5, seed=1, everything=False)
    compaction.zero_filters(everything, 0.5, seed=1, everything=True)
    assert 0 < len(compaction.dead_filters(kept[0])) < 16
    assert bool(kept[0].bias.all())
    assert bool(kept[1].bias.all())
    dead = compaction.dead_filters(everything[0])
    assert dead == compaction.dead_filters(everything[2])
    for layer in list(everything)[:4]:
        assert not layer.bias[dead].any()
    assert not compaction.dead_filters(everything[4])


def test_pruned_weights_leave_dead_filters_and_the_rate(compaction: ModuleType):
    model = nn.Sequential(nn.Conv2d(4, 64, 3), nn.Conv2d(64, 5, 1))
    compaction.zero_weights(model, 0.9, seed=0)
    zeros = [float((layer.weight == 0).float().mean()) for layer in model]
    assert zeros == pytest.approx([0.9, 0.9], abs=0.01)
    assert compaction.dead_filters(model[0])


def test_lines_of_the_past_are_not_shown(compaction: ModuleType):
    size = compaction.SIZES["small"]
    now, past = compaction_row(), compaction_row("torch-simplify", protocol="0")
    assert compaction.ordered([past, now], size) == [now]


def test_no_compaction_is_measured_twice(compaction: ModuleType):
    for size in compaction.SIZES.values():
        assert len({cell.key for cell in size.cells}) == len(size.cells)


def test_a_finished_line_is_not_measured_again(
    compaction: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compaction, "tool_version", lambda tool: "1.0")
    measured: list[str] = []

    def attempt(cell: Any, size: Any) -> dict[str, Any]:
        measured.append(cell.tool)
        return {"verdict": "crash", "error": "longer than 1 s"}

    monkeypatch.setattr(compaction, "attempt", attempt)
    options = argparse.Namespace(
        size="small", tools=list(compaction.TOOLS), only=["mobilenet_v2"]
    )
    compaction.work(options, tmp_path / "a.csv")
    assert measured == list(compaction.TOOLS)
    compaction.work(options, tmp_path / "a.csv")
    assert measured == list(compaction.TOOLS)


def test_this_project_is_measured_from_pruning_to_file(
    compaction: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1)).eval()
    compaction.zero_filters(model, 0.5, seed=0, everything=False)
    monkeypatch.setattr(compaction, "pruned", lambda network, pruning: model)
    cell = compaction.Cell("tiny", 16, compaction.FILTERS, compaction.OURS)
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        row = compaction.measure(cell, tmp_path, 0.0)
    torch.set_num_threads(threads)
    assert row["verdict"] == "exact", row
    assert row["parameters"] < row["parameters_before"]
    assert row["bytes"] < row["bytes_before"]
    assert row["moves"] == ""
    monkeypatch.setitem(compaction.TOOLS, compaction.OURS, lambda model, image: 1 / 0)
    with warnings.catch_warnings():
        row = compaction.measure(cell, tmp_path, 0.0)
    torch.set_num_threads(threads)
    assert (
        compaction.outcome(row) == "crash: `compacting: ZeroDivisionError: division by zero`"
    )


def test_time_that_grows_with_the_layers_has_the_power_one(compaction: ModuleType):
    rows = [
        {"depth": d, "layers": d, "seconds": d / 100, "version": "1", "torch": "2"}
        for d in (8, 20, 110)
    ]
    text = "\n".join(compaction.scaling_table(rows))
    assert "to the power of 1.00, and of 1.00 from 20 layers on." in text
    assert "| 110 | 110 | 1.100 | 10.00 |" in text


def test_examples_in_the_comparison_of_compactors_are_true(compaction: ModuleType):
    assert doctest.testmod(compaction).failed == 0
