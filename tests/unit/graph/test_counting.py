"""One counting function: what it counts by hand, and that everyone counts the same."""

from __future__ import annotations

import pytest
import torch
from tiny import prune_rows, settle
from torch import nn

from pipeline.core.budget import Budget
from pipeline.core.recipe import Choice
from pipeline.graph.counting import count, prunable
from pipeline.graph.surgery import compact
from pipeline.methods import create, masked
from pipeline.models import build


def test_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    counted = count(model, (3, 8, 8))
    first, depthwise, last = counted.layers
    assert (first.weights, first.macs, first.outputs) == (108, 108 * 64, 4)
    assert (depthwise.weights, depthwise.macs) == (36, 36 * 4)
    assert (last.weights, last.macs) == (80, 80)
    assert counted.weights == 224
    assert counted.parameters == 224 + 4 + 8 + 4 + 5


def test_kept_weights_and_their_macs() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False))
    with torch.no_grad():
        model[0].weight[0] = 0
    counted = count(model, (1, 3, 3))
    assert (counted.kept, counted.kept_macs, counted.macs) == (1, 9, 18)
    mask = {"0.weight": torch.zeros_like(model[0].weight, dtype=torch.bool)}
    assert count(model, (1, 3, 3), mask).kept == 0


def test_published_macs_of_resnet8() -> None:
    model = build("resnet8", {}, classes=10, channels=3, size=32, seed=0)
    assert count(model, (3, 32, 32)).macs == 12_501_632


def test_the_network_is_left_in_its_mode() -> None:
    model = build("resnet8", {"width": 4}, classes=10, channels=3, size=16, seed=0).train()
    statistics = model.bn1.running_mean.clone()
    count(model, (3, 16, 16))
    assert model.training
    assert torch.equal(model.bn1.running_mean, statistics)


@pytest.mark.parametrize("method", ["magnitude", "reparam"])
@pytest.mark.parametrize("fraction", [0.5, 0.1, 0.013])
def test_trainer_pruner_and_counter_agree(method: str, fraction: float) -> None:
    budget = Budget(weights=fraction)
    model = build("conv2", {"width": 4, "hidden": 8}, classes=3, channels=1, size=8, seed=0)
    made = create(Choice(name=method), budget)
    attached = made.attach(model, made.phases(1)[0])
    masks = made.masks(attached)
    total = sum(weight.numel() for weight in prunable(model).values())
    assert sum(int(mask.sum()) for mask in masks.values()) == budget.kept(total)
    pruned = masked(attached, masks)
    assert count(pruned, (1, 8, 8)).kept == budget.kept(total)
    assert count(pruned, (1, 8, 8), masks).kept == budget.kept(total)


def test_the_compacted_network_weighs_what_the_plan_says() -> None:
    model = prune_rows(settle(build("conv2", {}, classes=3, channels=1, size=8, seed=0), 1), 2)
    small, plan = compact(model, (1, 8, 8))
    for layer in count(small, (1, 8, 8)).layers:
        cut = plan.layers[layer.name]
        area = 9 if layer.kind == "Conv2d" else 1
        assert layer.weights == len(cut.kept_outputs) * len(cut.kept_inputs) * area
