"""Residual networks in their CIFAR forms: ResNet8 (MLPerf Tiny), 18, 20 and 56.

Source:
    He et al. 2016, section 4.2 (ResNet20 and 56, shortcut A pads with zeros, B projects); the
    CIFAR form of ResNet18 with a 3x3 stem, as in Dupont et al. 2021; ResNet8 as in MLPerf
    Tiny's image classification reference (convolutions with bias, projections without
    batch norm).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models import check_sizes


def resnet8(classes: int, channels: int, size: int, width: int = 16) -> nn.Module:
    """ResNet8 of MLPerf Tiny: three stages of one block, 12.5 million MACs at 32x32."""
    del size
    return ResNet(channels, classes, width, width, [1, 1, 1], bias=True, shortcut="conv")


def resnet18(classes: int, channels: int, size: int, width: int = 64) -> nn.Module:
    """ResNet18 with the 3x3 stem for small images."""
    del size
    return ResNet(channels, classes, width, width, [2, 2, 2, 2], bias=False, shortcut="B")


def resnet20(
    classes: int, channels: int, size: int, width: int = 16, shortcut: Literal["A", "B"] = "A"
) -> nn.Module:
    """ResNet20 for small images; shortcut "A" pads with zeros, "B" projects."""
    del size
    return _three_stages(3, classes, channels, width, shortcut)


def resnet56(
    classes: int, channels: int, size: int, width: int = 16, shortcut: Literal["A", "B"] = "A"
) -> nn.Module:
    """ResNet56 for small images; shortcut "A" pads with zeros, "B" projects."""
    del size
    return _three_stages(9, classes, channels, width, shortcut)


def _three_stages(
    repeats: int, classes: int, channels: int, width: int, shortcut: str
) -> nn.Module:
    if shortcut not in ("A", "B"):
        raise ValueError(f"shortcut = {shortcut!r} is not allowed; choose 'A' or 'B'")
    blocks = [repeats] * 3
    return ResNet(channels, classes, width, width, blocks, bias=False, shortcut=shortcut)


class ResNet(nn.Module):
    """A stem, stages of basic blocks (each halves the image and doubles the width), a head."""

    def __init__(
        self,
        channels: int,
        classes: int,
        stem: int,
        width: int,
        blocks: list[int],
        *,
        bias: bool,
        shortcut: str,
    ) -> None:
        super().__init__()
        check_sizes(width=width)
        self.conv1 = nn.Conv2d(channels, stem, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(stem)
        stages: list[nn.Module] = []
        c_in = stem
        for stage, repeats in enumerate(blocks):
            c_out = width * 2**stage
            stride = 1 if stage == 0 else 2
            for block in range(repeats):
                step = stride if block == 0 else 1
                stages.append(BasicBlock(c_in, c_out, step, bias=bias, shortcut=shortcut))
                c_in = c_out
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[n, channels, h, w]`` to logits ``[n, classes]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.pool(self.blocks(x))
        out: Tensor = self.fc(x.flatten(1))
        return out


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut added before the last ReLU."""

    def __init__(
        self, c_in: int, c_out: int, stride: int, *, bias: bool, shortcut: str
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = _shortcut(c_in, c_out, stride, bias=bias, kind=shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, c_in, h, w]`` to ``[n, c_out, h / stride, w / stride]``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ZeroPadShortcut(nn.Module):
    """Shortcut A: every ``stride``-th pixel, new channels zero on both sides."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (c_out - c_in) // 2
        self.after = c_out - c_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, c_in, h, w]`` to ``[n, c_out, ceil(h / stride), ceil(w / stride)]``."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


def _shortcut(c_in: int, c_out: int, stride: int, *, bias: bool, kind: str) -> nn.Module:
    if c_in == c_out and stride == 1:
        return nn.Identity()
    if kind == "A":
        return ZeroPadShortcut(c_in, c_out, stride)
    projection = nn.Conv2d(c_in, c_out, 1, stride, bias=bias)
    if kind == "conv":
        return projection
    return nn.Sequential(projection, nn.BatchNorm2d(c_out))
