"""One small rule per operation: what it does to channels, and how it is cut.

A rule answers four questions about one call of the graph. *Forward*: which channels of the
result are live, and which are a constant c whatever the image? *Needs*: which channels of
each input does a needed, live channel of the result read through a non-zero weight?
*Couple*: which channels must leave together? *Cut*: the call (its module, its arguments)
for the channels that stay.

A channel is an index on axis 1. An operation without a rule is opaque: it makes its
channels live, its inputs needed and nothing removable, which is slower, never wrong.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Channels:
    """What is known of the channels of one value.

    Attributes:
        live: boolean ``[c]``; true where the channel depends on the image.
        value: float64 ``[c]``; the constant where not live, zero where live.
    """

    live: Tensor
    value: Tensor

    @classmethod
    def all_live(cls, width: int) -> Channels:
        """Return ``width`` channels of which nothing is known."""
        return cls(
            torch.ones(width, dtype=torch.bool), torch.zeros(width, dtype=torch.float64)
        )

    @classmethod
    def of(cls, live: Tensor, value: Tensor) -> Channels:
        """Build the state, with zero in the place of what is live."""
        return cls(live, torch.where(live, torch.zeros_like(value), value))

    def without_constants(self) -> Channels:
        """Return the same state with every constant zero."""
        return Channels(self.live, torch.zeros_like(self.value))

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.live.numel()


@dataclass(frozen=True)
class Call:
    """One node of the graph with its module, if it calls one, and its channel inputs."""

    node: fx.Node
    module: nn.Module | None
    inputs: tuple[fx.Node, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return tuple(self.node.meta["shape"])

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the channel inputs."""
        return [tuple(node.meta["shape"]) for node in self.inputs]

    def argument(self, position: int, name: str, default: Any) -> Any:
        """Return an argument of the call, given by position or by name."""
        if len(self.node.args) > position:
            return self.node.args[position]
        return self.node.kwargs.get(name, default)


class Slots:
    """Channels that must leave together, as a union of numbered slots."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._pinned: set[int] = set()

    def fresh(self, width: int) -> Tensor:
        """Return ``width`` new slots, tied to nothing, as int64 ``[width]``."""
        start = len(self._parent)
        self._parent.extend(range(start, start + width))
        return torch.arange(start, start + width)

    def tie(self, left: Tensor, right: Tensor) -> None:
        """Make each slot of ``left`` leave only together with its partner in ``right``."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            self._parent[self._find(a)] = self._find(b)

    def pin(self, slots: Tensor) -> None:
        """Forbid these slots to leave at all."""
        self._pinned.update(slots.tolist())

    def groups(self, slots: Tensor) -> Tensor:
        """Return the number of the group each slot belongs to, same shape."""
        return torch.tensor([self._find(slot) for slot in slots.tolist()], dtype=torch.int64)

    def pinned_groups(self) -> set[int]:
        """Return the groups that hold a pinned slot."""
        return {self._find(slot) for slot in self._pinned}

    def _find(self, slot: int) -> int:
        while self._parent[slot] != slot:
            self._parent[slot] = self._parent[self._parent[slot]]
            slot = self._parent[slot]
        return slot


@dataclass(frozen=True)
class Cut:
    """What stays around one call: kept indices of each input and of the result."""

    inputs: tuple[Tensor, ...]
    output: Tensor


class Rule:
    """The opaque rule, and the base of all others."""

    #: Whether constants of removed input channels can be folded into this call's bias.
    folds: ClassVar[bool] = False

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Return the state of the result's channels."""
        del inputs
        return Channels.all_live(call.shape[1])

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Return, for each input, the channels that are read; ``needed`` is of the result."""
        del call, output, needed
        return [torch.ones(state.width, dtype=torch.bool) for state in inputs]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Return the slots of the result, tied to those of the inputs as need be."""
        for tensor in inputs:
            slots.pin(tensor)
        own = slots.fresh(call.shape[1])
        slots.pin(own)
        return own

    def cut(self, call: Call, cut: Cut) -> None:
        """Narrow the call's module or arguments, in place, in a graph that is ours."""


OPAQUE = Rule()


def is_channel_value(node: fx.Node) -> bool:
    """Tell whether a value has a channel axis that the rules can speak of."""
    return len(node.meta.get("shape", ())) >= 2


def calls(graph: fx.GraphModule) -> list[tuple[Call, Rule]]:
    """Return every call that yields a channel value, in order, with its rule.

    A module called twice, or one that shares a parameter with another, would have to be
    cut the same way in both places; it is left opaque.
    """
    uses = _uses(graph)
    found = []
    for node in graph.graph.nodes:
        if node.op in ("placeholder", "output") or not is_channel_value(node):
            continue
        module = graph.get_submodule(node.target) if node.op == "call_module" else None
        inputs = tuple(n for n in node.all_input_nodes if is_channel_value(n))
        call = Call(node, module, inputs)
        shared = module is not None and any(uses[key] > 1 for key in _identities(module))
        direct = any(n.op == "get_attr" for n in (node, *node.all_input_nodes))
        rule = OPAQUE if shared or direct or not inputs else rule_for(call)
        found.append((call, rule))
    return found


def _identities(module: nn.Module) -> list[int]:
    """Return what identifies a module with a state, and each tensor of that state.

    A module without any, such as a ReLU, may be called as often as one likes.
    """
    tensors = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    return [id(module), *tensors] if tensors else []


def _uses(graph: fx.GraphModule) -> Counter[int]:
    uses: Counter[int] = Counter()
    for node in graph.graph.nodes:
        if node.op == "call_module":
            uses.update(_identities(graph.get_submodule(node.target)))
        elif node.op == "get_attr":
            uses.update([id(operator.attrgetter(node.target)(graph))])
    return uses


def rule_for(call: Call) -> Rule:
    """Return the rule of a call, the opaque one where no rule fits."""
    from pipeline.graph.rules import conv, linear, merge, norm, pointwise, pool, reshape

    finders: list[Callable[[Call], Rule | None]] = [
        conv.find,
        linear.find,
        norm.find,
        pointwise.find,
        pool.find,
        merge.find,
        reshape.find,
    ]
    return next((rule for find in finders if (rule := find(call))), OPAQUE)


def target_of(call: Call) -> Any:
    """Return what identifies the operation: the module's type, the function, the method."""
    return type(call.module) if call.module is not None else call.node.target


def keep(module: nn.Module, name: str, index: Tensor, axis: int = 0) -> None:
    """Keep the given rows of a parameter or buffer of a module of ours."""
    tensor = getattr(module, name)
    if tensor is None:
        return
    kept = tensor.detach().index_select(axis, index.to(tensor.device)).clone()
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, nn.Parameter(kept, requires_grad=tensor.requires_grad))
    else:
        setattr(module, name, kept)
