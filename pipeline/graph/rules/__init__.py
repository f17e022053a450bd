"""One small rule per operation: what it does to channels, and how it is cut.

A rule answers four questions about one call of the graph. *Forward*: which channels of the
result are live, and which are a constant c whatever the image? *Needs*: which channels of
each input does a needed, live channel of the result read through a non-zero weight?
*Couple*: which channels must leave together? *Cut*: the call (its module, its arguments)
for the channels that stay.

What is known of a value has the rank of the value, with size one along every axis on which
all elements are alike: ``[1, c, 1, 1]`` for a feature map, ``[1, 1, c]`` for tokens,
``[1, g, c / g, 1, 1]`` inside a channel shuffle. Whatever moves elements moves what is known
of them by the same call. An operation without a rule is opaque: it makes its elements live,
its inputs needed and nothing removable, which is slower, never wrong.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Channels:
    """What is known of the channels of one value.

    Attributes:
        live: boolean, of the value's rank; true where the channel depends on the image.
        value: float64, of the same shape; the constant where not live, zero where live.
    """

    live: Tensor
    value: Tensor

    @classmethod
    def all_live(cls, shape: Sequence[int]) -> Channels:
        """Return channels of which nothing is known."""
        return cls(
            torch.ones(tuple(shape), dtype=torch.bool),
            torch.zeros(tuple(shape), dtype=torch.float64),
        )

    @classmethod
    def of(cls, live: Tensor, value: Tensor) -> Channels:
        """Build the state, with zero in the place of what is live."""
        return cls(live, torch.where(live, torch.zeros_like(value), value))

    def without_constants(self) -> Channels:
        """Return the same state with every constant zero."""
        return Channels(self.live, torch.zeros_like(self.value))

    def line(self, size: int) -> Channels:
        """Return the state along its one axis, each ``[size]``."""
        return Channels(line(self.live, size), line(self.value, size))

    def alike(self, shape: Sequence[int]) -> Channels:
        """Return the state with these axes of size one; what differs along one is live."""
        live, value = self.live, self.value
        for axis, size in enumerate(shape):
            if size == 1 and live.shape[axis] > 1:
                differs = (value != value.narrow(axis, 0, 1)).any(axis, keepdim=True)
                live = live.any(axis, keepdim=True) | differs
                value = value.narrow(axis, 0, 1)
        return Channels.of(live, value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value's rank; one where all elements are alike."""
        return tuple(self.live.shape)


def line(tensor: Tensor, size: int) -> Tensor:
    """Return what is known along one axis as ``[size]``; a single element holds for all."""
    return tensor.flatten().expand(size)


def on_axis(values: Tensor, axis: int, rank: int) -> Tensor:
    """Return ``[c]`` as a tensor of a rank, its elements on an axis.

    >>> on_axis(torch.zeros(5), 1, 4).shape
    torch.Size([1, 5, 1, 1])
    """
    shape = [1] * rank
    shape[axis] = values.numel()
    return values.reshape(shape)


def free_axis(shape: Sequence[int]) -> int:
    """Return the axis along which channels leave: the first of the longest of a state."""
    return max(range(len(shape)), key=lambda axis: (shape[axis], -axis))


@dataclass(frozen=True)
class Call:
    """One node of the graph, the module it calls if it does, and its channel inputs.

    A part taken from a ``chunk`` or ``split`` counts as one call that reads what was split.
    """

    graph: fx.GraphModule
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

    @property
    def name(self) -> str:
        """Name of the layer, or of the node where no module is called."""
        return str(self.node.target if self.module is not None else self.node.name)

    def argument(self, position: int, name: str, default: Any) -> Any:
        """Return an argument of the call, given by position or by name."""
        if len(self.node.args) > position:
            return self.node.args[position]
        return self.node.kwargs.get(name, default)

    def tensor(self, node: fx.Node) -> Tensor:
        """Return the parameter or buffer that a ``get_attr`` node reads."""
        found = operator.attrgetter(str(node.target))(self.graph)
        assert isinstance(found, Tensor)
        return found


class Slots:
    """Channels that must leave together, as a union of numbered slots."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._pinned: set[int] = set()

    def fresh(self, shape: Sequence[int]) -> Tensor:
        """Return new slots, tied to nothing, as int64 of a shape."""
        start, count = len(self._parent), int(torch.Size(shape).numel())
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count).reshape(tuple(shape))

    def tie(self, left: Tensor, right: Tensor) -> None:
        """Make each slot of ``left`` leave only together with its partner in ``right``."""
        for a, b in zip(left.flatten().tolist(), right.flatten().tolist(), strict=True):
            self._parent[self._find(a)] = self._find(b)

    def pin(self, slots: Tensor) -> None:
        """Forbid these slots to leave at all."""
        self._pinned.update(slots.unique().tolist())

    def roots(self) -> Tensor:
        """Return the number of the group each slot belongs to, ``[slots]``."""
        return torch.tensor([self._find(s) for s in range(len(self._parent))]).long()

    def pinned_groups(self) -> set[int]:
        """Return the groups that hold a pinned slot."""
        return {self._find(slot) for slot in self._pinned}

    def _find(self, slot: int) -> int:
        parent = self._parent
        while parent[slot] != slot:
            parent[slot] = parent[parent[slot]]
            slot = parent[slot]
        return slot


@dataclass(frozen=True)
class Kept:
    """The indices that stay along the axis that channels leave from, int64 ``[kept]``."""

    axis: int
    index: Tensor

    def __len__(self) -> int:
        return self.index.numel()


@dataclass(frozen=True)
class Cut:
    """What stays of each input of a call and of its result; None where nothing leaves.

    ``sizes`` are those of the result's other axes on which channels lie.
    """

    inputs: tuple[Kept | None, ...]
    output: Kept | None
    sizes: Mapping[int, int]


class Rule:
    """The opaque rule, and the base of all others."""

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """Tell whether the channels of the inputs lie where the rule looks for them."""
        return True

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Return the state of the result's channels."""
        return Channels.all_live([1] * len(call.shape))

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Return, for each input, the channels that are read; ``needed`` is of the result."""
        return [torch.ones_like(state.live) for state in inputs]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Return the slots of the result, tied to those of the inputs as need be."""
        for tensor in inputs:
            slots.pin(tensor)
        own = slots.fresh([1] * len(call.shape))
        slots.pin(own)
        return own

    def drops_empty(self) -> bool:
        """Tell whether the call does without an input that has lost all channels."""
        return False

    def cut(self, call: Call, cut: Cut) -> None:
        """Narrow the call's module or arguments, in place, in a graph that is ours."""


OPAQUE = Rule()


def on_axis_only(states: Sequence[Channels], axis: int) -> bool:
    """Tell whether what is known of all values varies along one axis at most."""
    return all(
        size == 1 or number == axis % len(state.shape)
        for state in states
        for number, size in enumerate(state.shape)
    )


def is_channel_value(node: fx.Node) -> bool:
    """Tell whether a node computes a value that the rules can speak of."""
    return node.op != "get_attr" and len(node.meta.get("shape", ())) >= 2


def is_parameter(node: fx.Node) -> bool:
    """Tell whether a node reads a parameter or buffer of the network."""
    return node.op == "get_attr" and "shape" in node.meta


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
        call = Call(graph, node, module, _channel_inputs(node))
        shared = any(uses[key] > 1 for key in _state_of(call))
        rule = OPAQUE if shared or not call.inputs or _is_hooked(module) else rule_for(call)
        found.append((call, rule))
    return found


def _is_hooked(module: nn.Module | None) -> bool:
    """Tell whether other code runs when a module is called, which no rule knows of."""
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def _channel_inputs(node: fx.Node) -> tuple[fx.Node, ...]:
    source = split_of(node)
    inputs = (source if source is not None else node).all_input_nodes
    return tuple(n for n in inputs if is_channel_value(n))


#: What gives a list of parts of one value.
SPLITS = ("chunk", "split", "split_with_sizes", "unbind")


def split_of(node: fx.Node) -> fx.Node | None:
    """Return the ``chunk`` or ``split`` of which a node takes one part, if it does."""
    if node.target is not operator.getitem or not isinstance(node.args[1], int):
        return None
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source if operation(source) in SPLITS else None


def _state_of(call: Call) -> list[int]:
    """Return what identifies the tensors that a call computes with, and their module.

    A module without any, such as a ReLU, may be called as often as one likes.
    """
    direct = [
        id(call.tensor(node)) for node in call.node.all_input_nodes if is_parameter(node)
    ]
    return direct + (_identities(call.module) if call.module is not None else [])


def _identities(module: nn.Module) -> list[int]:
    tensors = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    return [id(module), *tensors] if tensors else []


def _uses(graph: fx.GraphModule) -> Counter[int]:
    uses: Counter[int] = Counter()
    for node in graph.graph.nodes:
        if node.op == "call_module":
            uses.update(_identities(graph.get_submodule(node.target)))
        elif node.op == "get_attr":
            read = id(operator.attrgetter(node.target)(graph))
            uses.update({read: len(node.users)})
    return uses


def rule_for(call: Call) -> Rule:
    """Return the rule of a call, the opaque one where no rule fits."""
    from pipeline.graph.rules import merge, movement, norm, pointwise, pool, weighted

    finders: list[Callable[[Call], Rule | None]] = [
        weighted.find,
        norm.find,
        pointwise.find,
        pool.find,
        merge.find,
        movement.find,
    ]
    return next((rule for find in finders if (rule := find(call))), OPAQUE)


#: Where torch keeps its functions; one of the same name from elsewhere is another function.
_HOMES = (torch, F, operator, torch._C._nn)


def operation(node: fx.Node) -> str | None:
    """Return torch's name of the function or method that a node calls.

    ``relu`` for ``torch.relu``, ``F.relu``, ``x.relu_()`` and ``aten.relu.default`` alike;
    None for a module or a function that is not torch's.
    """
    target = node.target
    if node.op == "call_method":
        return str(target).rstrip("_")
    if node.op != "call_function":
        return None
    if isinstance(target, torch._ops.OpOverload):
        space, _, name = target._schema.name.partition("::")
        return name.rstrip("_") if space == "aten" else None
    name = getattr(target, "__name__", "")
    if any(getattr(home, name, None) is target for home in _HOMES):
        return str(name).rstrip("_")
    if getattr(target, "__module__", None) == "torchvision.ops.stochastic_depth":
        return str(name)
    return None


@torch.no_grad()
def carried_out(call: Call, value: Tensor) -> Tensor:
    """Carry a call out on another tensor in the place of its one input."""
    split = split_of(call.node)
    node = call.node if split is None else split
    given = {call.inputs[0]: value}
    args, kwargs = fx.node.map_arg(
        (node.args, node.kwargs), lambda n: given[n] if n in given else n.meta["value"]
    )
    if call.module is not None:
        out = call.module(*args, **kwargs)
    elif node.op == "call_method":
        out = getattr(args[0], str(node.target))(*args[1:], **kwargs)
    else:
        assert callable(node.target)
        out = node.target(*args, **kwargs)
    out = out if split is None else out[call.node.args[1]]
    assert isinstance(out, Tensor)
    return out


def keep(module: nn.Module, name: str, kept: Kept | None, axis: int = 0) -> None:
    """Keep the given rows of a parameter or buffer of a module of ours."""
    tensor = getattr(module, name)
    if tensor is not None and kept is not None:
        rows = tensor.detach().index_select(axis, kept.index.to(tensor.device))
        replace(module, name, rows.clone())


def replace(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer, as what it was."""
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        setattr(module, name, value)
