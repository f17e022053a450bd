"""MobileNetV1 in the form that MLPerf Tiny takes for visual wake words.

A 3x3 stem that halves the image, then thirteen pairs of a 3x3 depthwise and a 1x1
convolution, each with batch norm and ReLU; global average pooling and one linear layer.
At 3x96x96, 2 classes and a width of 8: 216,322 trained parameters, 221,794 with the running
statistics that the reference counts too, and 7.5 million MACs.

Source:
    Howard et al., MobileNets, 2017, arXiv:1704.04861, table 1; MLPerf Tiny's visual wake
    words reference (Banbury et al. 2021, arXiv:2106.07597), whose convolutions have a bias.
    Deviation: strided convolutions pad one pixel on every side, the reference (TensorFlow's
    "same") only right and below.
"""

from __future__ import annotations

from torch import nn

from pipeline.models import check_sizes

#: Of the thirteen pairs: output channels as a multiple of the width, and stride.
_PAIRS = [(2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1)]


def mobilenet_v1(classes: int, channels: int, size: int, width: int = 8) -> nn.Module:
    """MobileNetV1 of MLPerf Tiny; width 8 is the multiplier 0.25, 32 the full network."""
    del size
    check_sizes(width=width)
    layers = _conv(channels, width, kernel=3, stride=2)
    c_in = width
    for times, stride in _PAIRS:
        c_out = width * times
        layers += _conv(c_in, c_in, kernel=3, stride=stride, groups=c_in)
        layers += _conv(c_in, c_out, kernel=1)
        c_in = c_out
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, classes)]
    return nn.Sequential(*layers)


def _conv(
    c_in: int, c_out: int, *, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    convolution = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups)
    return [convolution, nn.BatchNorm2d(c_out), nn.ReLU()]
