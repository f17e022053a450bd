"""One price list for every unit of a budget, held against what is counted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.target import Target
from pipeline.graph.counting import count, prunable
from pipeline.graph.groups import channel_groups, group_masks
from pipeline.graph.ranking import top_k, within
from pipeline.graph.surgery import compact
from pipeline.graph.tariff import Tariff, tariff
from pipeline.methods import masked
from pipeline.models import build

SHAPE = (3, 16, 16)


def network() -> nn.Module:
    return build("resnet8", {"width": 8}, classes=10, channels=3, size=16, seed=0).eval()


def random_masks(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = {n: torch.rand(w.shape, generator=generator) for n, w in prunable(model).items()}
    return top_k(scores, 500 + seed)


@pytest.mark.parametrize("seed", range(3))
def test_weights_and_macs_are_those_of_the_one_counting_function(seed):
    model = network()
    masks = random_masks(model, seed)
    counted = count(model, SHAPE, masks)
    weights = tariff(model, SHAPE, Budget(weights=0.5))
    macs = tariff(model, SHAPE, Budget(macs=0.5))
    assert weights.cost(masks) == counted.kept
    assert weights.whole == counted.weights
    assert macs.cost(masks) == counted.kept_macs
    assert (macs.whole, macs.limit, macs.part) == (counted.macs, counted.macs / 2, 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_whole_channels_cost_what_the_compacted_network_counts(seed):
    model = network()
    groups = channel_groups(model, SHAPE)
    generator = torch.Generator().manual_seed(seed)
    removed = [g for g in groups if torch.rand((), generator=generator) < 0.4]
    masks = group_masks(removed, prunable(model))
    small, _ = compact(masked(model, masks), SHAPE)
    counted = count(small, SHAPE)
    assert tariff(model, SHAPE, Budget(macs=0.5)).cost(masks) == counted.macs
    assert tariff(model, SHAPE, Budget(weights=0.5)).cost(masks) == counted.weights


def test_bytes_are_four_a_weight_and_four_for_everything_else():
    model = network()
    prices = tariff(model, SHAPE, Budget(bytes=20_000))
    total = sum(p.numel() for p in model.parameters())
    weights = sum(w.numel() for w in prunable(model).values())
    assert prices.whole == 4 * total
    assert prices.fixed == 4 * (total - weights)
    assert prices.part == pytest.approx(20_000 / (4 * total))


def test_a_latency_is_macs_and_activations_at_the_targets_rates():
    model, budget = network(), Budget(latency_ms=0.5, target="raspberry-pi-4b")
    rates = next(
        row for row in Target.load("raspberry-pi-4b").calibration
        if row.dtype == "fp32" and row.threads == 4
    )  # fmt: skip
    prices = tariff(model, SHAPE, budget)
    name = "conv1.weight"
    positions = SHAPE[1] * SHAPE[2]
    assert prices.weight[name] == pytest.approx(positions / (rates.r_gmac_s * 1e6))
    # Each output is written once and read once, four bytes each.
    assert prices.output[name] == pytest.approx(2 * 4 * positions / (rates.b_gb_s * 1e6))
    nothing = {n: torch.zeros_like(w, dtype=torch.bool) for n, w in prunable(model).items()}
    assert prices.cost(nothing) == prices.fixed


@settings(max_examples=20)
@given(
    part=st.floats(0.01, 1),
    budget=st.sampled_from(
        [Budget(weights=0.5), Budget(macs=0.5), Budget(latency_ms=1, target="raspberry-pi-4b")]
    ),
)
def test_as_much_is_kept_as_is_paid_for_and_not_a_weight_more(part, budget):
    model = network()
    prices = tariff(model, SHAPE, budget)
    scores = {name: weight.abs() for name, weight in prunable(model).items()}
    masks = within(scores, prices, part)
    kept = sum(int(mask.sum()) for mask in masks.values())
    limit = part * prices.whole * (1 + 1e-9)
    if kept:
        assert prices.cost(masks) <= limit
    if kept < sum(score.numel() for score in scores.values()):
        assert prices.cost(top_k(scores, kept + 1)) > limit


def test_gradients_flow_through_a_soft_cost():
    model = network()
    prices = tariff(model, SHAPE, Budget(latency_ms=1, target="raspberry-pi-4b"))
    soft = {n: torch.rand_like(w, requires_grad=True) for n, w in prunable(model).items()}
    prices.soft_cost(soft).backward()
    assert all(float(mask.grad.min()) > 0 for mask in soft.values())


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(bytes=10), r"budget\.bytes = 10 keeps no weight.* costs [\d,]+ bytes"),
        (Budget(macs=1e-9), r"budget\.macs = 1e-09 keeps no weight.* costs [\d,]+ MACs"),
        (
            Budget(latency_ms=1e-9, target="raspberry-pi-4b"),
            r"budget\.latency_ms = 1e-09 keeps no weight.* ms, whole",
        ),
    ],
)
def test_what_pays_for_no_weight_is_refused(budget, said):
    with pytest.raises(PareError, match=said):
        tariff(network(), SHAPE, budget)


def test_a_target_without_float_rates_is_refused(monkeypatch):
    source = Target.load("raspberry-pi-4b")
    rows = tuple(row for row in source.calibration if row.dtype != "fp32")
    bare = source.model_copy(update={"calibration": rows})
    monkeypatch.setattr(Target, "load", lambda name: bare)
    with pytest.raises(PareError, match="no calibration for float32"):
        tariff(network(), SHAPE, Budget(latency_ms=1, target="bare"))


def test_one_weight_counts_among_a_hundred_million():
    """In float32 it would not: 1e8 + 1 is 1e8 there."""
    masks = {"a": torch.ones(1, 1).expand(10_000, 10_000), "b": torch.ones(1, 1)}
    prices = Tariff({"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}, 0.0, 1e8 + 1, 1e8)
    assert prices.cost(masks) == 1e8 + 1
