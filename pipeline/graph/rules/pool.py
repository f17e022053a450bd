"""Pooling and resizing: a constant stays what it is, unless zeros are averaged in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.graph.rules import Call, Channels, Rule, Slots, on_axis_only, operation
from pipeline.graph.rules.pointwise import ChannelWise

_PLAIN_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ReflectionPad2d,
    nn.ReplicationPad2d,
)  # fmt: skip
_PLAIN = frozenset(
    (
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
        "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "interpolate",
        "max_pool1d", "max_pool2d", "max_pool3d", "upsample_bilinear2d", "upsample_nearest2d",
    )
)  # fmt: skip
_AVERAGE_MODULES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_AVERAGE = frozenset(["avg_pool1d", "avg_pool2d", "avg_pool3d"])
_REDUCTIONS = frozenset(["mean", "amax", "amin"])


def find(call: Call) -> Rule | None:
    """Return the rule of a pooling layer, of a resize or of a mean over the image."""
    name = operation(call.node)
    if len(call.inputs) != 1 or call.node.args[:1] != (call.inputs[0],):
        return None
    if name in _REDUCTIONS:
        return Reduction() if call.node.all_input_nodes == [call.inputs[0]] else None
    kind = type(call.module).__name__ if call.module is not None else str(name)
    if len(call.shape) != len(call.input_shapes[0]) or not _is_of_rank(kind, len(call.shape)):
        return None
    if type(call.module) in _PLAIN_MODULES or name in _PLAIN:
        return Pool()
    if type(call.module) in _AVERAGE_MODULES or name in _AVERAGE:
        return AveragePool()
    return None


def _is_of_rank(kind: str, rank: int) -> bool:
    """Tell whether a layer such as ``MaxPool2d`` is given a batch, with channels on axis 1."""
    dims = re.search(r"(\d)d$", kind)
    return rank == 2 + int(dims[1]) if dims else rank >= 3


class Pool(ChannelWise):
    """Max pooling (which pads with minus infinity), adaptive pooling, resizing."""

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """Channels lie on axis 1."""
        return on_axis_only(inputs, 1)

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Pass constants through."""
        return inputs[0]


class AveragePool(Pool):
    """Average pooling; with padding that is counted, c is smaller on the border."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Keep constants where they are uniform; zero always is."""
        state = inputs[0]
        if self._is_uniform(call):
            return state
        return Channels.of(state.live | (state.value != 0), state.value)

    def _is_uniform(self, call: Call) -> bool:
        if call.module is not None:
            padding = getattr(call.module, "padding", 0)
            counted = getattr(call.module, "count_include_pad", True)
            divisor = getattr(call.module, "divisor_override", None)
        else:
            padding = call.argument(3, "padding", 0)
            counted = call.argument(5, "count_include_pad", default=True)
            divisor = call.argument(6, "divisor_override", None)
        padded = any(padding) if isinstance(padding, tuple | list) else bool(padding)
        return divisor is None and not (padded and counted)


class Reduction(Rule):
    """A mean or an extremum over axes along which all channels are alike."""

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """No channels lie on the axes that are reduced."""
        axes = _axes(call)
        return bool(axes) and all(inputs[0].shape[axis] == 1 for axis in axes)

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Pass constants through."""
        return Channels(_reduced(call, inputs[0].live), _reduced(call, inputs[0].value))

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Read what is needed and not constant."""
        return [(needed & output.live).view(inputs[0].shape)]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Result and input are the same slots."""
        return _reduced(call, inputs[0])


def _axes(call: Call) -> list[int]:
    axes = call.argument(1, "dim", ())
    rank = len(call.input_shapes[0])
    listed = axes if isinstance(axes, tuple | list) else (axes,)
    return [axis % rank for axis in listed if isinstance(axis, int)]


def _reduced(call: Call, tensor: Tensor) -> Tensor:
    """Take the reduced axes, all of size one, away or leave them, as the call does."""
    return tensor if len(call.shape) == tensor.dim() else tensor.squeeze(tuple(_axes(call)))
