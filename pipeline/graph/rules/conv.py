"""Convolutions: dense, depthwise and grouped, any padding, stride and dilation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.graph.rules import Call, Channels, Cut, Rule, Slots, keep


def find(call: Call) -> Rule | None:
    """Return the rule of a convolution module."""
    conv = call.module
    if type(conv) is not nn.Conv2d:
        return None
    if conv.groups == 1:
        return Dense()
    return Depthwise() if conv.groups == conv.in_channels else Grouped()


def is_zero_padded(conv: nn.Conv2d) -> bool:
    """Tell whether zeros surround the image, so that a constant is not constant there."""
    if conv.padding_mode != "zeros":
        return False
    if isinstance(conv.padding, str):
        return conv.padding == "same" and any(
            d * (k - 1) > 0 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
        )
    return any(p > 0 for p in conv.padding)


def _convolve(
    weight: Tensor, bias: Tensor | None, state: Channels, *, padded: bool
) -> Channels:
    """Propagate constants through a dense kernel ``[out, in, kh, kw]``."""
    reads = weight.flatten(2).any(2)
    varies = state.live | (state.value != 0) if padded else state.live
    live = (reads & varies).any(1)
    value = weight.double().sum((2, 3)) @ state.value
    if bias is not None:
        value = value + bias.double()
    return Channels.of(live, value)


class Dense(Rule):
    """A convolution in one group."""

    folds = True

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Constant where every kernel that is not all zero reads a constant channel."""
        conv = _conv(call)
        return _convolve(conv.weight, conv.bias, inputs[0], padded=is_zero_padded(conv))

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Read through the kernels that are not all zero; ``any(w != 0)``, never a sum."""
        reads = _conv(call).weight.flatten(2).any(2)
        return [reads[needed & output.live].any(0)]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Tie nothing: inputs and outputs leave independently."""
        return slots.fresh(call.shape[1])

    def cut(self, call: Call, cut: Cut) -> None:
        """Slice the kernel on both sides."""
        conv = _conv(call)
        keep(conv, "weight", cut.output)
        keep(conv, "weight", cut.inputs[0], axis=1)
        keep(conv, "bias", cut.output)
        conv.out_channels, conv.in_channels = cut.output.numel(), cut.inputs[0].numel()


class Grouped(Rule):
    """A convolution in several groups of several channels; its width is left alone."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """As for one group, group by group."""
        conv, state = _conv(call), inputs[0]
        biases = (
            conv.bias.chunk(conv.groups) if conv.bias is not None else [None] * conv.groups
        )
        parts = [
            _convolve(weight, bias, Channels(live, value), padded=is_zero_padded(conv))
            for weight, bias, live, value in zip(
                conv.weight.chunk(conv.groups),
                biases,
                state.live.chunk(conv.groups),
                state.value.chunk(conv.groups),
                strict=True,
            )
        ]
        return Channels(
            torch.cat([part.live for part in parts]), torch.cat([part.value for part in parts])
        )

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """As for one group, group by group."""
        conv = _conv(call)
        rows = (needed & output.live).chunk(conv.groups)
        weights = conv.weight.chunk(conv.groups)
        reads = [w.flatten(2).any(2)[row].any(0) for w, row in zip(weights, rows, strict=True)]
        return [torch.cat(reads)]


class Depthwise(Grouped):
    """A convolution of each channel by itself: its outputs leave with their input."""

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Tie each output to the one input it reads."""
        conv = _conv(call)
        return inputs[0].repeat_interleave(conv.out_channels // conv.in_channels)

    def cut(self, call: Call, cut: Cut) -> None:
        """Keep the kernels of the channels that stay."""
        conv = _conv(call)
        keep(conv, "weight", cut.output)
        keep(conv, "bias", cut.output)
        conv.in_channels = conv.groups = cut.inputs[0].numel()
        conv.out_channels = cut.output.numel()


def _conv(call: Call) -> nn.Conv2d:
    assert isinstance(call.module, nn.Conv2d)
    return call.module
