"""Operations on each element by itself, and the base of all that keep their channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.graph.rules import Call, Channels, Rule, Slots, target_of

_MODULES = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.SiLU,
    nn.GELU,
    nn.Sigmoid,
    nn.Tanh,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Softplus,
    nn.Softsign,
    nn.Mish,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.AlphaDropout,
)
_FUNCTIONS = (
    F.relu, F.relu6, F.leaky_relu, F.hardswish, F.hardsigmoid, F.hardtanh, F.silu, F.gelu,
    F.sigmoid, F.tanh, F.elu, F.selu, F.celu, F.softplus, F.softsign, F.mish, torch.relu,
    torch.sigmoid, torch.tanh, torch.clamp,
)  # fmt: skip
_METHODS = ("relu", "relu_", "sigmoid", "tanh", "clamp", "contiguous", "clone", "detach")
_DROPOUTS = (F.dropout, F.dropout2d)


def find(call: Call) -> Rule | None:
    """Return the rule of an element-wise operation with one tensor input."""
    target = target_of(call)
    # Any other node among the arguments would be a value that is not known here.
    if call.node.all_input_nodes != list(call.inputs) or len(call.inputs) != 1:
        return None
    if call.node.args[:1] != (call.inputs[0],):
        return None
    if target in _DROPOUTS and not call.argument(2, "training", default=True):
        return Pointwise()
    if target in _MODULES or target in _FUNCTIONS or target in _METHODS:
        return Pointwise()
    return None


class ChannelWise(Rule):
    """Channel i of the result comes from channel i of the one input."""

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Read what is needed and not constant."""
        return [needed & output.live]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Result and input are the same slots."""
        return inputs[0]


class Pointwise(ChannelWise):
    """An activation, or nothing at all: a constant c becomes f(c)."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Apply the operation itself to the constants."""
        # A row of its own shape keeps channel dropouts and in-place versions harmless.
        row = inputs[0].value.clone().view(1, -1, 1, 1)
        with torch.no_grad():
            value = _apply(call, row).view(-1)
        return Channels.of(inputs[0].live, value)


def _apply(call: Call, row: Tensor) -> Tensor:
    if call.module is not None:
        out = call.module(row)
    elif call.node.op == "call_method":
        out = getattr(row, str(call.node.target))(*call.node.args[1:], **call.node.kwargs)
    else:
        target = call.node.target
        assert callable(target)
        out = target(row, *call.node.args[1:], **call.node.kwargs)
    assert isinstance(out, Tensor)
    return out
