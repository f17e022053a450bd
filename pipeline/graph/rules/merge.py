"""Operations of several values, numbers and parameters: add, multiply, concatenate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from pipeline.graph.rules import (
    Call,
    Channels,
    Cut,
    Rule,
    Slots,
    is_parameter,
    operation,
    replace,
)

_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "iadd": torch.add, "sub": torch.sub, "isub": torch.sub,
    "subtract": torch.sub, "mul": torch.mul, "imul": torch.mul, "multiply": torch.mul,
    "div": torch.div, "truediv": torch.div, "itruediv": torch.div, "divide": torch.div,
    "expand_as": lambda left, _: left,
}  # fmt: skip


def find(call: Call) -> Rule | None:
    """Return the rule of a sum, a product, a quotient or a concatenation."""
    name = operation(call.node)
    if name in ("cat", "concat", "concatenate"):
        listed = call.argument(0, "tensors", ())
        axis = call.argument(1, "dim", call.node.kwargs.get("axis", 0))
        whole = isinstance(listed, tuple | list) and tuple(listed) == call.inputs
        return Concat(axis % len(call.shape)) if whole and isinstance(axis, int) else None
    if name not in _OPERATIONS:
        return None
    left_and_right = operands(call)
    if len(left_and_right) != 2 or not all(_is_known(call, one) for one in left_and_right):
        return None
    # The result is as large as one of the values; a parameter never makes it larger.
    whole = any(shape == call.shape for shape in call.input_shapes)
    return Elementwise(_OPERATIONS[name]) if whole else None


def operands(call: Call) -> tuple[Any, ...]:
    """Return left and right of the operation; none if it has options such as ``alpha``."""
    if call.node.kwargs.keys() - {"input", "other"}:
        return ()
    named = [call.node.kwargs[key] for key in ("input", "other") if key in call.node.kwargs]
    return (*call.node.args, *named)


def _is_known(call: Call, operand: object) -> bool:
    if isinstance(operand, fx.Node):
        return operand in call.inputs or is_parameter(operand)
    return isinstance(operand, int | float)


class Elementwise(Rule):
    """A sum, difference, product or quotient, broadcast as torch does it.

    Channels of both operands and of the result leave together. A parameter is a constant
    that is cut with the value it meets.
    """

    def __init__(self, compute: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.compute = compute

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Compute with the constants; zero times anything is zero."""
        known = dict(zip(call.inputs, inputs, strict=True))
        left, right = (_state(call, operand, known) for operand in operands(call))
        live = left.live | right.live
        if self.compute is torch.mul:
            zero = (~left.live & (left.value == 0)) | (~right.live & (right.value == 0))
            live = live & ~zero
        value = self.compute(left.value, right.value).expand(live.shape)
        shape = torch.broadcast_shapes(*(state.shape for state in inputs))
        return Channels.of(live | ~value.isfinite(), value).alike(_of_rank(shape, call))

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Read every operand, constant ones too: they are part of what is live."""
        return [needed & output.live for _ in inputs]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Tie the operands; one that is spread over the channels of the other stays."""
        shape = _of_rank(torch.broadcast_shapes(*(tensor.shape for tensor in inputs)), call)
        whole = []
        for tensor, actual in zip(inputs, call.input_shapes, strict=True):
            full = _of_rank(actual, call)
            if any(size == 1 < wide for size, wide in zip(full, shape, strict=True)):
                slots.pin(tensor)
            else:
                whole.append(tensor.expand(shape))
        for other in whole[1:]:
            slots.tie(whole[0], other)
        return whole[0]

    def cut(self, call: Call, cut: Cut) -> None:
        """Narrow a parameter like the value it meets."""
        if cut.output is None:
            return
        for operand in operands(call):
            if isinstance(operand, fx.Node) and is_parameter(operand):
                tensor = call.tensor(operand)
                axis = cut.output.axis - len(call.shape) + tensor.dim()
                if axis >= 0 and tensor.shape[axis] > 1:
                    prefix, _, name = str(operand.target).rpartition(".")
                    kept = tensor.detach().index_select(axis, cut.output.index)
                    replace(call.graph.get_submodule(prefix), name, kept.clone())


def _of_rank(shape: Sequence[int], call: Call) -> tuple[int, ...]:
    return (*[1] * (len(call.shape) - len(shape)), *shape)


def _state(call: Call, operand: object, known: dict[fx.Node, Channels]) -> Channels:
    """Return what is known of an operand: a value, a parameter or a number."""
    if not isinstance(operand, fx.Node):
        assert isinstance(operand, int | float)
        value = torch.tensor(float(operand), dtype=torch.float64)
        return Channels(torch.zeros([], dtype=torch.bool), value)
    if operand in known:
        return known[operand]
    value = call.tensor(operand).detach().double()
    return Channels(torch.zeros_like(value, dtype=torch.bool), value)


class Concat(Rule):
    """Values side by side: along the channels, or along another axis such as tokens."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """Channels of all values lie on the axis, or none do."""
        return not self._joins(call, [state.shape for state in inputs]) or all(
            math.prod(state.shape) == state.shape[self.axis] for state in inputs
        )

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Join the states in order, or compare them."""
        if self._joins(call, [state.shape for state in inputs]):
            return Channels(
                self._join(call, [state.live for state in inputs]),
                self._join(call, [state.value for state in inputs]),
            )
        shape = torch.broadcast_shapes(*(state.shape for state in inputs))
        live = torch.stack([state.live.expand(shape) for state in inputs]).any(0)
        values = torch.stack([state.value.expand(shape) for state in inputs])
        return Channels.of(live | (values != values[:1]).any(0), values[0])

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Give every input its part."""
        wanted = needed & output.live
        if not self._joins(call, [state.shape for state in inputs]):
            return [wanted for _ in inputs]
        return list(wanted.split(self._widths(call), self.axis))

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """The result's slots are those of the inputs, in order; or all are tied."""
        if self._joins(call, [tuple(tensor.shape) for tensor in inputs]):
            return self._join(call, inputs)
        shape = torch.broadcast_shapes(*(tensor.shape for tensor in inputs))
        for other in inputs[1:]:
            slots.tie(inputs[0].expand(shape), other.expand(shape))
        return inputs[0].expand(shape)

    def drops_empty(self) -> bool:
        """An input without channels adds none."""
        return True

    def cut(self, call: Call, cut: Cut) -> None:
        """Leave out inputs that have no channel left."""
        gone = {
            node
            for node, kept in zip(call.inputs, cut.inputs, strict=True)
            if kept is not None and not len(kept)
        }
        if gone:
            left = [node for node in call.inputs if node not in gone]
            call.node.args = (left, self.axis)
            call.node.kwargs = {}

    def _widths(self, call: Call) -> list[int]:
        return [shape[self.axis] for shape in call.input_shapes]

    def _joins(self, call: Call, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Tell whether the axis is the one on which the channels lie."""
        widths = [shape[self.axis] for shape in shapes]
        return any(width > 1 for width in widths) or widths == self._widths(call)

    def _join(self, call: Call, parts: Sequence[Tensor]) -> Tensor:
        spread = []
        for part, width in zip(parts, self._widths(call), strict=True):
            shape = list(part.shape)
            shape[self.axis] = width
            spread.append(part.expand(shape))
        return torch.cat(spread, self.axis)
