"""Normalisations: batch norm with running statistics, and those that look at the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.graph.rules import Call, Channels, Cut, Rule, Slots, keep, on_axis, on_axis_only
from pipeline.graph.rules.pointwise import ChannelWise

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def find(call: Call) -> Rule | None:
    """Return the rule of a normalisation."""
    norm = call.module
    if call.node.all_input_nodes != list(call.inputs):
        return None
    rank = len(call.shape)
    if type(norm) in BATCH_NORMS and _norm(call).running_mean is not None:
        return BatchNorm()
    if type(norm) in _INSTANCE_NORMS and rank == 3 + _INSTANCE_NORMS.index(type(norm)):
        return InstanceNorm() if getattr(norm, "running_mean", None) is None else None
    if type(norm) is nn.GroupNorm and norm.affine:
        return Mixing(1)
    if type(norm) is nn.LayerNorm and norm.weight is not None:
        return Mixing(-1) if len(norm.normalized_shape) == 1 else None
    return None


class BatchNorm(ChannelWise):
    """An affine map per channel: beta + gamma (x - mean) / sqrt(var + eps).

    A channel whose gamma is zero is the constant beta, whatever comes in. The constant of a
    zero channel is ``beta - gamma mean / sqrt(var + eps)``, not beta.
    """

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """Channels lie on axis 1."""
        return on_axis_only(inputs, 1)

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Map the constants; cut the live ones whose gamma is zero."""
        rank = len(call.shape)
        scale, shift = (on_axis(side, 1, rank) for side in affine(_norm(call)))
        return Channels.of(inputs[0].live & (scale != 0), inputs[0].value * scale + shift)

    def cut(self, call: Call, cut: Cut) -> None:
        """Keep the statistics of the channels that stay."""
        norm = _norm(call)
        for name in ("weight", "bias", "running_mean", "running_var"):
            keep(norm, name, cut.output)
        if cut.output is not None:
            norm.num_features = len(cut.output)


def affine(norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a batch norm in evaluation mode, float64 ``[c]`` each."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    inverse = (var.double() + norm.eps).rsqrt()
    gamma = norm.weight.double() if norm.affine else torch.ones_like(inverse)
    beta = norm.bias.double() if norm.affine else torch.zeros_like(inverse)
    return gamma * inverse, beta - mean.double() * gamma * inverse


def _norm(call: Call) -> nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d:
    assert isinstance(call.module, BATCH_NORMS)
    return call.module


class InstanceNorm(ChannelWise):
    """Each channel of each image by itself, so that channels leave without harm.

    Zero becomes beta. Other constants would too, if torch did not divide the rounding of
    their mean by almost nothing: they count as live.
    """

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """Channels lie on axis 1."""
        return on_axis_only(inputs, 1)

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Map zero to beta; cut the live ones whose gamma is zero."""
        norm, state = call.module, inputs[0]
        assert isinstance(norm, _INSTANCE_NORMS)
        moves = state.live | (state.value != 0)
        if not norm.affine:
            return Channels.of(moves, state.value)
        rank = len(call.shape)
        live = moves & (on_axis(norm.weight.detach(), 1, rank) != 0)
        beta = on_axis(norm.bias.detach().double(), 1, rank)
        return Channels.of(live, beta.expand(live.shape))

    def cut(self, call: Call, cut: Cut) -> None:
        """Keep the parameters of the channels that stay."""
        norm = call.module
        assert isinstance(norm, _INSTANCE_NORMS)
        for name in ("weight", "bias"):
            keep(norm, name, cut.output)
        if cut.output is not None:
            norm.num_features = len(cut.output)


class Mixing(Rule):
    """Layer norm or group norm: its statistics need all channels, which therefore stay.

    What it makes of them may still be constant: beta, where gamma is zero.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """Channels lie on the axis that is normalised."""
        return on_axis_only(inputs, self.axis)

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Constant where gamma is zero."""
        norm = call.module
        assert isinstance(norm, nn.LayerNorm | nn.GroupNorm)
        rank, gamma = len(call.shape), norm.weight.detach()
        beta = norm.bias.detach() if norm.bias is not None else torch.zeros_like(gamma)
        live = on_axis(gamma != 0, self.axis, rank)
        return Channels.of(live, on_axis(beta.double(), self.axis, rank))

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Pin what goes in and what comes out."""
        slots.pin(inputs[0])
        own = slots.fresh([1] * len(call.shape))
        slots.pin(own)
        return own
