"""Widths that kernels like: kept by dead channels where asked, named where they are not."""

from __future__ import annotations

import pytest
import torch
from proving import outputs_equal, widths
from tiny import kill, prune_rows, settle
from torch import nn

from pipeline.graph.surgery import compact
from pipeline.graph.widths import uneven
from pipeline.models import build

SHAPE = (3, 8, 8)


def chain(width: int = 8) -> nn.Module:
    return settle(
        nn.Sequential(
            nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3, groups=width),
            nn.ReLU(), nn.Conv2d(width, 5, 1),
        ),
        0,
    )  # fmt: skip


@pytest.mark.parametrize(("multiple", "left"), [(1, 3), (2, 4), (4, 4), (8, 8), (3, 3)])
def test_a_width_is_rounded_up_by_dead_channels(multiple: int, left: int) -> None:
    model = chain()
    kill(model[0], [0, 2, 3, 5, 7])
    small, plan = compact(model, SHAPE, multiple=multiple)
    assert widths(small) == [left, left, 5]
    outputs_equal(model, small, plan, SHAPE)
    for_it = [
        kept for kept in plan.kept if kept.why == f"keeps the width a multiple of {multiple}"
    ]
    assert len(for_it) == 2 * (left - 3)  # in both layers


def test_a_width_that_never_was_a_multiple_is_cut_as_far_as_it_goes() -> None:
    model = chain(width=6)
    kill(model[0], [1])
    small, plan = compact(model, SHAPE, multiple=4)
    assert widths(small) == [5, 5, 5]
    outputs_equal(model, small, plan, SHAPE)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v1"])
def test_every_layer_of_a_network_is_a_multiple_wide(name: str) -> None:
    model = build(name, {"width": 8}, classes=16, channels=3, size=32, seed=0)
    model = prune_rows(settle(model, 1), 2)
    small, plan = compact(model, (3, 32, 32), multiple=8)
    assert all(width % 8 == 0 for width in widths(small))
    assert sum(widths(small)) < sum(widths(model))
    outputs_equal(model, small, plan, (3, 32, 32))
    assert compact(small, (3, 32, 32), multiple=8)[1].is_empty


def test_uneven_depthwise_layers_are_named_with_the_remedy() -> None:
    model = chain()
    assert uneven(model) is None
    kill(model[0], [0, 2, 3])
    small, _ = compact(model, SHAPE)
    said = uneven(small)
    assert said is not None
    assert "no multiple of 4" in said
    assert "'2'" in said
    assert "compact.multiple = 8" in said
    assert uneven(compact(model, SHAPE, multiple=4)[0]) is None


def test_layers_of_one_group_of_one_channel_are_no_depthwise_ones() -> None:
    assert uneven(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 5, 1))) is None


def test_no_rounding_is_the_default() -> None:
    model = chain()
    kill(model[0], [0])
    with torch.no_grad():
        model[0].bias[0] = -1.0
    assert widths(compact(model, SHAPE)[0]) == [7, 7, 5]
