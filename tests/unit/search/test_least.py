"""What is counted before the training refuses what can't fit, and nothing that can."""

import csv
from pathlib import Path

import pytest
from fast_run import FAST

from pipeline.core.errors import PareError
from pipeline.core.recipe import Recipe
from pipeline.core.target import Budgets, Figure, Memory, Target
from pipeline.graph.counting import count
from pipeline.search.counting import Counted, Counting, Least, network
from pipeline.search.family import Space, family, member

SHAPE, CLASSES = (1, 8, 8), 10
PI = Target.load("raspberry-pi-zero-2w")


def recipe(*changes):
    return Recipe.load("quickstart", [*FAST, "model.width=16", "model.hidden=32", *changes])


def one(kind="dense", part=1.0, factor=1.0):
    return member(recipe(), kind, part, factor, None, "compact")


def hope(target, kind="dense", part=1.0):
    made = one(kind, part)
    return Counted(network(made, SHAPE, CLASSES), SHAPE, Least.of(kind, part)).hope(target)


def limited(**budgets):
    own = Budgets(basis="assumed", source="a test", **budgets)
    return PI.model_copy(update={"budgets": own})


def test_what_fits_by_counting_may_fit():
    assert hope(PI).possible


#: Parameters of conv2 at width 16 and 32 hidden units.
PARAMETERS = 144 + 16 + 2304 + 16 + 8192 + 32 + 1024 + 32 + 320 + 10

#: Of the smallest form of file, ONNX with integer weights: itself, and five layers.
BESIDE = 1200 + 5 * 700


def test_the_least_of_a_dense_network_is_all_of_it():
    model = network(one(), SHAPE, CLASSES)
    assert count(model, SHAPE).parameters == PARAMETERS
    bytes_ = PARAMETERS + BESIDE
    assert hope(limited(model_mb=bytes_ / 1e6)).possible
    refused = hope(limited(model_mb=(bytes_ - 1) / 1e6))
    assert not refused.possible
    assert [check.name for check in refused.broken] == ["file size (budget)"]
    assert refused.broken[0].limit == f"{(bytes_ - 1) / 1e6:g} MB"


def test_of_pruned_weights_half_may_be_on_no_path():
    kept = int(PARAMETERS * 0.2 * 0.5) + BESIDE
    assert hope(limited(model_mb=kept / 1e6), "weights", 0.2).possible
    assert not hope(limited(model_mb=(kept - 1) / 1e6), "weights", 0.2).possible


def test_of_very_few_weights_more_are_on_no_path():
    assert Least.of("weights", 0.02).weights == 0.01
    assert Least.of("weights", 0.01).weights == 0.002


def test_the_least_is_below_what_the_comparison_of_methods_found():
    path = Path(__file__).parents[3] / "benchmarks" / "results" / "methods_cpu.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    pruned = [row for row in rows if float(row["kept"]) < 1]
    assert len(pruned) > 50
    for row in pruned:
        kept, effective = float(row["kept"]), float(row["effective"])
        assert Least.of("weights", kept).weights <= effective


def test_whole_channels_leave_before_anything_is_trained():
    """How many leave follows from the budget, so the network can be cut and counted."""
    model = network(one("channels", 0.5), SHAPE, CLASSES)
    counted = count(model, SHAPE)
    dense = count(network(one(), SHAPE, CLASSES), SHAPE)
    assert 0.3 * dense.weights < counted.weights <= 0.5 * dense.weights
    assert counted.macs < dense.macs


def test_peak_ram_holds_the_image_and_the_runtime_whatever_is_pruned():
    mcu = Target.load("stm32h7")
    small = Figure(value=0.01, basis="assumed", source="10 kB")
    tight = mcu.model_copy(
        update={"memory": mcu.memory.model_copy(update={"budget_mb": small})}
    )
    refused = hope(tight, "weights", 0.05)
    assert [check.name for check in refused.broken] == ["peak RAM (device)"]
    assert "the runtime" in refused.broken[0].why
    # Without the runtime's own 30 kB the same limit refuses nothing.
    bare = Memory(budget_mb=small, flash_mb=mcu.memory.flash_mb)
    assert hope(mcu.model_copy(update={"memory": bare}), "weights", 0.05).possible


def test_a_predicted_latency_refuses_by_its_upper_end():
    pi4 = Target.load("raspberry-pi-4b")
    fast = limited(latency_p90_ms=1e-9).budgets
    refused = hope(pi4.model_copy(update={"budgets": fast}))
    assert [check.name for check in refused.broken] == ["latency"]


def test_after_compaction_the_exact_figures_count():
    limit = limited(model_mb=0.012)
    counting = Counting([limit])
    pruned = one("weights", 0.2)
    assert counting.before(pruned)[limit.id].possible
    dense = count(network(one(), SHAPE, CLASSES), SHAPE)
    left = counting.after(pruned, dense.parameters, dense.macs)[limit.id]
    assert not left.possible
    assert left.broken[0].figure == f"{(PARAMETERS + BESIDE) / 1e6:.3g} MB"
    few = counting.after(pruned, dense.parameters // 4, dense.macs // 4)[limit.id]
    assert few.possible


def test_a_method_that_finds_its_own_rate_may_keep_any_less():
    free = member(recipe("method.name=aslp"), "weights", 0.5, 1.0, None, "compact")
    assert Least.of_member(free).weights == 0.0
    assert Least.of_member(one("weights", 0.5)).weights == 0.25


def test_a_budget_that_pays_for_no_network_is_told_and_not_raised():
    unpaid = Counting([PI]).before(one("channels", 0.001))[PI.id]
    assert not unpaid.possible
    assert "one filter left in each layer keeps" in str(unpaid)


def test_trained_weights_have_one_width():
    own = recipe()
    choice = own.model.model_copy(update={"checkpoint": "weights.pt"})
    bound = own.model_copy(update={"model": choice})
    names = [m.trial.name for m in family(bound, Space(weights=(), channels=()))]
    assert names == ["dense-width-1"]


def test_a_family_keeps_most_first_and_prunes_weights_at_its_widest_only():
    names = [m.trial.name for m in family(recipe(), Space(weights=(0.1,), channels=(0.5,)))]
    assert names == [
        "dense-width-1", "weights-0.1-width-1", "channels-0.5-width-1",
        "dense-width-0.5", "channels-0.5-width-0.5",
        "dense-width-0.25", "channels-0.5-width-0.25",
    ]  # fmt: skip


def test_a_narrower_network_is_narrower_in_all_its_layers():
    made = one(factor=0.5).trial
    assert made.settings == {
        "model.width": 8, "model.hidden": 16, "method.name": "dense",
    }  # fmt: skip
    assert count(network(one(factor=0.5), SHAPE, CLASSES), SHAPE).parameters < PARAMETERS / 2


def test_all_candidates_train_as_many_epochs():
    epochs = recipe("train.epochs=8").train.epochs
    made = member(recipe("train.epochs=8"), "channels", 0.5, 1.0, None, "compact").trial.recipe
    assert made.train.epochs + made.method.options["finetune_epochs"] == epochs


def test_another_method_takes_none_of_the_options_of_the_recipes():
    assert one("channels", 0.5).trial.recipe.method.options == {"finetune_epochs": 0}
    assert one("weights", 0.5).trial.recipe.method.options["mode"] == "paper"


def test_a_budget_has_one_unit():
    made = member(recipe("budget.weights=0.3"), "macs", 0.5, 1.0, None, "compact")
    assert (made.trial.recipe.budget.unit, made.trial.recipe.budget.limit) == ("macs", 0.5)


def test_a_recipe_without_pruning_is_pruned_by_the_default_method():
    plain = recipe("method.name=dense", "budget.weights=1.0")
    assert (
        member(plain, "weights", 0.1, 1.0, None, "prune").trial.recipe.method.name == "reparam"
    )


def test_a_model_without_a_width_has_no_narrower_kin():
    own = recipe("model.name=torchvision:squeezenet1_1")
    names = [m.trial.name for m in family(own, Space(weights=(), channels=()))]
    assert names == ["dense-width-1"]


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet20", (3, 32, 32)), ("mobilenet_v1", (3, 32, 32))]
)
def test_batch_norms_are_counted_as_files_store_them(name, shape, tmp_path):
    """Folded, they leave one bias a channel; a bound above the file would refuse it."""
    import torch

    from pipeline.graph.fold import fold_batch_norm
    from pipeline.graph.trace import trace

    recipe = Recipe.load("quickstart", [f"model.name={name}"])
    made = member(recipe, "dense", 1.0, 1.0, None, "compact")
    model = network(made, shape, CLASSES)
    path = tmp_path / "model.onnx"
    folded = fold_batch_norm(trace(model.eval(), shape))
    torch.onnx.export(folded, (torch.zeros(1, *shape),), path, external_data=False)
    counted = Counted(model, shape, Least.of("dense", 1.0))
    size = path.stat().st_size
    assert 0.9 * size < counted.least_bytes("onnx", "fp32") <= size


def test_half_floats_are_two_bytes_in_onnx_and_widened_in_tflite():
    counted = Counted(network(one(), SHAPE, CLASSES), SHAPE, Least.of("dense", 1.0))
    arena = {
        form: counted._candidate(PI, form, "fp16").graph.memory.greedy_bytes
        for form in ("onnx", "tflite")
    }
    assert arena["tflite"] == 2 * arena["onnx"]


@pytest.mark.parametrize(
    ("changes", "space", "message"),
    [
        (("model.name=torchvision:squeezenet1_1",), {"widths": (0.5,)}, "no option for it"),
        (('model.checkpoint="w.pt"',), {"widths": (0.5,)}, "its trained weights have one"),
        ((), {"sizes": (16,)}, "the images of data 'digits' have one size"),
    ],
)
def test_a_family_that_can_not_be_is_refused(changes, space, message):
    with pytest.raises(PareError, match=message):
        family(recipe(*changes), Space(**space))


def test_the_widest_that_the_model_can_have_is_pruned():
    own = recipe("model.name=torchvision:squeezenet1_1")
    space = Space(widths=(2.0, 1.0), weights=(0.5,), channels=())
    assert [m.trial.name for m in family(own, space)] == [
        "dense-width-1",
        "weights-0.5-width-1",
    ]
