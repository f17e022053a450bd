"""Operations of several values: add, multiply, concatenate."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.graph.rules import Call, Channels, Rule, Slots, target_of
from pipeline.graph.rules.pointwise import ChannelWise

_ADD = (operator.add, operator.iadd, torch.add, "add", "add_")
_SUB = (operator.sub, torch.sub, "sub")
_MUL = (operator.mul, operator.imul, torch.mul, "mul", "mul_")


def find(call: Call) -> Rule | None:
    """Return the rule of a sum, a product or a concatenation along the channels."""
    target = target_of(call)
    if target in (torch.cat, torch.concat):
        axis = call.argument(1, "dim", call.node.kwargs.get("axis", 0))
        listed = call.argument(0, "tensors", ())
        whole = tuple(listed) == call.inputs
        return Concat() if axis in (1, 1 - len(call.shape)) and whole else None
    operands = _operands(call)
    if len(operands) != 2:
        return None
    if target in _MUL:
        return _binary(call, Product(), Scale())
    if target in _ADD:
        return _binary(call, Sum(1.0), Shift(1.0))
    if target in _SUB and operands[0] in call.inputs:
        return _binary(call, Sum(-1.0), Shift(-1.0))
    return None


def _operands(call: Call) -> tuple[Any, ...]:
    """Return left and right of the operation; none if it has options such as ``alpha``."""
    if call.node.kwargs.keys() - {"input", "other"}:
        return ()
    named = [call.node.kwargs[key] for key in ("input", "other") if key in call.node.kwargs]
    return (*call.node.args, *named)


def _binary(call: Call, both: Rule, scalar: Rule) -> Rule | None:
    """Choose by the operands: two values of one shape, or a value and a number."""
    operands = _operands(call)
    if all(arg in call.inputs for arg in operands):
        return both if all(shape == call.shape for shape in call.input_shapes) else None
    numbers = [arg for arg in operands if isinstance(arg, int | float)]
    return scalar if len(call.inputs) == 1 and len(numbers) == 1 else None


def _states(call: Call, items: Sequence[Channels]) -> tuple[Channels, Channels]:
    """Return left and right; ``x + x`` has one input node and two operands."""
    by_node = dict(zip(call.inputs, items, strict=True))
    left, right = (by_node[arg] for arg in _operands(call))
    return left, right


class _Tied(Rule):
    """Both operands and the result leave together."""

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Tie the operands channel by channel."""
        slots.tie(inputs[0], inputs[-1])
        return inputs[0]


class Sum(_Tied):
    """A residual add: constant only where every addend is."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Add the constants."""
        left, right = _states(call, inputs)
        return Channels.of(left.live | right.live, left.value + self.sign * right.value)

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Read every addend, constant ones too: they are part of a live sum."""
        return [needed & output.live for _ in inputs]


class Product(_Tied):
    """A gate: zero where either factor is the constant zero, else live if one is."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Multiply the constants; zero times anything is zero."""
        left, right = _states(call, inputs)
        zero = (~left.live & (left.value == 0)) | (~right.live & (right.value == 0))
        return Channels.of((left.live | right.live) & ~zero, left.value * right.value)

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Read both factors of what is needed and not constant."""
        return [needed & output.live for _ in inputs]


class Shift(ChannelWise):
    """A number added to (or, negative sign, subtracted from) every element."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Shift the constants."""
        return Channels.of(inputs[0].live, inputs[0].value + self.sign * _number(call))


class Scale(ChannelWise):
    """Every element times a number."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Scale the constants; a factor of zero leaves nothing live."""
        factor = _number(call)
        live = inputs[0].live if factor else torch.zeros_like(inputs[0].live)
        return Channels.of(live, inputs[0].value * factor)


def _number(call: Call) -> float:
    return next(float(arg) for arg in _operands(call) if isinstance(arg, int | float))


class Concat(Rule):
    """Values side by side along the channels."""

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Join the states in order."""
        return Channels(
            torch.cat([state.live for state in inputs]),
            torch.cat([state.value for state in inputs]),
        )

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Give every input its part."""
        wanted = needed & output.live
        return list(wanted.split([state.width for state in inputs]))

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """The result's slots are those of the inputs, in order."""
        return torch.cat(list(inputs))
