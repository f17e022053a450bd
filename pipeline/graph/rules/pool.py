"""Pooling: a constant stays what it is, unless zeros of the padding are averaged in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.graph.rules import Call, Channels, Rule, target_of
from pipeline.graph.rules.pointwise import ChannelWise

_PLAIN = (
    nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, F.max_pool2d,
    F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.max_pool2d,
)  # fmt: skip
_AVERAGE = (nn.AvgPool2d, F.avg_pool2d)
_REDUCTIONS = (torch.mean, torch.amax, torch.amin, "mean", "amax", "amin")


def find(call: Call) -> Rule | None:
    """Return the rule of a pooling layer or of a mean over the image."""
    target = target_of(call)
    if len(call.inputs) != 1:
        return None
    if target in _REDUCTIONS:
        return Pool() if _reduces_space_only(call) else None
    if len(call.input_shapes[0]) != 4:
        return None
    if target in _PLAIN:
        return Pool()
    if target in _AVERAGE:
        return AveragePool()
    return None


def _reduces_space_only(call: Call) -> bool:
    """Tell whether a mean or a maximum runs over axes behind batch and channels."""
    axes = call.argument(1, "dim", ())
    axes = tuple(axes) if isinstance(axes, tuple | list) else (axes,)
    rank = len(call.input_shapes[0])
    return bool(axes) and all(isinstance(a, int) and a % rank >= 2 for a in axes)


class Pool(ChannelWise):
    """Max pooling (which pads with minus infinity), adaptive pooling, global means."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Pass constants through."""
        return inputs[0]


class AveragePool(ChannelWise):
    """Average pooling; with padding that is counted, c is smaller on the border."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Keep constants where they are uniform; zero always is."""
        state = inputs[0]
        if self._is_uniform(call):
            return state
        return Channels.of(state.live | (state.value != 0), state.value)

    def _is_uniform(self, call: Call) -> bool:
        if isinstance(call.module, nn.AvgPool2d):
            pool = call.module
            padding, counted = pool.padding, pool.count_include_pad
            divisor = pool.divisor_override
        else:
            padding = call.argument(3, "padding", 0)
            counted = call.argument(5, "count_include_pad", default=True)
            divisor = call.argument(6, "divisor_override", None)
        padded = any(padding) if isinstance(padding, tuple | list) else bool(padding)
        return divisor is None and not (padded and counted)
