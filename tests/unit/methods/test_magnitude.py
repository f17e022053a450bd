"""magnitude: one shot or rounds, one threshold or one rate; and the choice by layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import conv_net, digits, options, same_weights
from torch import nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.recipe import Choice
from pipeline.graph.counting import prunable_count
from pipeline.methods import Method, apparent, create, plain, top_k, top_k_by_layer
from pipeline.training.loop import train

BUDGET = Budget(weights=0.25)


def method(**own: object) -> Method:
    return create(Choice(name="magnitude", **own), BUDGET)


def kept(masks: dict[str, torch.Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def test_the_default_is_one_threshold_in_one_shot_and_no_finetuning() -> None:
    own, model = method(), conv_net(width=16)
    assert [(p.name, p.epochs, p.lr_factor) for p in own.phases(5)] == [("train", 5, 1.0)]
    scores = {name: weight.abs() for name, weight in apparent(model).items()}
    expected = top_k(scores, BUDGET.kept(prunable_count(model)))
    masks = own.masks(model)
    assert all(torch.equal(masks[name], mask) for name, mask in expected.items())


def test_one_round_finetunes_in_one_phase() -> None:
    own = method(finetune_epochs=3)
    assert [(p.name, p.epochs) for p in own.phases(5)] == [("train", 5), ("finetune", 3)]


def test_rounds_share_the_finetuning() -> None:
    own = method(rounds=3, finetune_epochs=7, finetune_lr_factor=0.5)
    assert [(p.name, p.epochs, p.lr_factor) for p in own.phases(2)] == [
        ("train", 2, 1.0), ("finetune 1", 2, 0.5), ("finetune 2", 2, 0.5),
        ("finetune 3", 3, 0.5),
    ]  # fmt: skip


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_round_without_an_epoch_is_refused(epochs: int) -> None:
    with pytest.raises(
        PareError, match=r"rounds = 3 needs finetune_epochs of at least 3.*not"
    ):
        method(rounds=3, finetune_epochs=epochs)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_each_round_takes_the_same_part_of_what_is_left_and_revives_nothing(scope) -> None:
    own = method(rounds=2, finetune_epochs=2, scope=scope)
    model = conv_net(width=16)
    total = prunable_count(model)
    first, second = own.phases(1)[1:]
    half = own.attach(model, first)
    with torch.no_grad():
        for parameter in half.parameters():
            parameter.add_(0.01)  # as training would
    quarter = own.attach(half, second)
    zero = [{n: w == 0 for n, w in apparent(net).items()} for net in (half, quarter)]
    assert [total - kept(z) for z in zero] == [round(0.5 * total), BUDGET.kept(total)]
    assert all(bool((zero[1][n] | ~gone).all()) for n, gone in zero[0].items())
    assert kept(own.masks(quarter)) == BUDGET.kept(total)
    assert plain(quarter).state_dict().keys() == model.state_dict().keys()


def test_by_layer_every_layer_keeps_the_same_part() -> None:
    masks = method(scope="layer").masks(conv_net(width=16))
    assert [float(m.double().mean()) for m in masks.values()] == [0.25, 0.25]


def test_a_resumed_training_ends_as_an_unbroken_one(tmp_path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int, text: str) -> None:
        if done == 2:
            raise Stopped

    def run(**more):
        own = method(rounds=2, finetune_epochs=2)
        return train(conv_net(), own, digits(), options(), seed=1, **more)

    whole, path = run(), tmp_path / "checkpoint.pt"
    with pytest.raises(Stopped):
        run(checkpoint=path, progress=stop)
    again = run(checkpoint=path)
    assert [epoch.phase for epoch in again.history] == ["train", "finetune 1", "finetune 2"]
    assert same_weights(again.model.state_dict(), whole.model.state_dict())
    assert all(torch.equal(again.masks[key], whole.masks[key]) for key in whole.masks)


class TestByLayer:
    @given(st.data())
    def test_exactly_as_many_are_kept_the_largest_of_each_layer(self, data) -> None:
        few = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)  # many ties
        scores = {name: torch.tensor(data.draw(few)) for name in "abc"}
        keep = data.draw(st.integers(1, sum(s.numel() for s in scores.values())))
        factor = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
        masks = top_k_by_layer(scores, keep, factor)
        assert kept(masks) == keep
        for name, mask in masks.items():
            if 0 < int(mask.sum()) < mask.numel():
                assert scores[name][mask].min() >= scores[name][~mask].max()

    def test_convolutions_and_the_output_at_the_rates_of_the_paper(self) -> None:
        """After r rounds 20 % of a layer leaves 0.8^r; half as fast is its square root."""
        generator = torch.Generator().manual_seed(0)
        shapes = {"conv": (40, 5, 5, 5), "fc": (100, 100), "out": (10, 500)}
        scores = {n: torch.rand(s, generator=generator) for n, s in shapes.items()}
        q = 0.8**10
        keep = round(5000 * q**0.5 + 10000 * q + 5000 * q**0.5)
        masks = top_k_by_layer(scores, keep, 0.5, 0.5)
        found = {n: float(m.double().mean()) for n, m in masks.items()}
        assert found == pytest.approx({"conv": q**0.5, "fc": q, "out": q**0.5}, abs=1e-3)
        assert found["conv"] == pytest.approx(0.9**10, abs=0.03)  # what the paper's 10 % leave

    def test_a_factor_of_zero_leaves_the_output_whole(self) -> None:
        scores = {"a": torch.rand(100), "out": torch.rand(10)}
        masks = top_k_by_layer(scores, 30, 0.0)
        assert {n: int(m.sum()) for n, m in masks.items()} == {"a": 20, "out": 10}

    def test_a_convolution_that_ends_the_network_is_the_output(self) -> None:
        scores = {"a": torch.rand(10, 1, 3, 3), "out": torch.rand(10, 1, 3, 3)}
        masks = top_k_by_layer(scores, 90 + 9, 0.0, 1.0)
        assert {n: int(m.sum()) for n, m in masks.items()} == {"a": 9, "out": 90}


def test_the_lottery_takes_the_rates_by_kind() -> None:
    own = create(Choice(name="lottery", rounds=1, scope="layer", conv_rate_factor=0.5), BUDGET)
    model = nn.Sequential(nn.Conv2d(1, 40, 5), nn.Flatten(), nn.Linear(40 * 4, 50))
    conv, linear = (float(m.double().mean()) for m in own.masks(model).values())
    assert conv == pytest.approx(linear**0.5, abs=0.01)
