"""No layer loses its last channel under the guard, and a cut is named without it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.graph.channels import analyse, effective_masks, without_constants
from pipeline.graph.connect import connect
from pipeline.graph.counting import prunable
from pipeline.graph.trace import trace
from pipeline.methods import top_k
from pipeline.models import build

SHAPE = (3, 8, 8)


def network(name: str, size: int = 8) -> nn.Module:
    options = {"width": 4, "hidden": 8} if name == "conv2" else {"width": 4}
    return build(name, options, classes=5, channels=3, size=size, seed=0)


def lost(model: nn.Module, masks: dict[str, torch.Tensor]) -> set[str]:
    """Return the layers without a channel that a path of kept weights joins to the image."""
    graph = trace(model, SHAPE)
    found = analyse(without_constants(graph, masks), paths_only=True)
    return {
        str(call.node.target)
        for call, _ in found.calls
        if f"{call.node.target}.weight" in masks and not found.states[call.node].live.any()
    }


def scores(model: nn.Module, seed: int, favour: float) -> dict[str, torch.Tensor]:
    """Random scores; ``favour`` lets some layers take nearly all of the budget."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(w.shape, generator=generator)
        * (1 + favour * float(torch.rand((), generator=generator) > 0.5))
        for name, w in prunable(model).items()
    }


@pytest.mark.parametrize("name", ["conv2", "resnet8"])
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), keep=st.integers(30, 120), favour=st.sampled_from([0, 50]))
def test_every_layer_passes_signal_on_and_as_many_weights_are_kept(name, seed, keep, favour):
    model = network(name)
    ranked = scores(model, seed, favour)
    before = top_k(ranked, keep)
    after = connect(model, SHAPE, before, ranked)
    assert lost(model, after) == set()
    assert sum(int(mask.sum()) for mask in after.values()) == keep
    if not lost(model, before):
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_guard_has_something_to_do():
    """The twin of the test above: without it, layers are lost."""
    model = network("resnet8")
    assert lost(model, top_k(scores(model, seed=1, favour=50), 60))


def test_a_layer_gets_its_best_weight_and_the_smallest_elsewhere_leaves():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(3, 2))
    ranked = {
        "0.weight": torch.tensor([0.9, 0.8, 0.7]).view(3, 1, 1, 1),
        "2.weight": torch.tensor([[0.1, 0.3, 0.0], [0.2, 0.0, 0.0]]),
    }
    after = connect(model, (1, 1, 1), top_k(ranked, 3), ranked)
    assert after["0.weight"].flatten().tolist() == [True, True, False]
    assert after["2.weight"].tolist() == [[False, True, False], [False, False, False]]


def test_a_weight_that_reads_a_dead_channel_is_no_help():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(3, 2))
    ranked = {
        "0.weight": torch.tensor([0.9, 0.8, 0.0]).view(3, 1, 1, 1),
        "2.weight": torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]),
    }
    masks = {name: score > 0.7 for name, score in ranked.items()}
    masks["2.weight"][0, 2] = True  # a weight, but it reads the filter that is not kept
    after = connect(model, (1, 1, 1), masks, ranked)
    assert after["2.weight"][0].tolist() == [False, True, False]


def test_fewer_weights_than_layers_cannot_be_connected():
    model = network("resnet8")
    ranked = scores(model, seed=0, favour=0)
    masks = top_k(ranked, 4)
    after = connect(model, SHAPE, masks, ranked)
    assert all(torch.equal(masks[key], after[key]) for key in masks)


def test_the_layer_that_cuts_a_network_off_is_named():
    model = network("resnet8").eval()
    weights = dict(prunable(model))
    with torch.no_grad():
        for name, weight in weights.items():
            if "2" in name:
                weight.zero_()
    found = analyse(trace(model, SHAPE))
    assert found.is_constant_everywhere()
    names = found.cut_off()
    assert names
    for name in names:
        assert not weights[f"{name}.weight"].any()


def test_a_connected_network_names_no_layer():
    assert analyse(trace(network("conv2").eval(), SHAPE)).cut_off() == []


class Spare(nn.Module):
    """A network with a layer that it never calls, as auxiliary heads are."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 2)
        self.spare = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x.flatten(1))


def test_a_layer_that_is_never_called_is_no_obstacle_and_none_of_it_is_effective():
    model = Spare()
    ranked = {"used.weight": torch.zeros(2, 4), "spare.weight": torch.ones(3, 4)}
    ranked["used.weight"][1, 2] = 0.5
    after = connect(model, (1, 2, 2), top_k(ranked, 5), ranked)
    assert after["used.weight"].nonzero().tolist() == [[1, 2]]
    assert int(after["spare.weight"].sum()) == 4
    effective = effective_masks(trace(model, (1, 2, 2)), after)
    assert int(effective["used.weight"].sum()) == 1
    assert not effective["spare.weight"].any()
