"""A grid is every combination of its values, each an ordinary recipe with its own name."""

import pytest
from fast_run import FAST

from pipeline.core.errors import PareError
from pipeline.search.grid import axes, trials

MANY = ",".join(str(n) for n in range(1, 102))


def made(*texts, seeds=1, **more):
    return trials("quickstart", axes(texts), seeds, overrides=FAST, **more)


def test_every_combination_is_tried_the_seeds_of_one_before_the_next():
    found = made("budget.weights=0.5,0.25", "method.name=magnitude,reparam", seeds=2)
    assert [trial.name for trial in found] == [
        f"weights={weights},name={name},seed={seed}"
        for weights in (0.5, 0.25)
        for name in ("magnitude", "reparam")
        for seed in (0, 1)
    ]
    last = found[-1]
    assert last.settings == {"budget.weights": 0.25, "method.name": "reparam", "seed": 1}
    assert (last.recipe.budget.weights, last.recipe.method.name, last.recipe.seed) == (
        0.25, "reparam", 1,
    )  # fmt: skip


def test_another_method_does_not_take_the_options_of_the_recipes_own():
    magnitude, reparam = made("method.name=magnitude,reparam")
    assert magnitude.recipe.method.options == {}
    assert reparam.recipe.method.options["mode"] == "paper"


def test_seeds_begin_at_the_recipes_own():
    found = trials("quickstart", [], 2, overrides=["seed=9"])
    assert [trial.recipe.seed for trial in found] == [9, 10]
    assert [trial.name for trial in found] == ["seed=09", "seed=10"]


def test_without_a_grid_and_seeds_there_is_the_recipe_itself():
    (only,) = made()
    assert (only.name, only.settings) == ("run", {})


def test_commas_in_brackets_and_quotes_belong_to_the_value():
    found = made("profile.threads=[1],[1, 2]")
    assert [trial.recipe.profile.threads for trial in found] == [[1], [1, 2]]
    assert len({trial.name for trial in found}) == 2


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["budget.weights"], r"--grid 'budget.weights' is not of the form"),
        (["budget.weights=0.5,"], r"is not of the form"),
        (["=1"], r"is not of the form"),
        (["seed=1,2", "seed=3"], r"--grid names seed twice"),
        (["seed=1,1"], r"names a value twice"),
        (["budget.weights=0.5,0.50"], r"the trials .* and .* are the same recipe"),
        (["budget.weigts=0.5"], r"the trial with .*weigts=0.5: .*Did you mean 'weights'"),
        (["budget.weights=2"], r"budget.weights = 2"),
        ([f"seed={MANY}", f"train.epochs={MANY}"], r"10,201 runs; 10,000 are the limit"),
    ],
)  # fmt: skip
def test_what_is_no_grid_is_refused(texts, message):
    with pytest.raises(PareError, match=message):
        made(*texts)


def test_seeds_are_named_or_counted():
    with pytest.raises(PareError, match=r"--grid names seed, and --seeds counts them"):
        made("seed=1,2", seeds=3)


def test_a_long_name_is_cut_and_stays_apart():
    one, other = made(f'model.checkpoint="{"a" * 300}1","{"a" * 300}2"')
    assert len(one.name) < 120
    assert one.name != other.name


def test_two_values_never_share_a_folder():
    with pytest.raises(PareError, match=r"would share the folder"):
        made('data.name="image-folder:a b","image-folder:a-b"')
