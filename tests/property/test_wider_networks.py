"""Compaction is equal on groups, gates, shuffles, splits, transposes and all norms."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import fractions, seeds
from tiny import settle, whole
from torch import Tensor, nn
from wider import REAL, WHOLE, Step, WiderNet, prune, wider

from pipeline.graph.counting import count, demand_predicted
from pipeline.graph.equivalence import compare, outputs, prove
from pipeline.graph.surgery import CutPlan, compact, rebuild

SHAPE = (2, 8, 8)
real_networks = wider(WHOLE + REAL)
whole_networks = wider(WHOLE)
# Channels that span two axes leave along the longer one, which may be the other one once
# they have: a second time then finds what the first could not take.
TWO_AXES = ("unflatten", "shuffle by hand")
on_one_axis = wider(tuple(kind for kind in WHOLE + REAL if kind not in TWO_AXES))


class Renamed(nn.Module):
    """The same network under another name."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.a_0 = network

    def forward(self, x: Tensor) -> object:
        return self.a_0(x)


def noise(seed: int) -> Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))


def weights(model: nn.Module) -> list[int]:
    return [layer.weights for layer in count(model, SHAPE).layers]


@given(real_networks, seeds, st.booleans(), fractions)
def test_real_weights_are_equal_up_to_the_order_of_sums(
    net: WiderNet, seed: int, rows: bool, fraction: float
) -> None:
    model = prune(settle(net, seed), seed, fraction, rows=rows)
    before = copy.deepcopy(model.state_dict())
    small, plan = compact(model, SHAPE)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    proof = prove(model, small, plan, noise(seed))
    wide = [c for c in proof.comparisons if c.dtype == "float64"]
    assert {c.what for c in wide} == {"real images", "noise", "noise at another size"}
    assert all(c.holds for c in wide), proof


@given(whole_networks, seeds, st.booleans(), fractions)
def test_small_integers_are_exactly_equal(
    net: WiderNet, seed: int, rows: bool, fraction: float
) -> None:
    model = prune(whole(net, seed), seed, fraction, rows=rows)
    small, plan = compact(model, SHAPE)
    images = torch.randint(-3, 4, (2, *SHAPE), generator=torch.Generator().manual_seed(seed))
    expected, found = outputs(model, images.double()), outputs(small, images.double())
    assert max(float(one.detach().abs().max()) for one in expected) < 2**50
    if any(fold.into.startswith("carrier") for fold in plan.folds.values()):
        # A carrier divides by its own constant, which need not be a power of two.
        assert compare(model, small, images.double(), "integers").holds
    else:
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@given(on_one_axis, seeds, st.booleans(), fractions)
def test_compacting_twice_is_compacting_once(
    net: WiderNet, seed: int, rows: bool, fraction: float
) -> None:
    model = prune(settle(net, seed), seed, fraction, rows=rows).double()
    once, _ = compact(model, SHAPE)
    twice, plan = compact(once, SHAPE)
    assert plan.is_empty
    assert {k: v.shape for k, v in once.state_dict().items()} == {
        k: v.shape for k, v in twice.state_dict().items()
    }


@given(real_networks, seeds, st.booleans(), fractions)
def test_the_plan_predicts_the_counts_and_travels_as_json(
    net: WiderNet, seed: int, rows: bool, fraction: float
) -> None:
    model = prune(settle(net, seed), seed, fraction, rows=rows)
    small, plan = compact(model, SHAPE)
    demand_predicted(count(model, SHAPE), count(small, SHAPE), plan)
    again = CutPlan.model_validate_json(plan.model_dump_json())
    blank = rebuild(model, SHAPE, again)
    blank.load_state_dict(small.state_dict())
    expected, found = outputs(small, noise(seed)), outputs(blank, noise(seed))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@given(real_networks, seeds, st.booleans(), fractions)
def test_names_and_the_order_of_hidden_channels_do_not_matter(
    net: WiderNet, seed: int, rows: bool, fraction: float
) -> None:
    model = prune(settle(net, seed), seed, fraction, rows=rows)
    expected = weights(compact(model, SHAPE)[0])
    assert weights(compact(Renamed(model), SHAPE)[0]) == expected
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.mix1.weight.copy_(model.mix1.weight[order])
        model.mix1.bias.copy_(model.mix1.bias[order])
        model.mix2.weight.copy_(model.mix2.weight[:, order])
    assert weights(compact(model, SHAPE)[0]) == expected


def one_of_each(width: int, kind: str, *, padded: bool = True) -> WiderNet:
    return WiderNet([Step(kind, 2, 2, padded=padded, bias=True)], width)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("kind", WHOLE + REAL)
def test_one_block_of_each_kind_is_equal_and_smaller(kind: str, width: int) -> None:
    torch.manual_seed(5)
    model = settle(one_of_each(width, kind), 1)
    with torch.no_grad():
        model.mix1.weight[[0, 2]] = 0
        model.stem.weight[:1] = 0
    small, plan = compact(model, SHAPE)
    assert prove(model, small, plan, noise(1)).holds
    assert sum(weights(small)) < sum(weights(model))


def test_the_oracle_can_see_one_spoiled_weight() -> None:
    torch.manual_seed(6)
    model = settle(one_of_each(4, "squeeze and excite"), 2)
    with torch.no_grad():
        model.mix1.weight[0] = 0
    small, plan = compact(model, SHAPE)
    assert prove(model, small, plan, noise(2)).holds
    with torch.no_grad():
        small.get_submodule("blocks.0.up").bias[0] += 0.01
    assert not prove(model, small, plan, noise(2)).holds
