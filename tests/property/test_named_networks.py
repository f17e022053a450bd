"""Compacted outputs equal the masked network's on every network that ships."""

from __future__ import annotations

import pytest
import torch
from tiny import prune_rows, prune_weights, settle, whole
from torch import nn

from pipeline.graph.counting import count
from pipeline.graph.equivalence import prove
from pipeline.graph.surgery import compact
from pipeline.models import build

SHAPE = (3, 32, 32)
# Narrow where the published width would only cost time: the structure is what is proved.
NETWORKS = [
    ("conv2", {}), ("conv4", {}), ("conv6", {}), ("resnet8", {}), ("resnet20", {}),
    ("resnet20", {"shortcut": "B"}), ("resnet18", {"width": 16}), ("vgg16", {"width": 16}),
    ("vgg19", {"width": 16}), ("mobilenet_v1", {"width": 4}),
]  # fmt: skip
PRUNINGS = {
    "half of the filters": lambda m, s: prune_rows(m, s, 0.5),
    "90 % of the weights": lambda m, s: prune_weights(m, s, 0.9),
    "99 % of the weights": lambda m, s: prune_weights(m, s, 0.99),
}
ids = [
    f"{name}-{'-'.join(map(str, options.values())) or 'plain'}" for name, options in NETWORKS
]


def network(name: str, options: dict[str, object]) -> nn.Module:
    return build(name, options, classes=10, channels=3, size=32, seed=1)


@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=ids)
def test_outputs_are_equal(name: str, options: dict[str, object], pruning: str) -> None:
    model = PRUNINGS[pruning](settle(network(name, options), 3), 4)
    small, plan = compact(model, SHAPE)
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(5))
    proof = prove(model, small, plan, images)
    assert all(c.holds for c in proof.comparisons), proof
    if pruning == "half of the filters":
        assert count(small, SHAPE).parameters < 0.75 * count(model, SHAPE).parameters


@pytest.mark.parametrize(
    ("name", "options"),
    [n for n in NETWORKS if n[0].startswith("conv")],
    ids=[i for i in ids if i.startswith("conv")],
)
def test_small_integers_are_exact_where_no_carrier_divides(
    name: str, options: dict[str, object]
) -> None:
    """Conv2/4/6 with relu: biases are one or less, so that every carrier is exactly one."""
    model = prune_rows(whole(network(name, options), 6, largest=1), 7, 0.5)
    images = torch.randint(
        -1, 2, (2, *SHAPE), generator=torch.Generator().manual_seed(8)
    ).double()
    small, _ = compact(model, SHAPE)
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(expected, small(images))
        assert float(expected.abs().max()) < 2**53  # every integer on the way was exact
    assert count(small, SHAPE).parameters < 0.5 * count(model, SHAPE).parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vgg16", "vgg19"])
def test_outputs_are_equal_at_the_published_width(name: str) -> None:
    model = prune_rows(settle(network(name, {}), 3), 4, 0.5)
    small, plan = compact(model, SHAPE)
    assert prove(model, small, plan, torch.randn(2, *SHAPE)).holds
