"""Which channels are live, which are constant, which are needed: an abstract interpretation.

One sweep forward finds, in evaluation mode, every channel whose value does not depend on the
image, and its constant; one sweep backward finds what the output reads. The dead test is
``any(w != 0)``, never a sum: a filter of +1 and -1 is alive. Constants do not depend on what
is needed, so the two sweeps are the fixed point.

Source:
    Exact recipe and its cases: the exactness matrix of the project's compaction tests.
    Effective sparsity: Vysogorets & Kempe, JMLR 24(99), 2023, arXiv:2107.02306.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from pipeline.graph.rules import (
    OPAQUE,
    Call,
    Channels,
    Rule,
    Slots,
    calls,
    is_channel_value,
    line,
    operation,
    split_of,
)
from pipeline.graph.rules.movement import Sized, sizes_of
from pipeline.graph.rules.norm import BATCH_NORMS


@dataclass(frozen=True)
class Liveness:
    """The state of every channel value of a graph.

    Attributes:
        calls: the calls in order, each with its rule.
        states: what is known of each value's channels.
        needed: boolean, of the state's shape; true where the output reads the channel.
        pinned: values whose width is part of the interface.
    """

    calls: list[tuple[Call, Rule]]
    states: dict[fx.Node, Channels]
    needed: dict[fx.Node, Tensor]
    pinned: list[fx.Node]

    def is_constant_everywhere(self) -> bool:
        """Tell whether no channel of any pinned output depends on the image."""
        outputs = [node for node in self.pinned if node.op != "placeholder"]
        return bool(outputs) and not any(self.states[node].live.any() for node in outputs)

    def cut_off(self) -> list[str]:
        """Return the layers at which a disconnected network loses the image, if it does.

        Going back from the output, they are the first that still read a live channel.
        """
        if not self.is_constant_everywhere():
            return []
        made_by = {call.node: call for call, _ in self.calls}
        open_nodes = [node for node in self.pinned if node in made_by]
        found: dict[str, None] = {}
        while open_nodes:
            call = made_by[open_nodes.pop()]
            if any(self.states[node].live.any() for node in call.inputs):
                found[call.name] = None
            else:
                open_nodes += [node for node in call.inputs if node in made_by]
        return sorted(found)


@torch.no_grad()
def analyse(
    graph: fx.GraphModule,
    *,
    paths_only: bool = False,
    observed: Mapping[str, Channels] | None = None,
) -> Liveness:
    """Interpret a traced graph forward and backward.

    Args:
        graph: from ``trace``; its nodes carry shapes.
        paths_only: take every constant for zero, so that live is what a path of weights
            joins to the image, as in the definition of effective sparsity.
        observed: channels that were seen to be constant on data, by node name; taken at
            their word.
    """
    found: list[tuple[Call, Rule]] = []
    states = {
        node: _of_input(node.meta["shape"])
        for node in graph.graph.nodes
        if node.op == "placeholder" and is_channel_value(node)
    }
    for call, rule in calls(graph):
        inputs = [states[node] for node in call.inputs]
        rule = rule if rule.fits(call, inputs) else OPAQUE
        state = rule.forward(call, inputs)
        if observed and call.node.name in observed:
            state = _with_observed(state, observed[call.node.name])
        states[call.node] = state.without_constants() if paths_only else state
        found.append((call, rule))
    pinned = _pinned(graph, found, states)
    needed = {node: torch.zeros_like(state.live) for node, state in states.items()}
    for node in pinned:
        needed[node] = torch.ones_like(needed[node])
    for call, rule in reversed(found):
        reads = rule.needs(
            call, [states[n] for n in call.inputs], states[call.node], needed[call.node]
        )
        for node, read in zip(call.inputs, reads, strict=True):
            needed[node] = needed[node] | _gathered(read, states[node].shape)
    return Liveness(found, states, needed, pinned)


def _of_input(shape: tuple[int, ...]) -> Channels:
    """Return the state of an input: all live, channels on axis 1."""
    return Channels.all_live([1, shape[1], *[1] * (len(shape) - 2)])


def _with_observed(state: Channels, seen: Channels) -> Channels:
    live = state.live & seen.live
    return Channels.of(live, torch.where(state.live, seen.value, state.value))


def _gathered(read: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return what is read of a value that was broadcast, in the shape of its state."""
    while read.dim() > len(shape):
        read = read.any(0)
    for axis, size in enumerate(shape):
        if size == 1 and read.shape[axis] > 1:
            read = read.any(axis, keepdim=True)
    return read.expand(shape)


def couple(liveness: Liveness) -> tuple[dict[fx.Node, Tensor], Slots]:
    """Return the group of every channel of every value, and the slots behind them.

    Channels of one group must leave together: they are tied by adds, products, batch norm,
    depthwise convolutions, or are columns of one flattened channel.
    """
    slots = Slots()
    numbers: dict[fx.Node, Tensor] = {}
    for node, state in liveness.states.items():
        if node.op == "placeholder":
            numbers[node] = slots.fresh(state.shape)
    for call, rule in liveness.calls:
        own = rule.couple(call, [numbers[n] for n in call.inputs], slots)
        numbers[call.node] = own.expand(liveness.states[call.node].shape)
    for node in liveness.pinned:
        slots.pin(numbers[node])
    roots = slots.roots()
    return {node: roots[tensor] for node, tensor in numbers.items()}, slots


def effective_masks(graph: fx.GraphModule, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mark the kept weights that lie on a path from the image to the output.

    Biases and batch norm are ignored, as in the definition of effective sparsity: a unit
    fed by nothing but its bias passes no signal on.

    Args:
        graph: a traced network; only its structure is used.
        masks: boolean mask of each prunable weight, by parameter name.

    Returns:
        Boolean masks of the same shapes, each a subset of its mask; empty for a layer that
        the network has and never calls.
    """
    bare = without_constants(graph, masks)
    liveness = analyse(bare, paths_only=True)
    used = dict(graph.named_parameters(remove_duplicate=False))
    effective = {n: m.clone() if n in used else m & False for n, m in masks.items()}
    for call, rule in liveness.calls:
        name = f"{call.node.target}.weight"
        if name not in masks or rule is OPAQUE:
            continue  # without a rule every kept weight counts as effective
        out = (liveness.needed[call.node] & liveness.states[call.node].live).flatten()
        live = liveness.states[call.inputs[0]].live
        effective[name] = masks[name] & joined(out, live, call.module)
    return effective


def joined(out: Tensor, live: Tensor, module: nn.Module | None) -> Tensor:
    """Return ``[out, in / groups, ...]``: which weights join a needed and a live channel.

    Args:
        out: of the outputs, ``[out]``.
        live: of the inputs, of any rank; one element holds for all.
        module: a convolution or linear layer.
    """
    assert isinstance(module, nn.Conv2d | nn.Linear)
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    live = line(live, module.weight.shape[1] * groups)
    joined = torch.cat(
        [
            o[:, None] & i[None, :]
            for o, i in zip(out.chunk(groups), live.chunk(groups), strict=True)
        ]
    )
    return joined[:, :, None, None] if isinstance(module, nn.Conv2d) else joined


def without_constants(graph: fx.GraphModule, masks: Mapping[str, Tensor]) -> fx.GraphModule:
    """Return a copy with masked weights all one, no biases, and neutral batch norms.

    Masks of layers that the network never calls, and a traced graph has not, are ignored.
    """
    bare = copy.deepcopy(graph)
    with torch.no_grad():
        for module in bare.modules():
            if isinstance(module, BATCH_NORMS):
                module.reset_running_stats()
                module.reset_parameters()
            elif isinstance(bias := getattr(module, "bias", None), nn.Parameter):
                bias.zero_()
        for name, weight in bare.named_parameters(remove_duplicate=False):
            if name in masks:
                weight.copy_(masks[name])
    return bare


def _pinned(
    graph: fx.GraphModule,
    known: list[tuple[Call, Rule]],
    states: Mapping[fx.Node, Channels],
) -> list[fx.Node]:
    """Return the values whose width others rely on: inputs, outputs, unknown readers."""
    inside = {call.node for call, _ in known}
    sized = {call.node for call, rule in known if isinstance(rule, Sized)}
    pinned = []
    for node in graph.graph.nodes:
        if not is_channel_value(node) or node.op == "output":
            continue
        readers = [
            user
            for user in node.users
            if user not in inside
            and not _is_split(user, inside)
            and not _is_harmless(user, sized, states)
        ]
        if node.op == "placeholder" or readers:
            pinned.append(node)
    return pinned


def _is_split(node: fx.Node, inside: set[fx.Node]) -> bool:
    """Tell whether a node splits a value into parts that are all calls of their own."""
    return bool(node.users) and all(
        user in inside and split_of(user) is node for user in node.users
    )


def _is_harmless(
    reader: fx.Node, sized: set[fx.Node], states: Mapping[fx.Node, Channels]
) -> bool:
    """Tell whether a reader asks for a property that the surgery does not disturb.

    The number of channels does change: it may be asked for only by code that ends in the
    size of a reshape on the axis of the channels, which the surgery rewrites.
    """
    if reader.op == "call_method" and reader.target == "dim":
        return True
    if reader.target is getattr and reader.args[1] in ("ndim", "dtype", "device"):
        return True
    return _asks_shape(reader) and _ends_in(reader, sized, states)


def _asks_shape(node: fx.Node) -> bool:
    by_method = node.op == "call_method" and node.target == "size"
    by_call = operation(node) == "sym_size"
    return by_method or by_call or (node.target is getattr and node.args[1:] == ("shape",))


def _ends_in(size: fx.Node, sized: set[fx.Node], states: Mapping[fx.Node, Channels]) -> bool:
    """Tell whether everything computed from a size is rewritten where it is used."""
    if _picks_another_axis(size, states):
        return True
    return all(
        _is_rewritten(user, size, states)
        if user in sized
        else user.op != "output"
        and user not in states
        and "value" in user.meta
        and _ends_in(user, sized, states)
        for user in size.users
    )


def _is_rewritten(reshape: fx.Node, size: fx.Node, states: Mapping[fx.Node, Channels]) -> bool:
    """Tell whether a reshape uses a number only as the size of the channels."""
    listed = sizes_of(reshape)
    shape = states[reshape].shape
    if reshape.kwargs or len(listed) != len(shape):
        return False
    return all(shape[axis] > 1 for axis, argument in enumerate(listed) if argument is size)


def _picks_another_axis(size: fx.Node, states: Mapping[fx.Node, Channels]) -> bool:
    """Tell whether a node is one size, of an axis on which no channels lie."""
    if operation(size) in ("size", "sym_size") and len(size.args) == 2:
        source, axis = size.args
    elif size.target is operator.getitem and isinstance(size.args[0], fx.Node):
        asked, axis = size.args
        assert isinstance(asked, fx.Node)
        if not _asks_shape(asked):
            return False
        source = asked.args[0]
    else:
        return False
    if not (isinstance(source, fx.Node) and isinstance(axis, int)) or source not in states:
        return False
    return states[source].shape[axis] == 1
