"""Each removed channel is told with its reason and with the readers that took it in."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from tiny import kill, prune_rows, settle
from torch import Tensor, nn

from pipeline.graph.explain import Explanation, LayerChannels, explain
from pipeline.graph.plan import CutPlan
from pipeline.graph.surgery import compact
from pipeline.models import build

SHAPE = (3, 6, 6)


def explained(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> tuple[Explanation, CutPlan]:
    _, plan = compact(model, shape)
    return explain(plan), plan


def layer(found: Explanation, name: str) -> LayerChannels:
    return next(one for one in found.layers if one.layer == name)


def constant(model: nn.Module, name: str, channels: list[int], bias: float = 0.5) -> None:
    """Make channels of a layer the constant ``bias``."""
    kill(model.get_submodule(name), channels)
    with torch.no_grad():
        model.get_submodule(name).bias[channels] = bias


def test_a_constant_is_followed_into_the_bias_of_its_reader() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1)), 0)
    constant(model, "0", [1, 3])
    found, _ = explained(model)
    first = layer(found, "0")
    assert (first.before, first.after, first.reasons) == (5, 3, {"no input": 2})
    assert [one.channel for one in first.removed] == [1, 3]
    for one in first.removed:
        assert one.constant == 0.5
        [folded] = one.folded
        assert (folded.reader, folded.into, folded.inputs) == ("2", "bias", [one.channel])


def test_a_constant_that_an_activation_makes_zero_is_folded_nowhere() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1)), 0)
    constant(model, "0", [2], bias=-1.0)
    [one] = layer(explained(model)[0], "0").removed
    assert (one.constant, one.folded) == (-1.0, [])


def test_a_channel_behind_a_flattening_is_several_inputs() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(144, 2)), 0)
    constant(model, "0", [1])
    [one] = layer(explained(model)[0], "0").removed
    assert [(f.reader, f.inputs) for f in one.folded] == [("2", list(range(36, 72)))]


def test_a_padded_reader_takes_constants_in_by_its_carrier() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 3, padding=1)), 0)
    constant(model, "0", [0, 1, 4])
    first = layer(explained(model)[0], "0")
    [kept] = first.kept
    assert kept.why == "carries the constants into a zero-padded convolution"
    assert {one.folded[0].into for one in first.removed} == {f"carrier:{kept.channel}"}
    assert first.before - first.after == len(first.removed) == 2


class Joined(nn.Module):
    """Two layers side by side for one reader, one of them once more behind an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1)
        self.last = nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.last(torch.cat([a, self.b(x), a.relu()], 1))


def test_a_concatenation_is_followed_into_each_of_its_parts() -> None:
    model = settle(Joined(), 0)
    constant(model, "a", [3])
    constant(model, "b", [0])
    found, _ = explained(model)
    assert [one.folded[0].inputs for one in layer(found, "a").removed] == [[3, 9]]
    assert [one.folded[0].inputs for one in layer(found, "b").removed] == [[4]]


class Shuffled(nn.Module):
    """A layer whose channels change places before they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.channel_shuffle(self.a(x), 2))


def test_channels_that_change_places_are_followed() -> None:
    model = settle(Shuffled(), 0)
    constant(model, "a", [1, 3])  # read at places 2 and 3
    found, _ = explained(model)
    folded = {one.channel: one.folded[0].inputs for one in layer(found, "a").removed}
    assert folded == {1: [2, 3], 3: [2, 3]}  # they left together


@pytest.mark.parametrize("name", ["conv4", "resnet20", "mobilenet_v1"])
def test_every_channel_of_the_plan_is_told_once(name: str) -> None:
    model = build(name, {}, classes=10, channels=3, size=32, seed=0)
    found, plan = explained(prune_rows(settle(model, 1), 2), (3, 32, 32))
    removed = {(one.layer, c.channel) for one in found.layers for c in one.removed}
    assert removed == {(record.layer, record.channel) for record in plan.removed}
    kept = {(one.layer, c.channel, c.why) for one in found.layers for c in one.kept}
    assert kept == {(record.layer, record.channel, record.why) for record in plan.kept}
    for one in found.layers:
        assert one.before - one.after == len(one.removed)
        assert one.reasons == Counter(channel.reason for channel in one.removed)
    named = {f.reader for one in found.layers for c in one.removed for f in c.folded}
    assert named
    assert named <= plan.folds.keys()
