"""Tracing: shapes are known, the argument is untouched, a refusal names the line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.errors import PareError
from pipeline.graph.trace import trace


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.conv(x)
        return self.conv(-x)


def test_shapes_of_every_value() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), (3, 8, 8))
    shapes = [node.meta["shape"] for node in graph.graph.nodes if "shape" in node.meta]
    assert shapes[:3] == [(2, 3, 8, 8), (2, 4, 6, 6), (2, 144)]


def test_a_branch_on_the_data_is_refused_with_its_line() -> None:
    with pytest.raises(PareError) as refusal:
        trace(Branching(), (1, 4, 4))
    message = str(refusal.value)
    assert "Branching cannot be traced" in message
    assert "test_trace.py" in message
    assert "`if x.sum() > 0:`" in message
    assert "torch.fx.wrap" in message


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PareError, match=r"does not accept images of shape \(1, 8, 8\)"):
        trace(nn.Sequential(nn.Conv2d(3, 4, 3)), (1, 8, 8))


def test_argument_is_untouched() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).train()
    graph = trace(model, (1, 4, 4))
    graph.get_submodule("0").weight.data.zero_()
    assert model.training
    assert bool((model[0].weight != 0).any())
    assert torch.equal(model[1].running_mean, torch.zeros(2))
