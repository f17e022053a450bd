"""Operations that move elements: flatten, view, crop and stride, padding."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.graph.rules import Call, Channels, Cut, Rule, Slots, target_of
from pipeline.graph.rules.pointwise import ChannelWise

_RESHAPES = ("view", "reshape", torch.reshape)
_FLATTENS = (nn.Flatten, torch.flatten, "flatten", *_RESHAPES)
_SQUEEZES = ("squeeze", "unsqueeze", torch.squeeze, torch.unsqueeze)
_PAD_MODULES = (nn.ZeroPad2d, nn.ConstantPad2d)


def find(call: Call) -> Rule | None:
    """Return the rule of a flattening, a spatial slice or a constant padding."""
    target = target_of(call)
    if len(call.inputs) != 1:
        return None
    if target in _FLATTENS and _flattens(call):
        return Flatten()
    if target is operator.getitem and _slices_space_only(call):
        return Slice()
    if target in _SQUEEZES and _moves_space_only(call):
        return Slice()
    if (target is F.pad or target in _PAD_MODULES) and _pads_with_zeros(call):
        return Pad()
    return None


def _flattens(call: Call) -> bool:
    shape = call.input_shapes[0]
    return call.shape == (shape[0], math.prod(shape[1:]))


def _slices_space_only(call: Call) -> bool:
    index = call.node.args[1]
    if not isinstance(index, tuple) or index[:2] != (slice(None), slice(None)):
        return False
    return all(isinstance(part, slice | int) for part in index)


def _moves_space_only(call: Call) -> bool:
    """Tell whether an axis is taken away or added behind batch and channels."""
    axis = call.argument(1, "dim", None)
    if not isinstance(axis, int):
        return False
    rank = max(len(call.input_shapes[0]), len(call.shape))
    return axis % rank >= 2 and call.shape[:2] == call.input_shapes[0][:2]


def _pads_with_zeros(call: Call) -> bool:
    amounts = _padding(call)
    if len(call.shape) != 4 or len(amounts) not in (4, 6):
        return False
    if call.module is not None:
        return not getattr(call.module, "value", 0.0) and all(a >= 0 for a in amounts)
    return (
        call.argument(2, "mode", "constant") == "constant"
        and not call.argument(3, "value", 0.0)
        and all(isinstance(amount, int) and amount >= 0 for amount in amounts)
    )


def _padding(call: Call) -> tuple[Any, ...]:
    """Return the amounts from the last axis backwards: left, right, top, bottom, ..."""
    if isinstance(call.module, _PAD_MODULES):
        return tuple(call.module.padding)
    amounts = call.argument(1, "pad", ())
    return tuple(amounts) if isinstance(amounts, tuple | list) else ()


class Flatten(Rule):
    """``[n, c, h, w]`` to ``[n, c h w]``: a channel's h w columns leave together."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Repeat every channel's state for its columns (NCHW order)."""
        times = call.shape[1] // inputs[0].width
        return Channels(
            inputs[0].live.repeat_interleave(times), inputs[0].value.repeat_interleave(times)
        )

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """A channel is read if any of its columns is."""
        return [(needed & output.live).view(inputs[0].width, -1).any(1)]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Every column is its channel's slot."""
        return inputs[0].repeat_interleave(call.shape[1] // inputs[0].numel())

    def cut(self, call: Call, cut: Cut) -> None:
        """Rewrite sizes that are baked into the code, or taken from another value."""
        if target_of(call) in _RESHAPES:
            call.node.args = (call.inputs[0], (-1, cut.output.numel()))
            call.node.kwargs = {}


class Slice(ChannelWise):
    """Part of the image, all of the channels."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Pass constants through."""
        return inputs[0]


class Pad(Rule):
    """Zeros around the image, or whole channels of zeros (shortcut A of CIFAR ResNets)."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """New channels are the constant zero; a border makes other constants vary."""
        before, after, spatial = _amounts(call)
        state = inputs[0]
        live = state.live | (state.value != 0) if spatial else state.live
        live = torch.cat([_zeros(before).bool(), live, _zeros(after).bool()])
        return Channels.of(live, torch.cat([_zeros(before), state.value, _zeros(after)]))

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Read the part that is not padding."""
        before, _, _ = _amounts(call)
        return [(needed & output.live)[before : before + inputs[0].width]]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """The padding has slots of its own."""
        before, after, _ = _amounts(call)
        return torch.cat([slots.fresh(before), inputs[0], slots.fresh(after)])

    def cut(self, call: Call, cut: Cut) -> None:
        """Pad by as many channels as stay on either side."""
        if call.module is not None:
            return
        before, _, _ = _amounts(call)
        width = call.input_shapes[0][1]
        front = int((cut.output < before).sum())
        back = int((cut.output >= before + width).sum())
        call.node.args = (call.inputs[0], (*_padding(call)[:4], front, back))
        call.node.kwargs = {}


def _zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.float64)


def _amounts(call: Call) -> tuple[int, int, bool]:
    """Return channels added before and after, and whether the image gets a border."""
    amounts = _padding(call)
    before, after = amounts[4:6] if len(amounts) == 6 else (0, 0)
    return before, after, any(amounts[:4])
