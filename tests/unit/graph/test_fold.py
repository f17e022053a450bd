"""Batch norm folded for export: same outputs, nothing left, nothing subnormal."""

from __future__ import annotations

import pytest
import torch
from tiny import settle
from torch import nn

from pipeline.graph.fold import fold_batch_norm
from pipeline.graph.surgery import compact
from pipeline.graph.trace import trace
from pipeline.models import build


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "vgg16"])
def test_networks_keep_their_outputs_and_lose_their_norms(name: str) -> None:
    options = {"width": 8}
    model = settle(build(name, options, classes=5, channels=3, size=32, seed=0), 1)
    graph = trace(model, (3, 32, 32))
    folded = fold_batch_norm(graph)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected, found = model(images), folded(images)
    assert norms(graph) > 0
    assert norms(folded) == 0
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-5 * float(expected.abs().max())
    )


def test_the_comparison_can_see_one_spoiled_bias() -> None:
    model = settle(build("resnet8", {"width": 8}, classes=5, channels=3, size=32, seed=0), 1)
    folded = fold_batch_norm(trace(model, (3, 32, 32)))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        folded.get_submodule("fc").bias[0] += 3e-5 * float(expected.abs().max())
        found = folded(images)
    assert float((found - expected).abs().max()) > 1e-5 * float(expected.abs().max())


def test_linear_and_its_norm() -> None:
    model = settle(nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6)), 2)
    folded = fold_batch_norm(trace(model, (3, 2, 2)))
    images = torch.randn(4, 3, 2, 2)
    assert norms(folded) == 0
    torch.testing.assert_close(folded(images), model(images))


def test_a_norm_whose_layer_has_another_reader_stays() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y + self.norm(y)

    model = settle(Fork(), 3)
    folded = fold_batch_norm(trace(model, (3, 4, 4)))
    images = torch.randn(2, 3, 4, 4)
    assert norms(folded) == 1
    torch.testing.assert_close(folded(images), model(images))


def test_argument_is_untouched_and_subnormals_are_flushed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1e-30)
        model[0].bias.zero_()
        model[1].weight.fill_(1e-10)
        model[1].bias.zero_()
    graph, _ = compact(model, (1, 4, 4))
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    folded = fold_batch_norm(graph)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items()
    )
    smallest = torch.finfo(torch.float32).tiny
    for parameter in folded.parameters():
        values = parameter.detach().abs()
        assert bool(((values == 0) | (values >= smallest)).all())
