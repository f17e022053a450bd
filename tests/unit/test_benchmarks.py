"""The comparison of methods: equal epochs, lines that are found again, an honest table."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.core.budget import Budget
from pipeline.core.recipe import Recipe
from pipeline.methods import create

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def methods() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "methods", ROOT / "benchmarks" / "methods.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["methods"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


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
