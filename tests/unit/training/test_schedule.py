"""Learning rates against values worked out by hand."""

import math

import pytest
import torch
from small_data import options

from pipeline.training.schedule import optimizer_for, scheduler_for


def rates(total, steps_per_epoch=1, factor=1.0, **changes):
    """Return the rate before each step and after the last."""
    own = options(lr=1.0, **changes)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = optimizer_for([{"params": [weight], "lr": factor}], own)
    scheduler = scheduler_for(optimizer, own, total, steps_per_epoch)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_cosine_falls_from_the_rate_to_zero():
    expected = [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)]
    assert rates(8, schedule="cosine") == pytest.approx(expected, abs=1e-9)
    assert rates(8, schedule="cosine") != pytest.approx(
        [(1 + math.cos(math.pi * step / 9)) / 2 for step in range(9)], abs=1e-3
    )


def test_steps_fall_at_the_milestones():
    expected = [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01]
    assert rates(8, schedule="step", milestones=(0.5, 0.75)) == pytest.approx(expected)


def test_the_factor_of_the_steps_is_the_recipes():
    assert rates(4, schedule="step", milestones=(0.5,), gamma=0.5)[-1] == pytest.approx(0.5)


def test_constant_stays():
    assert rates(5, schedule="constant") == [1.0] * 6


def test_a_group_keeps_its_own_rate():
    assert rates(4, schedule="constant", factor=100.0) == [100.0] * 5


def test_warm_up_grows_linearly_from_a_tenth_and_the_rest_follows():
    found = rates(10, steps_per_epoch=2, schedule="cosine", warmup_epochs=2)
    ramp = [0.1 + 0.9 * step / 4 for step in range(4)]
    rest = [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(7)]
    assert found == pytest.approx([*ramp, *rest], abs=1e-9)


def test_milestones_count_from_the_first_step_also_after_a_warm_up():
    found = rates(8, schedule="step", milestones=(0.5,), warmup_epochs=2)
    assert found[2:] == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.1])


def test_a_warm_up_longer_than_the_training_is_cut():
    found = rates(3, schedule="cosine", warmup_epochs=9)
    assert found[:2] == pytest.approx([0.1, 0.55])
    assert all(math.isfinite(rate) for rate in found)


@pytest.mark.parametrize(
    ("changes", "kind", "nesterov"),
    [
        ({}, torch.optim.SGD, True),
        ({"momentum": 0.0}, torch.optim.SGD, False),
        ({"optimizer": "adam"}, torch.optim.Adam, None),
    ],
)
def test_the_optimizer_is_the_recipes(changes, kind, nesterov):
    weight = torch.nn.Parameter(torch.zeros(1))
    own = options(weight_decay=0.25, **changes)
    optimizer = optimizer_for([{"params": [weight], "lr": 0.5}], own)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert group.get("nesterov") == nesterov
