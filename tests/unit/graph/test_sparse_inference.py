"""Only networks of 1x1 and depthwise convolutions with many zeros are computed sparsely."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.graph.fold import fold_batch_norm
from pipeline.graph.sparse_inference import why_dense
from pipeline.graph.trace import trace
from pipeline.models import build


def network(zeros: float = 0.7, stride: int = 2, middle: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    pointwise = nn.Conv2d(8, 20, 1)
    with torch.no_grad():
        pointwise.weight.view(-1)[: round(zeros * 160)] = 0
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=stride, padding=1),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        middle or nn.ReLU(),
        pointwise,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(20, 4),
    ).eval()


def asked(model: nn.Module) -> str | None:
    return why_dense(fold_batch_norm(trace(model, (3, 32, 32))))


def test_a_sparse_network_of_the_right_form_is_computed_sparsely() -> None:
    assert asked(network(zeros=0.7)) is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"zeros": 0.66}, "66% of the weights of its 1x1 convolutions are zero"),
        ({"stride": 1}, "0 is a 3x3 convolution of stride 1 over 3 channels; XNNPACK starts"),
        (
            {"middle": nn.Conv2d(8, 8, 3, padding=1)},
            "3 is a 3x3 convolution of stride 1 over 8",
        ),
        ({"middle": nn.MaxPool2d(2)}, "no sparse form of max_pool2d"),
    ],
)
def test_what_stands_in_the_way_is_said(options, why) -> None:
    assert why in asked(network(**options))


@pytest.mark.parametrize("name", ["conv2", "resnet8"])
def test_networks_of_3x3_convolutions_are_dense(name) -> None:
    model = build(name, {}, classes=10, channels=3, size=32, seed=0).eval()
    assert "convolution" in asked(model)


def test_mobilenet_v2_lacks_only_the_zeros() -> None:
    model = build("torchvision:mobilenet_v2", {}, classes=10, channels=3, size=32, seed=0)
    assert "0% of the weights" in asked(model.eval())
