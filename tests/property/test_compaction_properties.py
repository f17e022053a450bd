"""Compaction is equal, not close: random networks with all that breaks it elsewhere."""

from __future__ import annotations

import copy
import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import RandomNet, fractions, networks, seeds
from tiny import prune_rows, prune_weights, settle, whole
from torch import fx, nn

from pipeline.graph.channels import analyse, effective_masks
from pipeline.graph.counting import count, prunable
from pipeline.graph.equivalence import prove
from pipeline.graph.plan import CutPlan
from pipeline.graph.surgery import compact, rebuild
from pipeline.graph.trace import trace

SHAPE = (2, 16, 16)
prunings = st.sampled_from([prune_rows, prune_weights])


@torch.no_grad()
def output(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.eval()(images)


@given(networks(), seeds, prunings, fractions)
def test_small_integers_are_exactly_equal(
    net: RandomNet, seed: int, prune, fraction: float
) -> None:
    model = prune(whole(net, seed), seed, fraction)
    small, plan = compact(model, SHAPE)
    images = torch.randint(
        -3, 4, (2, *SHAPE), generator=torch.Generator().manual_seed(seed)
    ).double()
    expected, found = output(model, images), output(small, images)
    if any(fold.into.startswith("carrier") for fold in plan.folds.values()):
        # A carrier divides by its own constant, which need not be a power of two.
        torch.testing.assert_close(
            found, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max())
        )
    else:
        assert torch.equal(expected, found)


@given(networks(), seeds, prunings, fractions)
def test_real_weights_are_equal_up_to_the_order_of_sums(
    net: RandomNet, seed: int, prune, fraction: float
) -> None:
    model = prune(settle(net, seed), seed, fraction)
    small, plan = compact(model, SHAPE)
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))
    proof = prove(model, small, plan, images)
    wide = [c for c in proof.comparisons if c.dtype == "float64"]
    assert len(wide) >= 2
    assert all(c.holds for c in wide), proof


@given(networks(), seeds, prunings, fractions)
def test_compacting_twice_is_compacting_once(
    net: RandomNet, seed: int, prune, fraction: float
) -> None:
    model = prune(whole(net, seed), seed, fraction)
    once, _ = compact(model, SHAPE)
    twice, plan = compact(once, SHAPE)
    assert plan.is_empty
    assert {k: v.shape for k, v in once.state_dict().items()} == {
        k: v.shape for k, v in twice.state_dict().items()
    }


@given(networks(), seeds, prunings, fractions)
def test_argument_is_untouched_and_the_plan_predicts_the_shapes(
    net: RandomNet, seed: int, prune, fraction: float
) -> None:
    model = prune(settle(net, seed), seed, fraction)
    before = copy.deepcopy(model.state_dict())
    small, plan = compact(model, SHAPE)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    again = CutPlan.model_validate_json(plan.model_dump_json())
    blank = rebuild(model, SHAPE, again)
    blank.load_state_dict(small.state_dict())
    images = torch.randn(2, *SHAPE)
    assert torch.equal(output(small, images), output(blank, images))
    for layer in count(small, SHAPE).layers:
        cut = plan.layers[layer.name]
        assert layer.outputs == len(cut.kept_outputs)
    assert (count(small, SHAPE).weights < count(model, SHAPE).weights) == (not plan.is_empty)


@given(networks(), seeds)
def test_more_pruning_never_means_more_weights(net: RandomNet, seed: int) -> None:
    model = settle(net, seed)
    sizes = []
    for fraction in (0.0, 0.5, 1.0):
        pruned = prune_rows(copy.deepcopy(model), seed, fraction)
        if analyse(trace(pruned, SHAPE)).is_constant_everywhere():
            continue  # what is left of it, one channel a layer, says nothing
        sizes.append(count(compact(pruned, SHAPE)[0], SHAPE).weights)
    assert sizes == sorted(sizes, reverse=True)


@given(networks(), seeds, fractions)
def test_effective_is_under_direct_and_killing_never_revives(
    net: RandomNet, seed: int, fraction: float
) -> None:
    model = prune_weights(settle(net, seed), seed, fraction)
    masks = {name: weight != 0 for name, weight in prunable(model).items()}
    graph = trace(model, SHAPE)
    effective = effective_masks(graph, masks)
    assert all(bool((masks[name] | ~effective[name]).all()) for name in masks)
    name = sorted(masks)[seed % len(masks)]
    fewer = {**masks, name: torch.zeros_like(masks[name])}
    after = effective_masks(graph, fewer)
    assert all(bool((effective[key] | ~after[key]).all()) for key in masks)


@given(networks(), seeds, fractions)
def test_permuting_hidden_features_permutes_the_plan(
    net: RandomNet, seed: int, fraction: float
) -> None:
    model = prune_rows(settle(net, seed), seed, fraction)
    other = copy.deepcopy(model)
    order = torch.randperm(
        model.fc1.out_features, generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        other.fc1.weight.copy_(model.fc1.weight[order])
        other.fc1.bias.copy_(model.fc1.bias[order])
        other.fc2.weight.copy_(model.fc2.weight[:, order])
    small, _ = compact(model, SHAPE)
    shuffled, _ = compact(other, SHAPE)
    assert count(small, SHAPE).weights == count(shuffled, SHAPE).weights


class Stack(nn.Module):
    """Linear layers without biases: reachability is a product of 0/1 matrices."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), seeds, fractions)
def test_liveness_is_the_number_of_paths(sizes: list[int], seed: int, fraction: float) -> None:
    model = prune_weights(Stack([4, *sizes]), seed, fraction).eval()
    graph: fx.GraphModule = trace(model, (4, 1, 1))
    liveness = analyse(graph)
    masks = [(layer.weight != 0).long() for layer in model.layers]
    into = torch.ones(4, dtype=torch.int64)
    for mask, (call, _) in zip(
        masks, [c for c in liveness.calls if "layers" in str(c[0].node.target)], strict=True
    ):
        into = mask @ into
        assert torch.equal(liveness.states[call.node].live.flatten(), into > 0)
    out = torch.ones(sizes[-1], dtype=torch.int64)
    calls = [c for c, _ in liveness.calls if "layers" in str(c.node.target)]
    for index in reversed(range(1, len(masks))):
        live = liveness.states[calls[index].node].live.flatten().long()
        out = masks[index].T @ (out * live)
        own = liveness.states[calls[index - 1].node].live.flatten()
        needed = liveness.needed[calls[index - 1].node].flatten()
        assert torch.equal(needed, (out > 0) & own)


def test_the_oracle_can_see_one_spoiled_weight() -> None:
    steps = [
        {
            "kind": "plain",
            "out": 3,
            "kernel": 3,
            "padding": 1,
            "stride": 1,
            "mode": "zeros",
            "bias": True,
            "norm": "before",
            "act": "relu",
        }
    ]
    model = prune_rows(whole(RandomNet(steps, 3, 2, flatten=True), 5), 5, 0.3)
    small, _ = compact(model, SHAPE)
    images = torch.randint(-3, 4, (2, *SHAPE)).double()
    assert torch.equal(output(model, images), output(small, images))
    with torch.no_grad():
        small.get_submodule("fc2").bias[0] += 1e-9
    assert not torch.equal(output(model, images), output(small, images))
