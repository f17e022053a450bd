"""What is constant on data is found, removed where asked, and never believed beyond that."""

from __future__ import annotations

import torch
from tiny import settle
from torch import Tensor, nn

from pipeline.graph.observed import Seen, constant_on, plan_paid
from pipeline.graph.plan import CutPlan
from pipeline.graph.surgery import compact, perform
from pipeline.graph.trace import trace

SHAPE = (2, 6, 6)


def positive(seed: int, count: int = 5) -> Tensor:
    """Images without a negative value."""
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def network(padding: int = 0) -> nn.Module:
    """Channel 1 of the first layer is zero behind its relu on positive images only."""
    model = settle(
        nn.Sequential(
            nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=padding), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
        ),
        0,
    )  # fmt: skip
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = -1.0, -0.1
        model[0].weight[[0, 2, 3]] = model[0].weight[[0, 2, 3]].abs()
        model[0].bias[[0, 2, 3]] = 0.3
        model[2].bias.fill_(5.0)
    return model


def paid(model: nn.Module, images: Tensor) -> tuple[nn.Module, CutPlan, list[Seen]]:
    graph = trace(model, SHAPE)
    plan, seen = plan_paid(graph, constant_on(graph, images.split(2)))
    return perform(graph, plan), plan, seen


def test_a_channel_that_never_fires_is_seen_and_leaves() -> None:
    model = network()
    small, plan, seen = paid(model, positive(1))
    assert [(one.channel, one.constant) for one in seen] == [(1, 0.0)]
    assert {(r.layer, r.channel) for r in plan.removed} == {("0", 1)}
    assert small.get_submodule("0").out_channels == 3
    torch.testing.assert_close(small(positive(2)), model(positive(2)))


def test_it_is_no_exact_saving() -> None:
    """Compaction keeps the channel, and other images show why."""
    model = network()
    _, plan = compact(model, SHAPE)
    assert not plan.removed
    small, _, _ = paid(model, positive(1))
    assert (small(-positive(2)) - model(-positive(2))).abs().max() > 1e-3


def test_another_image_on_which_it_fires_takes_it_off_the_list() -> None:
    _, plan, seen = paid(network(), torch.cat([positive(1), -positive(2)]))
    assert not seen
    assert plan.is_empty


def test_the_constant_of_a_saturated_channel_is_folded() -> None:
    model = network()
    model[1] = nn.ReLU6()
    with torch.no_grad():
        model[0].bias[2] = 9.0
    small, plan, seen = paid(model, positive(1))
    assert {(one.channel, one.constant) for one in seen} == {(1, 0.0), (2, 6.0)}
    assert plan.folds["2"].constants == {2: 6.0}
    torch.testing.assert_close(small(positive(2)), model(positive(2)))


def test_a_channel_that_would_have_to_stay_as_a_carrier_is_not_believed() -> None:
    """It would go on being computed from inputs that are no longer what they were."""
    model = network(padding=1)
    model[1] = nn.ReLU6()
    with torch.no_grad():
        model[0].bias[2] = 9.0
    small, _, seen = paid(model, positive(1))
    assert [(one.channel, one.constant) for one in seen] == [(1, 0.0)]
    torch.testing.assert_close(small(positive(2)), model(positive(2)))


def test_an_output_that_never_changes_stays() -> None:
    model = network()
    with torch.no_grad():
        model[6].weight[0] = 0
    small, _, _ = paid(model, positive(1))
    assert small(positive(2)).shape == (5, 2)
    torch.testing.assert_close(small(positive(2)), model(positive(2)))
