"""The dense training of an iterative method is computed once for all of its budgets."""

import pytest
from fast_run import FAST, stage_hashes

from pipeline.core.plugins import METHODS
from pipeline.core.recipe import Recipe
from pipeline.core.rundir import read_json
from pipeline.search.board import Quiet
from pipeline.search.folder import SearchDir
from pipeline.search.grid import axes, trials
from pipeline.search.sequential import Sequential
from pipeline.search.sweep import sweep
from pipeline.stages import dense_start
from pipeline.stages.runner import Quiet as Silent
from pipeline.stages.runner import Runner

ITERATIVE = {
    "magnitude": ("method.finetune_epochs=2",),
    "filter_norm": ("method.finetune_epochs=2",),
    "lottery": ("train.epochs=4",),
}


def swept(out, name, *changes):
    overrides = [*FAST, f"method.name={name}", *ITERATIVE[name], *changes]
    wanted = trials("quickstart", axes(["budget.weights=0.6,0.5"]), 1, overrides=overrides)
    wanted = [trial.model_copy(update={"until": "train"}) for trial in wanted]
    ended = sweep(wanted, out, Sequential(threads=1), Quiet())
    assert [one.state for one in ended] == ["finished", "finished"], ended
    return wanted


def test_these_are_all_that_start_densely():
    found = {
        name
        for name in METHODS.plugins()
        if getattr(METHODS.load(name)[0], "starts_dense", False)
    }
    assert found == set(ITERATIVE)


@pytest.mark.parametrize("name", ITERATIVE)
def test_the_second_budget_goes_on_from_the_end_and_ends_as_if_alone(tmp_path, name):
    first, second = swept(tmp_path / "sweep", name)
    folder = SearchDir(tmp_path / "sweep")
    histories = [
        read_json(folder.run(trial.name) / "1-train" / "history.json")
        for trial in (first, second)
    ]
    dense = len([e for e in histories[1] if e["phase"] == histories[1][0]["phase"]])
    for own, taken in zip(*(history[:dense] for history in histories), strict=True):
        assert taken["seconds"] == own["seconds"]  # told again, not done again
        assert taken["accuracy"] == own["accuracy"]
        assert (taken["pruned_accuracy"], own["pruned_accuracy"] is None) == (None, False)
    assert all(epoch["pruned_accuracy"] is not None for epoch in histories[1][dense:])
    alone = tmp_path / "alone"
    Runner(second.recipe, alone, Silent()).run(until="train")
    for file in ("model.safetensors", "masks.safetensors"):
        one = stage_hashes(folder.run(second.name))[f"1-train/{file}"]
        assert stage_hashes(alone)[f"1-train/{file}"] == one


def test_another_seed_trains_anew(tmp_path):
    swept(tmp_path / "sweep", "magnitude")
    swept(tmp_path / "sweep", "magnitude", "seed=1")
    assert len(list(SearchDir(tmp_path / "sweep").shelf.glob("dense-*.pt"))) == 2


def key(*changes):
    return dense_start.key_of(Recipe.load("quickstart", [*FAST, *changes]))


def test_what_is_shared_is_what_does_not_depend_on_the_budget():
    tuned = ("method.name=magnitude", "method.finetune_epochs=2")
    assert key(*tuned) == key(*tuned, "budget.weights=0.1")
    assert key(*tuned) != key(*tuned, "train.lr=0.01")
    assert key(*tuned) != key(*tuned, "model.width=8")
    assert key(*tuned) != key(*tuned, "method.rounds=2")
    assert key("method.name=magnitude") is None  # one phase: its best epoch is the budget's
    assert key() is None  # its gates close while it trains
