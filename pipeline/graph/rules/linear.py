"""Linear layers on ``[n, features]``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.graph.rules import Call, Channels, Cut, Rule, Slots, keep


def find(call: Call) -> Rule | None:
    """Return the rule of a linear layer whose features lie on axis 1."""
    return Dense() if type(call.module) is nn.Linear and len(call.shape) == 2 else None


class Dense(Rule):
    """A matrix product and a bias."""

    folds = True

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Constant where every non-zero weight reads a constant feature."""
        linear, state = _linear(call), inputs[0]
        live = ((linear.weight != 0) & state.live).any(1)
        value = linear.weight.double() @ state.value
        if linear.bias is not None:
            value = value + linear.bias.double()
        return Channels.of(live, value)

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Read through the non-zero weights."""
        return [(_linear(call).weight[needed & output.live] != 0).any(0)]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Tie nothing: inputs and outputs leave independently."""
        return slots.fresh(call.shape[1])

    def cut(self, call: Call, cut: Cut) -> None:
        """Slice the matrix on both sides."""
        linear = _linear(call)
        keep(linear, "weight", cut.output)
        keep(linear, "weight", cut.inputs[0], axis=1)
        keep(linear, "bias", cut.output)
        linear.out_features, linear.in_features = cut.output.numel(), cut.inputs[0].numel()


def _linear(call: Call) -> nn.Linear:
    assert isinstance(call.module, nn.Linear)
    return call.module
