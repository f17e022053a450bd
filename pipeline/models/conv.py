"""Conv2, Conv4 and Conv6: the scaled-down VGGs of the lottery-ticket literature.

3x3 "same" convolutions with ReLU, a 2x2 max pool after each pair, three linear layers; no
batch norm, no dropout. 4,301,642 / 2,425,930 / 2,262,602 parameters at 3x32x32, 10 classes.

Source:
    Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019, figure 2. The paper prints
    1.7M for Conv-6; the definition it describes (and every public one) has 2.26M.
"""

from __future__ import annotations

from torch import nn

from pipeline.models import check_sizes


def conv2(
    classes: int, channels: int, size: int, width: int = 64, hidden: int = 256
) -> nn.Module:
    """Two 3x3 convolutions, one pool, three linear layers (Frankle & Carbin 2019)."""
    return _conv_net(channels, size, 1, width, hidden, classes)


def conv4(
    classes: int, channels: int, size: int, width: int = 64, hidden: int = 256
) -> nn.Module:
    """Four 3x3 convolutions, two pools, three linear layers (Frankle & Carbin 2019)."""
    return _conv_net(channels, size, 2, width, hidden, classes)


def conv6(
    classes: int, channels: int, size: int, width: int = 64, hidden: int = 256
) -> nn.Module:
    """Six 3x3 convolutions, three pools, three linear layers (Frankle & Carbin 2019)."""
    return _conv_net(channels, size, 3, width, hidden, classes)


def _conv_net(
    channels: int, size: int, pools: int, width: int, hidden: int, classes: int
) -> nn.Module:
    check_sizes(width=width, hidden=hidden)
    final = size // 2**pools
    if final < 1:
        raise ValueError(f"{pools} pools need at least {2**pools} pixels, got {size}")
    layers: list[nn.Module] = []
    for stage in range(pools):
        out = width * 2**stage
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(out, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = out
    layers += [nn.Flatten(), nn.Linear(channels * final * final, hidden), nn.ReLU()]
    layers += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)
