"""What is dead on data is listed or removed where asked, apart from what compaction gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from fast_run import run_fast

from pipeline.core.rundir import read_json
from pipeline.stages.runner import Run

#: Little is trained, so that enough channels never fire.
RECIPE = ("method={name='dense'}", "budget.weights=1", "model.width=8", "train.lr=0.3")


def run_with(out: Path, what: str) -> Run:
    return run_fast(out, *RECIPE, f"compact.dead_on_data={what}")


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_with(tmp_path_factory.mktemp("listed") / "run", "list")


def test_a_list_changes_nothing_and_names_the_price(listed: Run) -> None:
    compact = listed.artifacts["compact"].metrics
    paid = compact["paid"]
    channels = read_json(listed.path / "3-compact" / "dead_on_data.json")
    assert channels
    assert paid["channels"] > 0
    assert not paid["removed"]
    assert paid["after"]["parameters"] < compact["after"]["parameters"]
    assert compact["test_accuracy"] == paid["accuracy_before"]
    assert not (listed.path / "3-compact" / "paid.json").exists()


def test_removal_ships_the_smaller_network_and_the_two_savings_stay_apart(
    listed: Run, tmp_path: Path
) -> None:
    run = run_with(tmp_path / "run", "remove")
    compact, before = run.artifacts["compact"].metrics, listed.artifacts["compact"].metrics
    assert compact["after"] == before["after"]  # what is free does not depend on it
    assert compact["paid"]["after"] == before["paid"]["after"]
    assert compact["test_accuracy"] == compact["paid"]["accuracy_after"]
    assert "channels removed" in compact["summary"]
    again = run_fast(
        tmp_path / "run", *RECIPE, "compact.dead_on_data=remove", until="quantize"
    )
    assert again.artifacts["quantize"].metrics["calibration"]["count"] > 0


def test_off_is_the_default() -> None:
    from pipeline.core.recipe import Recipe

    assert Recipe.load("quickstart").compact.dead_on_data == "off"
