"""Groups of channels: what leaves together, and that compaction removes exactly that."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from small_data import same_weights
from tiny import settle
from torch import Tensor, nn

from pipeline.core.budget import Budget
from pipeline.graph.counting import count, prunable
from pipeline.graph.equivalence import prove
from pipeline.graph.groups import ChannelGroup, Grouping, channel_groups, group_masks
from pipeline.graph.surgery import compact
from pipeline.graph.tariff import tariff
from pipeline.models import build

SHAPE = (3, 16, 16)
NETWORKS = [
    ("resnet8", {}), ("resnet18", {"width": 4}), ("resnet20", {"width": 4}),
    ("resnet20", {"width": 4, "shortcut": "B"}), ("conv2", {"width": 4, "hidden": 8}),
    ("vgg16", {"width": 4}), ("mobilenet_v1", {"width": 4}),
]  # fmt: skip
ids = [f"{n}-{'-'.join(map(str, o.values())) or 'plain'}" for n, o in NETWORKS]


def network(name: str, options: dict[str, object]) -> nn.Module:
    return settle(build(name, options, classes=5, channels=3, size=16, seed=1), 2)


def zeroed(model: nn.Module, removed: list[ChannelGroup]) -> nn.Module:
    """Zero what leaves with the groups; ours, in place."""
    weights = prunable(model)
    with torch.no_grad():
        for name, mask in group_masks(removed, weights).items():
            weights[name].mul_(mask)
    return model


def some(groups: list[ChannelGroup], seed: int) -> list[ChannelGroup]:
    """Draw about half of the groups, never all that a layer has."""
    left: Counter[str] = Counter()
    for group in groups:
        left.update({name: rows.numel() for name, rows in group.writes.items()})
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for group in groups:
        rows = {name: rows.numel() for name, rows in group.writes.items()}
        spare = all(left[name] > n for name, n in rows.items())
        if spare and torch.rand((), generator=generator) < 0.5:
            chosen.append(group)
            left.subtract(rows)
    return chosen


def indices(parts: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: part.tolist() for name, part in parts.items()}


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=ids)
def test_compaction_removes_exactly_the_groups(name: str, options: dict[str, object]) -> None:
    model = network(name, options)
    groups = channel_groups(model, SHAPE)
    removed = some(groups, 3)
    assert removed
    expected = {n: int(m.sum()) for n, m in group_masks(removed, prunable(model)).items()}
    rows = sorted(
        (n, r) for g in removed for n, part in g.writes.items() for r in part.tolist()
    )
    model = zeroed(model, removed)
    small, plan = compact(model, SHAPE)
    assert sorted((f"{r.layer}.weight", r.channel) for r in plan.removed) == rows
    assert not plan.kept
    assert not any(fold.into.startswith("carrier") for fold in plan.folds.values())
    assert {f"{c.name}.weight": c.weights for c in count(small, SHAPE).layers} == expected
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(4))
    assert prove(model, small, plan, images).holds


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=ids)
def test_no_filter_and_no_column_is_in_two_groups(name, options) -> None:
    model = network(name, options)
    weights = prunable(model)
    for side, axis in (("writes", 0), ("reads", 1)):
        seen: dict[str, list[int]] = {}
        for group in channel_groups(model, SHAPE):
            for weight, part in indices(getattr(group, side)).items():
                seen.setdefault(weight, []).extend(part)
        for weight, part in seen.items():
            assert len(set(part)) == len(part)
            assert 0 <= min(part) <= max(part) < weights[weight].shape[axis]


def test_a_residual_sum_ties_all_that_is_added() -> None:
    """Stage 1 of shortcut B: stem and every second convolution; its readers lose a column."""
    groups = channel_groups(network("resnet20", {"width": 4, "shortcut": "B"}), SHAPE)
    stem = [g for g in groups if "conv1.weight" in g.writes]
    assert len(stem) == 4
    assert indices(stem[2].writes) == {
        "conv1.weight": [2],
        **{f"blocks.{n}.conv2.weight": [2] for n in range(3)},
    }
    assert indices(stem[2].reads) == {
        **{f"blocks.{n}.conv1.weight": [2] for n in range(4)},
        "blocks.3.shortcut.0.weight": [2],
    }


def test_zero_padded_shortcuts_tie_the_middle_of_the_next_stage() -> None:
    """Shortcut A pads 4 channels to 8 with two on either side, and 8 to 16 with four."""
    groups = channel_groups(network("resnet20", {"width": 4}), SHAPE)
    stem = next(g for g in groups if "conv1.weight" in g.writes)
    rows = indices(stem.writes)
    assert rows["blocks.2.conv2.weight"] == [0]
    assert rows["blocks.3.conv2.weight"] == [2]
    assert rows["blocks.6.conv2.weight"] == [6]
    assert indices(stem.reads)["fc.weight"] == [6]


def test_a_flattened_channel_is_read_through_all_its_columns() -> None:
    groups = channel_groups(network("conv2", {"width": 4, "hidden": 8}), SHAPE)
    last = next(g for g in groups if indices(g.writes) == {"2.weight": [1]})
    assert indices(last.reads) == {"6.weight": list(range(64, 128))}


def test_a_depthwise_filter_goes_with_its_channel() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
    groups = channel_groups(model, SHAPE)
    assert [indices(g.writes) for g in groups] == [
        {"0.weight": [n], "1.weight": [2 * n, 2 * n + 1]} for n in range(4)
    ]
    assert indices(groups[1].reads) == {"3.weight": [2, 3]}


def test_dead_channels_are_channels_and_the_interface_is_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    with torch.no_grad():
        model[0].weight.zero_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups = channel_groups(model, SHAPE)
    assert [indices(g.writes) for g in groups] == [{"0.weight": [n]} for n in range(4)]
    assert same_weights(model.state_dict(), before)


@pytest.mark.parametrize("middle", [nn.Conv2d(4, 4, 1, groups=2), nn.GroupNorm(2, 4)])
def test_a_width_that_something_relies_on_stays(middle: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), middle, nn.Conv2d(4, 5, 3), nn.Conv2d(5, 2, 3))
    groups = channel_groups(model, SHAPE)
    assert [indices(g.writes) for g in groups] == [{"2.weight": [n]} for n in range(5)]


def test_a_shuffle_ties_the_channels_of_one_place_in_every_group() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ChannelShuffle(2), nn.Conv2d(4, 5, 3))
    groups = channel_groups(model, SHAPE)
    assert [indices(g.writes) for g in groups] == [{"0.weight": [0, 2]}, {"0.weight": [1, 3]}]
    assert [indices(g.reads) for g in groups] == [{"2.weight": [0, 1]}, {"2.weight": [2, 3]}]


def test_weights_without_a_group_are_kept_whole() -> None:
    weights = {"a.weight": torch.zeros(2, 3), "b.weight": torch.zeros(1, 2)}
    group = ChannelGroup({"a.weight": torch.tensor([1])}, {"b.weight": torch.tensor([1])})
    masks = group_masks([group], weights)
    assert masks["a.weight"].tolist() == [[True] * 3, [False] * 3]
    assert masks["b.weight"].tolist() == [[True, False]]
    assert all(mask.all() for mask in group_masks([], weights).values())


def test_channels_that_write_the_same_layers_are_a_family():
    model = network("resnet8", {})
    weights = prunable(model)
    grouping = Grouping.of(channel_groups(model, SHAPE), weights)
    for name, rows in grouping.rows.items():
        own = rows[rows < grouping.count]
        assert len(set(grouping.families[own].tolist())) <= 1, name
    assert (
        grouping.families[grouping.rows["blocks.1.conv2.weight"][0]]
        == (grouping.families[grouping.rows["blocks.1.shortcut.weight"][0]])
    )
    assert len(grouping.families.unique()) > 3


@pytest.mark.parametrize("unit", ["macs", "latency_ms"])
@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=ids)
def test_rows_and_columns_cost_what_their_products_do(name, options, unit):
    model = network(name, options)
    weights = prunable(model)
    grouping = Grouping.of(channel_groups(model, SHAPE), weights)
    target = "raspberry-pi-4b" if unit == "latency_ms" else None
    prices = tariff(model, SHAPE, Budget.model_validate({unit: 0.9, "target": target}))
    generator = torch.Generator().manual_seed(0)
    for values in (
        torch.rand(grouping.count, generator=generator),
        (torch.rand(grouping.count, generator=generator) > 0.5).float(),
    ):
        cost = prices.cost_of_channels(*grouping.sides(values), grouping.areas)
        assert cost == pytest.approx(prices.cost(grouping.spread(values, weights)), rel=1e-6)
        other = prices.cost_of_channels(*grouping.sides(values * 0.99), grouping.areas)
        assert other != pytest.approx(cost, rel=1e-3)
