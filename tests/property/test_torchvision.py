"""Compacted outputs equal the masked network's on every torchvision classifier.

Small ones, and large ones built narrow, on every run; all of them, as published, when slow.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny import prune_rows, prune_weights, settle
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.maxvit import MaxVit
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)

from pipeline.graph.counting import count, demand_predicted
from pipeline.graph.equivalence import compare, prove
from pipeline.graph.surgery import compact

PRUNINGS = {
    "half of the filters": lambda m, s: prune_rows(m, s, 0.5),
    "90 % of the weights": lambda m, s: prune_weights(m, s, 0.9),
    "98 % of the weights": lambda m, s: prune_weights(m, s, 0.98),
}
#: Larger ones, of which float64 and several copies are needed, are built narrow.
MOST_PARAMETERS = 150e6


def vit(layers: int, patch: int, size: int, width: int = 32) -> nn.Module:
    return models.VisionTransformer(size, patch, layers, 4, width, 2 * width, num_classes=10)


def convnext(*widths: int, layers: int = 1) -> nn.Module:
    follow = [*widths[1:], None]
    blocks = [CNBlockConfig(a, b, layers) for a, b in zip(widths, follow, strict=True)]
    return models.ConvNeXt(blocks, num_classes=10)


def regnet(**params: float) -> nn.Module:
    return RegNet(BlockParams.from_init_params(**params), num_classes=10)


def swin(**options: object) -> nn.Module:
    return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10, **options)


#: Name: the network, and the size of its images.
SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "squeezenet1_1": (lambda: models.squeezenet1_1(num_classes=10), 48),
    "shufflenet_v2_x0_5": (lambda: models.shufflenet_v2_x0_5(num_classes=10), 48),
    "mobilenet_v3_small": (lambda: models.mobilenet_v3_small(num_classes=10), 48),
    "mnasnet0_5": (lambda: models.mnasnet0_5(num_classes=10), 48),
    "regnet_y_400mf": (lambda: models.regnet_y_400mf(num_classes=10), 48),
    "narrow regnet_x": (
        lambda: regnet(depth=4, w_0=16, w_a=16.0, w_m=2.0, group_width=8),
        48,
    ),
    "narrow resnet": (
        lambda: models.ResNet(
            models.resnet.Bottleneck, [1, 2, 1, 1], 10, groups=4, width_per_group=8
        ),
        48,
    ),
    "narrow convnext": (lambda: convnext(12, 16, 24), 48),
    "narrow vit": (lambda: vit(2, 8, 32), 32),
    "narrow swin": (lambda: swin(), 32),
    "narrow swin_v2": (
        lambda: swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
        32,
    ),
    "narrow maxvit": (
        lambda: MaxVit((32, 32), 8, 4, [8, 16], [1, 1], 8, 0.0, num_classes=10),
        32,
    ),
    "narrow densenet": (
        lambda: models.DenseNet(4, (2, 2, 2, 2), 8, 2, num_classes=10),
        48,
    ),
}
NARROW = {
    "convnext_large": (lambda: convnext(48, 96, 192, 384, layers=3), 64),
    "regnet_y_128gf": (
        lambda: regnet(depth=27, w_0=56, w_a=20.0, w_m=2.52, group_width=32, se_ratio=0.25),
        64,
    ),
    "vit_l_16": (lambda: vit(24, 16, 64, 64), 64),
    "vit_l_32": (lambda: vit(24, 32, 64, 64), 64),
    "vit_h_14": (lambda: vit(32, 14, 56, 64), 56),
}
SIZES = {"alexnet": 96, "inception_v3": 96, "maxvit_t": 224}


def published(name: str) -> tuple[nn.Module, int]:
    """Build a network as published, ten classes, on small images."""
    size = SIZES.get(name, 64)
    options: dict[str, object] = {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if name.startswith("vit"):
        options["image_size"] = size
    parameters = models.get_model_weights(name).DEFAULT.meta["num_params"]
    if parameters > MOST_PARAMETERS:
        pytest.skip(
            f"{parameters / 1e6:.0f} M parameters, above {MOST_PARAMETERS / 1e6:.0f} M"
        )
    return models.get_model(name, num_classes=10, **options), size


def assert_equal_when_compacted(model: nn.Module, size: int, pruning: str) -> None:
    model = PRUNINGS[pruning](settle(model, 3), 4)
    shape = (3, size, size)
    before = count(model, shape)
    small, plan = compact(model, shape)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(5))
    proof = prove(model, small, plan, images)
    assert {c.dtype for c in proof.comparisons} == {"float32", "float64"}
    assert all(c.holds for c in proof.comparisons), proof
    after = count(small, shape)
    demand_predicted(before, after, plan)
    if pruning == "half of the filters":
        assert after.weights < before.weights


@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_equal(name: str, pruning: str) -> None:
    torch.manual_seed(1)
    make, size = SMALL[name]
    assert_equal_when_compacted(make(), size, pruning)


@pytest.mark.slow
@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("name", NARROW)
def test_outputs_are_equal_of_the_largest_built_narrow(name: str, pruning: str) -> None:
    torch.manual_seed(1)
    make, size = NARROW[name]
    assert_equal_when_compacted(make(), size, pruning)


@pytest.mark.slow
@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_outputs_are_equal_as_published(name: str, pruning: str) -> None:
    torch.manual_seed(1)
    model, size = published(name)
    assert_equal_when_compacted(model, size, pruning)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_half_of_the_filters_leave_a_convolutional_network_smaller(name: str) -> None:
    torch.manual_seed(1)
    make, size = SMALL[name]
    model = prune_rows(settle(make(), 3), 4, 0.5)
    small, _ = compact(model, (3, size, size))
    assert count(small, (3, size, size)).weights < 0.7 * count(model, (3, size, size)).weights


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "narrow convnext"])
def test_one_spoiled_folded_bias_is_seen(name: str) -> None:
    torch.manual_seed(1)
    make, size = SMALL[name]
    model = prune_rows(settle(make(), 3), 4, 0.5)
    small, plan = compact(model, (3, size, size))
    images = torch.randn(2, 3, size, size)
    assert compare(model, small, images, "noise").holds
    folded = [layer for layer, fold in plan.folds.items() if fold.into == "bias"]
    with torch.no_grad():
        small.get_submodule(folded[-1]).bias[0] += 1e-3
    assert not compare(model, small, images, "noise").holds
