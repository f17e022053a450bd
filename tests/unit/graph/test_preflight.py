"""The lint before quantization: what hurts int8 is named, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from pipeline.core.errors import PareError
from pipeline.graph.fold import fold_batch_norm
from pipeline.graph.preflight import Finding, lint
from pipeline.graph.trace import trace

SHAPE = (4, 8, 8)


class Of(nn.Module):
    """A function of one image as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def found(model: nn.Module, **how: object) -> list[Finding]:
    given = {"granularity": "per-channel", **how}
    return lint(trace(model.eval(), SHAPE), **given)  # type: ignore[arg-type]


def kinds(model: nn.Module, **how: object) -> list[str]:
    return [finding.kind for finding in found(model, **how)]


def images() -> Tensor:
    return torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (F.hardswish, "hard-swish"),
        (nn.Hardswish(), "hard-swish"),
        (lambda x: x * F.hardsigmoid(x), "hard-swish"),
        (lambda x: x * F.relu6(x + 3) / 6, "hard-swish"),
        (lambda x: x * (F.relu6(x + 3) / 6), "hard-swish"),
        (F.silu, "silu"),
        (nn.SiLU(), "silu"),
        (lambda x: x * torch.sigmoid(x), "silu"),
        (lambda x: x.sigmoid() * x, "silu"),
    ],
)
def test_activations_with_a_negative_tail(function: Callable, expected: str) -> None:
    (finding,) = found(Of(function))
    assert finding.kind == expected
    assert finding.remedy.startswith("Train with ReLU")


@pytest.mark.parametrize(
    "function",
    [F.relu, F.relu6, nn.LeakyReLU(), lambda x: x * 2, lambda x: torch.sigmoid(x), torch.tanh],
)
def test_activations_that_are_fine(function: Callable) -> None:
    assert kinds(Of(function)) == []


def gate(x: Tensor) -> Tensor:
    return x * x.mean((2, 3), keepdim=True).sigmoid()


def flat_gate(x: Tensor) -> Tensor:
    return torch.sigmoid(x.mean((2, 3))).view(-1, 4, 1, 1) * x


@pytest.mark.parametrize("function", [gate, flat_gate, SqueezeExcitation(4, 2)])
def test_gates(function: Callable) -> None:
    (finding,) = found(Of(function))
    assert finding.kind == "squeeze-excite"
    assert "in float" in finding.remedy


def test_a_product_of_two_maps_is_no_gate() -> None:
    assert kinds(Of(lambda x: x * torch.sigmoid(x + 1))) == []


@pytest.mark.parametrize("value", [-float("inf"), -1.0, 3.0])
def test_constant_padding_before_a_max_pool(value: float) -> None:
    def padded(x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=value), 3)

    finding, module = (
        found(Of(function))[0]
        for function in (padded, nn.Sequential(nn.ConstantPad2d(1, value), nn.MaxPool2d(3)))
    )
    assert finding.kind == module.kind == "padded-max-pool"
    assert f"padding with {value:g}" in finding.what
    assert "own padding" in finding.remedy


@pytest.mark.parametrize(
    "function",
    [
        nn.MaxPool2d(3, padding=1),  # behind negative values too
        lambda x: F.max_pool2d(F.pad(F.relu(x), (1, 1, 1, 1)), 3),
        lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3),
        lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), value=1.0), 3),
    ],
)
def test_padding_that_is_fine(function: Callable) -> None:
    assert kinds(Of(function)) == []


def test_concatenations_of_unlike_range() -> None:
    boxes_and_scores = Of(lambda x: torch.cat([x * 640, torch.sigmoid(x)], 1))
    (guessed,) = found(boxes_and_scores)
    assert guessed.kind == "mixed-concat"
    assert "without bounds" in guessed.what
    (measured,) = found(boxes_and_scores, images=images())
    assert measured.kind == "mixed-concat"
    assert "without bounds" not in measured.what
    alike = Of(lambda x: torch.cat([x, F.relu(x)], 1))
    assert kinds(alike) == kinds(alike, images=images()) == []
    # What looks unlike and is alike is cleared by the measurement.
    harmless = Of(lambda x: torch.cat([x, torch.sigmoid(x)], 1))
    assert kinds(harmless) == ["mixed-concat"]
    assert kinds(harmless, images=images()) == []


def test_outputs_of_two_kinds() -> None:
    scale = torch.tensor([640.0, 640, 1, 1]).view(1, -1, 1, 1)

    class Head(Of):
        def __init__(self, scale: Tensor) -> None:
            super().__init__(lambda x: x)
            self.register_buffer("scale", scale)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.scale

    (finding,) = found(Head(scale), images=images())
    assert finding.kind == "mixed-output"
    assert "two groups" in finding.what
    assert kinds(Head(scale)) == []  # nothing says so without images
    assert kinds(Head(torch.ones_like(scale)), images=images()) == []


def depthwise(unequal: float) -> nn.Module:
    layer = nn.Conv2d(4, 4, 3, groups=4)
    with torch.no_grad():
        layer.weight.fill_(0.5)
        layer.weight[2] *= unequal
    return nn.Sequential(layer)


def test_depthwise_weights_with_one_scale() -> None:
    (finding,) = found(depthwise(8.0), granularity="per-tensor")
    assert (finding.kind, finding.where) == ("per-tensor-depthwise", "0")
    assert "factor of 8" in finding.what
    assert "5.0 of 8 bits" in finding.what
    assert kinds(depthwise(8.0), granularity="per-channel") == []
    assert kinds(depthwise(2.0), granularity="per-tensor") == []
    assert kinds(nn.Sequential(nn.Conv2d(4, 4, 3)), granularity="per-tensor") == []


@pytest.mark.parametrize(
    ("name", "expected", "per_tensor"),
    [
        ("mobilenet_v3_small", {"hard-swish": 19, "squeeze-excite": 9}, 11),
        ("efficientnet_b0", {"silu": 49, "squeeze-excite": 16}, 16),
        ("mobilenet_v2", {}, 17),
        ("resnet18", {}, 0),
    ],
)
def test_networks_of_torchvision(name: str, expected: dict, per_tensor: int) -> None:
    model = getattr(torchvision.models, name)(weights=None)
    network = fold_batch_norm(trace(model.eval(), (3, 64, 64)))
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert Counter(one.kind for one in lint(network, "per-channel", noise)) == expected
    kinds = Counter(one.kind for one in lint(network, "per-tensor", noise))
    assert kinds.pop("per-tensor-depthwise", 0) == per_tensor
    assert kinds == expected


def test_without_shapes_it_is_refused() -> None:
    with pytest.raises(PareError, match="no known shape"):
        lint(torch.fx.symbolic_trace(nn.Sequential(nn.ReLU())), "per-channel")
