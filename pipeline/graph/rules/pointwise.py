"""Operations on each element by itself, and the base of all that keep their channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from pipeline.graph.rules import (
    Call,
    Channels,
    Cut,
    Rule,
    Slots,
    carried_out,
    keep,
    on_axis_only,
    operation,
)

_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Hardshrink,
    nn.SiLU, nn.GELU, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.ELU, nn.SELU,
    nn.CELU, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Mish, nn.Threshold, nn.Identity,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)  # fmt: skip
_FUNCTIONS = frozenset(
    (
        "abs", "alias", "celu", "clamp", "clamp_max", "clamp_min", "clip", "clone",
        "contiguous", "detach", "elu", "exp", "gelu", "hardshrink", "hardsigmoid", "hardswish",
        "hardtanh",
        "leaky_relu", "logsigmoid", "mish", "neg", "pow", "reciprocal", "relu", "relu6",
        "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "sqrt", "square",
        "tanh", "tanhshrink", "threshold",
    )
)  # fmt: skip
_IN_TRAINING_ONLY = frozenset(
    (
        "alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout",
        "stochastic_depth",
    )
)  # fmt: skip


def find(call: Call) -> Rule | None:
    """Return the rule of an element-wise operation with one tensor input."""
    # Any other node among the arguments would be a value that is not known here.
    if call.node.all_input_nodes != list(call.inputs) or len(call.inputs) != 1:
        return None
    others = tree_leaves((call.node.args[1:], call.node.kwargs))
    if call.node.args[:1] != (call.inputs[0],) or any(isinstance(o, fx.Node) for o in others):
        return None
    if type(call.module) is nn.PReLU:
        return Prelu()
    name = operation(call.node)
    if name in _IN_TRAINING_ONLY:
        idle = not _in_training(call, 3 if name == "stochastic_depth" else 2)
        return Idle() if idle else None
    return Pointwise() if type(call.module) in _MODULES or name in _FUNCTIONS else None


def _in_training(call: Call, position: int) -> bool:
    name = "train" if "train" in call.node.kwargs else "training"
    return bool(call.argument(position, name, default=True))


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


class Idle(ChannelWise):
    """Nothing at all in evaluation mode."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Pass constants through."""
        return inputs[0]


class Pointwise(ChannelWise):
    """An activation: a constant c becomes f(c)."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Apply the operation itself to the constants."""
        value = carried_out(call, inputs[0].value.clone())
        # What is no number (a root of a negative constant) is left to the network itself.
        return Channels.of(inputs[0].live | ~value.isfinite(), value)


class Prelu(ChannelWise):
    """A leaky activation with a learnt slope, one for all channels or one each."""

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """Channels lie on axis 1."""
        return on_axis_only(inputs, 1)

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Apply the slope to negative constants."""
        module = call.module
        assert isinstance(module, nn.PReLU)
        state, slope = inputs[0], module.weight.detach().double()
        slope = slope.view(-1, *[1] * (len(call.shape) - 2))
        value = torch.where(state.value < 0, slope * state.value, state.value)
        return Channels.of(state.live.expand(value.shape), value)

    def cut(self, call: Call, cut: Cut) -> None:
        """Keep the slopes of the channels that stay."""
        module = call.module
        assert isinstance(module, nn.PReLU)
        if module.num_parameters > 1 and cut.output is not None:
            keep(module, "weight", cut.output)
            module.num_parameters = len(cut.output)
