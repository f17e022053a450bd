"""VGG16 and VGG19 in their CIFAR form: batch norm, global pooling, one linear layer.

14,728,266 and 20,040,522 parameters at 10 classes.

Source:
    Simonyan & Zisserman 2015; CIFAR form as in open_lth: convolutions keep the bias that
    batch norm makes redundant, as the published parameter counts include it. Global
    average pooling before the classifier admits any input of at least 16 pixels.
"""

from __future__ import annotations

from torch import nn

from pipeline.models import check_sizes

_STAGES = {16: [2, 2, 3, 3, 3], 19: [2, 2, 4, 4, 4]}


def vgg16(classes: int, channels: int, size: int, width: int = 64) -> nn.Module:
    """VGG16 with batch norm, CIFAR form."""
    return _vgg(16, classes, channels, size, width)


def vgg19(classes: int, channels: int, size: int, width: int = 64) -> nn.Module:
    """VGG19 with batch norm, CIFAR form."""
    return _vgg(19, classes, channels, size, width)


def _vgg(depth: int, classes: int, channels: int, size: int, width: int) -> nn.Module:
    check_sizes(width=width)
    if size < 16:
        raise ValueError(f"four pools need at least 16 pixels, got {size}")
    layers: list[nn.Module] = []
    for stage, repeats in enumerate(_STAGES[depth]):
        out = width * min(2**stage, 8)
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        if stage < 4:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers)
