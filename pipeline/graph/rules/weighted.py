"""Convolutions, transposed convolutions and linear layers: everything with a kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.graph.rules import (
    Call,
    Channels,
    Cut,
    Kept,
    Rule,
    Slots,
    keep,
    line,
    on_axis,
    on_axis_only,
    replace,
)

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Layer = Conv | Transposed | nn.Linear

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def find(call: Call) -> Rule | None:
    """Return the rule of a layer with a kernel that is called with one value."""
    layer = call.module
    if call.node.all_input_nodes != list(call.inputs) or len(call.node.args) != 1:
        return None
    if type(layer) is nn.Linear:
        return Kernel(-1)
    if type(layer) not in (*_CONVOLUTIONS, *_TRANSPOSED):
        return None
    assert isinstance(layer, Conv | Transposed)
    if len(call.shape) != 2 + len(layer.kernel_size):
        return None  # one image without a batch axis
    if type(layer) in _CONVOLUTIONS and layer.groups == layer.in_channels > 1:
        return Depthwise(1)
    return Kernel(1)


def kernels(layer: Layer) -> Tensor:
    """Return the weight as ``[groups, outputs / group, inputs / group, positions]``."""
    if isinstance(layer, nn.Linear):
        return layer.weight[None, :, :, None]
    parts = layer.weight.reshape(layer.groups, -1, *layer.weight.shape[1:]).flatten(3)
    return parts.transpose(1, 2) if isinstance(layer, _TRANSPOSED) else parts


def varies(layer: Layer) -> bool:
    """Tell whether a constant input gives an output that varies over the image.

    It does where zeros are padded around the image, and in every transposed convolution,
    of whose kernels more or fewer overlap.
    """
    if isinstance(layer, nn.Linear):
        return False
    if isinstance(layer, _TRANSPOSED):
        return True
    if layer.padding_mode != "zeros":
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same" and any(
            d * (k - 1) > 0 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        )
    return any(p > 0 for p in layer.padding)


def layer_of(call: Call) -> Layer:
    """Return the layer of a call that this rule was found for."""
    assert isinstance(call.module, Layer)
    return call.module


def output_axis(layer: nn.Module) -> int:
    """Return the axis of a weight on which its outputs lie."""
    return 1 if isinstance(layer, _TRANSPOSED) else 0


def widths(layer: Layer) -> tuple[int, int]:
    """Return how many inputs and outputs a layer has."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


class Kernel(Rule):
    """A linear map of channels, in one group or several.

    Attributes:
        axis: on which the channels lie: 1, or -1 for a linear layer.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self._reads: Tensor | None = None  # weights are large, and looked through once

    def reads(self, call: Call) -> Tensor:
        """Return which input each output reads, ``[groups, outputs / group, inputs / group]``.

        ``any(w != 0)``, never a sum: a kernel of +1 and -1 reads.
        """
        if self._reads is None:
            weight = kernels(layer_of(call)).detach()
            largest = weight.abs().amax(3) if weight.shape[3] > 1 else weight[..., 0]
            self._reads = largest != 0
        return self._reads

    def is_empty(self, call: Call) -> Tensor:
        """Return which outputs ``[out]`` read no input at all."""
        return ~any_of(self.reads(call), 2).flatten()

    def read_by(self, call: Call, outputs: Tensor) -> Tensor:
        """Return the inputs ``[in]`` that the given outputs ``[out]`` read."""
        reads = self.reads(call)
        return any_of(reads & outputs.view(reads.shape[0], -1, 1), 1).flatten()

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """Channels lie on one axis."""
        return on_axis_only(inputs, self.axis)

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Constant where every kernel that is not all zero reads a constant channel."""
        layer, reads = layer_of(call), self.reads(call)
        parts, _, per_group = reads.shape
        state = inputs[0].line(parts * per_group)
        moves = state.live | (state.value != 0) if varies(layer) else state.live
        live = any_of(reads & moves.view(parts, 1, per_group), 2).flatten()
        value = torch.zeros(live.numel(), dtype=torch.float64)
        if bool((~live & ~self.is_empty(call)).any()):
            value = shift(layer, state.value)
        if layer.bias is not None:
            value = value + layer.bias.double()
        rank = len(call.shape)
        return Channels.of(
            on_axis(live, self.axis, rank), on_axis(value.detach(), self.axis, rank)
        )

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Read through the kernels that are not all zero."""
        read = self.read_by(call, needed & output.live)
        return [on_axis(read, self.axis, len(call.shape))]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Tie nothing: inputs and outputs leave independently."""
        _, outputs = widths(layer_of(call))
        return on_axis(slots.fresh([outputs]), self.axis, len(call.shape))

    def cut(self, call: Call, cut: Cut) -> None:
        """Slice the kernel on both sides, group by group."""
        layer = layer_of(call)
        if cut.inputs[0] is None and cut.output is None:
            return
        weight = kernels(layer)
        parts, per_group, into_group, _ = weight.shape
        inputs = _by_group(cut.inputs[0], parts, into_group)
        outputs = _by_group(cut.output, parts, per_group)
        left = [
            kernel.index_select(0, out).index_select(1, into)
            for kernel, out, into in zip(weight.detach(), outputs, inputs, strict=True)
            if out.numel()
        ]
        _store(layer, left[0][None] if len(left) == 1 else torch.stack(left))
        keep(layer, "bias", cut.output)


def any_of(marks: Tensor, axis: int) -> Tensor:
    """Return ``marks.any(axis)``, as a maximum of bytes, which is many times faster."""
    return marks.view(torch.uint8).amax(axis).bool()


def shift(layer: Layer, constants: Tensor) -> Tensor:
    """Return what constant inputs ``[in]`` add to each output, float64 ``[out]``."""
    weight = kernels(layer).detach()
    parts, outputs, per_group, positions = weight.shape
    grouped = constants.view(parts, per_group)
    read = grouped.any(0).nonzero().flatten()
    if not read.numel():
        return torch.zeros(parts * outputs, dtype=torch.float64)
    chosen = weight.index_select(2, read)
    wide = chosen.sum(3, dtype=torch.float64) if positions > 1 else chosen[..., 0].double()
    return (wide @ grouped[:, read].unsqueeze(2)).flatten()


def shift_bias(layer: Layer, moved: Tensor) -> None:
    """Add float64 ``[out]`` to the bias of a layer of ours, which gets one if it has none."""
    if layer.bias is None:
        layer.bias = nn.Parameter(moved.to(layer.weight.dtype, copy=True))
    else:
        layer.bias.copy_(layer.bias.double() + moved)


def _by_group(kept: Kept | None, parts: int, size: int) -> list[Tensor]:
    """Return the kept indices of each group, counted from the group's first."""
    if kept is None:
        return [torch.arange(size)] * parts
    index = kept.index
    return [index[index // size == part] - part * size for part in range(parts)]


def _store(layer: Layer, parts: Tensor) -> None:
    """Give a layer the kernel ``[groups, outputs / group, inputs / group, positions]``."""
    if isinstance(layer, nn.Linear):
        replace(layer, "weight", parts[0, :, :, 0].contiguous())
        layer.out_features, layer.in_features = parts.shape[1:3]
        return
    layer.groups = parts.shape[0]
    layer.out_channels = parts.shape[0] * parts.shape[1]
    layer.in_channels = parts.shape[0] * parts.shape[2]
    if isinstance(layer, _TRANSPOSED):
        parts = parts.transpose(1, 2)
    rows = parts.flatten(0, 1)
    replace(layer, "weight", rows.reshape(*rows.shape[:2], *layer.kernel_size).contiguous())


class Depthwise(Kernel):
    """A convolution of each channel by itself: its outputs leave with their input."""

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Tie each output to the one input it reads."""
        into, outputs = widths(layer_of(call))
        repeated = line(inputs[0], into).repeat_interleave(outputs // into)
        return on_axis(repeated, self.axis, len(call.shape))

    def cut(self, call: Call, cut: Cut) -> None:
        """Keep the kernels of the channels that stay, each a group of its own."""
        if cut.output is not None and cut.inputs[0] is not None:
            conv = layer_of(call)
            assert isinstance(conv, Conv)
            keep(conv, "weight", cut.output)
            keep(conv, "bias", cut.output)
            conv.in_channels = conv.groups = len(cut.inputs[0])
            conv.out_channels = len(cut.output)
