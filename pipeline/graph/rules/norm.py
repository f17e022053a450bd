"""Batch normalisation with running statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.graph.rules import Call, Channels, Cut, keep
from pipeline.graph.rules.pointwise import ChannelWise


def find(call: Call) -> BatchNorm | None:
    """Return the rule of a batch norm that has running statistics."""
    norm = call.module
    known = isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.running_mean is not None
    return BatchNorm() if known else None


class BatchNorm(ChannelWise):
    """An affine map per channel: beta + gamma (x - mean) / sqrt(var + eps).

    A channel whose gamma is zero is the constant beta, whatever comes in. The constant of a
    zero channel is ``beta - gamma mean / sqrt(var + eps)``, not beta.
    """

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Map the constants; cut the live ones whose gamma is zero."""
        scale, shift = affine(_norm(call))
        return Channels.of(inputs[0].live & (scale != 0), inputs[0].value * scale + shift)

    def cut(self, call: Call, cut: Cut) -> None:
        """Keep the statistics of the channels that stay."""
        norm = _norm(call)
        for name in ("weight", "bias", "running_mean", "running_var"):
            keep(norm, name, cut.output)
        norm.num_features = cut.output.numel()


def affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a batch norm in evaluation mode, float64 ``[c]`` each."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    inverse = (var.double() + norm.eps).rsqrt()
    gamma = norm.weight.double() if norm.affine else torch.ones_like(inverse)
    beta = norm.bias.double() if norm.affine else torch.zeros_like(inverse)
    return gamma * inverse, beta - mean.double() * gamma * inverse


def _norm(call: Call) -> nn.BatchNorm1d | nn.BatchNorm2d:
    assert isinstance(call.module, nn.BatchNorm1d | nn.BatchNorm2d)
    return call.module
