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
)
from pipeline.graph.rules.reshape import Flatten


@dataclass(frozen=True)
class Liveness:
    """The state of every channel value of a graph.

    Attributes:
        calls: the calls in order, each with its rule.
        states: what is known of each value's channels.
        needed: boolean ``[c]`` per value; true where the output reads the channel.
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
                found[str(call.node.target if call.module else call.node.name)] = None
            else:
                open_nodes += [node for node in call.inputs if node in made_by]
        return sorted(found)


@torch.no_grad()
def analyse(graph: fx.GraphModule, *, paths_only: bool = False) -> Liveness:
    """Interpret a traced graph forward and backward.

    Args:
        graph: from ``trace``; its nodes carry shapes.
        paths_only: take every constant for zero, so that live is what a path of weights
            joins to the image, as in the definition of effective sparsity.
    """
    found = calls(graph)
    pinned = _pinned(graph, found)
    states = {
        node: Channels.all_live(node.meta["shape"][1])
        for node in graph.graph.nodes
        if node.op == "placeholder" and is_channel_value(node)
    }
    for call, rule in found:
        state = rule.forward(call, [states[node] for node in call.inputs])
        states[call.node] = state.without_constants() if paths_only else state
    needed = {
        node: torch.zeros(state.width, dtype=torch.bool) for node, state in states.items()
    }
    for node in pinned:
        needed[node] = torch.ones_like(needed[node])
    for call, rule in reversed(found):
        reads = rule.needs(
            call, [states[n] for n in call.inputs], states[call.node], needed[call.node]
        )
        for node, read in zip(call.inputs, reads, strict=True):
            needed[node] = needed[node] | read
    return Liveness(found, states, needed, pinned)


def couple(liveness: Liveness) -> tuple[dict[fx.Node, Tensor], Slots]:
    """Return the group of every channel of every value, and the slots behind them.

    Channels of one group must leave together: they are tied by adds, products, batch norm,
    depthwise convolutions, or are columns of one flattened channel.
    """
    slots = Slots()
    numbers: dict[fx.Node, Tensor] = {}
    for node, state in liveness.states.items():
        if node.op == "placeholder":
            numbers[node] = slots.fresh(state.width)
    for call, rule in liveness.calls:
        numbers[call.node] = rule.couple(call, [numbers[n] for n in call.inputs], slots)
    for node in liveness.pinned:
        slots.pin(numbers[node])
    return {node: slots.groups(tensor) for node, tensor in numbers.items()}, slots


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
        out = liveness.needed[call.node] & liveness.states[call.node].live
        live = liveness.states[call.inputs[0]].live
        effective[name] = masks[name] & joined(out, live, call.module)
    return effective


def joined(out: Tensor, live: Tensor, module: nn.Module | None) -> Tensor:
    """Return ``[out, in / groups, ...]``: which weights join a needed and a live channel."""
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
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
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.reset_running_stats()
                module.reset_parameters()
            elif isinstance(bias := getattr(module, "bias", None), nn.Parameter):
                bias.zero_()
        for name, weight in bare.named_parameters(remove_duplicate=False):
            if name in masks:
                weight.copy_(masks[name])
    return bare


def _pinned(graph: fx.GraphModule, known: list[tuple[Call, Rule]]) -> list[fx.Node]:
    """Return the values whose width others rely on: inputs, outputs, unknown readers."""
    inside = {call.node for call, _ in known}
    flattening = {call.node for call, rule in known if isinstance(rule, Flatten)}
    pinned = []
    for node in graph.graph.nodes:
        if not is_channel_value(node) or node.op == "output":
            continue
        readers = [
            user
            for user in node.users
            if user not in inside and not _is_harmless(user, flattening)
        ]
        if node.op == "placeholder" or readers:
            pinned.append(node)
    return pinned


def _is_harmless(reader: fx.Node, flattening: set[fx.Node]) -> bool:
    """Tell whether a reader asks for a property that the surgery does not disturb.

    The number of channels does change: it may be asked for only by code that ends in a
    flattening, whose sizes the surgery rewrites.
    """
    if reader.op == "call_method" and reader.target == "dim":
        return True
    if reader.target is getattr and reader.args[1] in ("ndim", "dtype", "device"):
        return True
    return _asks_shape(reader) and _ends_in(reader, flattening)


def _asks_shape(node: fx.Node) -> bool:
    by_method = node.op == "call_method" and node.target == "size"
    return by_method or (node.target is getattr and node.args[1:] == ("shape",))


def _ends_in(size: fx.Node, flattening: set[fx.Node]) -> bool:
    """Tell whether everything computed from a size is the argument of a flattening."""
    if _picks_another_axis(size):
        return True
    return all(
        user in flattening
        or (user.op != "output" and not is_channel_value(user) and _ends_in(user, flattening))
        for user in size.users
    )


def _picks_another_axis(size: fx.Node) -> bool:
    """Tell whether a node is one size, that of the batch or of a spatial axis."""
    if size.op == "call_method" and size.target == "size" and len(size.args) == 2:
        source, axis = size.args
    elif size.target is operator.getitem and isinstance(size.args[0], fx.Node):
        asked, axis = size.args
        assert isinstance(asked, fx.Node)
        if not _asks_shape(asked):
            return False
        source = asked.args[0]
    else:
        return False
    if not (isinstance(source, fx.Node) and isinstance(axis, int)):
        return False
    shape: tuple[int, ...] | None = source.meta.get("shape")
    return shape is not None and axis % len(shape) != 1
