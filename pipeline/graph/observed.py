"""Channels that never change on data: a saving that is paid for, unlike that of compaction.

A channel whose activation is one constant over every image that was shown may still change on
the next one. To replace it by its constant is therefore a choice, made on the network that
exact compaction left, and its price in accuracy is measured.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from pipeline.core.record import Record
from pipeline.graph.channels import analyse
from pipeline.graph.plan import CutPlan
from pipeline.graph.planning import plan_cuts
from pipeline.graph.rules import OPAQUE, Channels, free_axis


@torch.no_grad()
def constant_on(graph: fx.GraphModule, batches: Iterable[Tensor]) -> dict[str, Channels]:
    """Return the live channels of each value that had one and the same value on all images.

    Args:
        graph: from ``trace``.
        batches: of normalised images, each ``[n, c, h, w]``.

    Returns:
        By node name, the value's state with those channels constant; values without any are
        left out.
    """
    liveness = analyse(graph)
    shapes = {
        call.node: liveness.states[call.node].shape
        for call, rule in liveness.calls
        if rule is not OPAQUE and call.node not in liveness.pinned
    }
    watch = _Extremes(graph, shapes)
    for images in batches:
        watch.run(images)
    found = {}
    for node, (low, high) in watch.extremes.items():
        constant = liveness.states[node].live & (low == high)
        if constant.any():
            found[node.name] = Channels.of(~constant, low.double())
    return found


class _Extremes(fx.Interpreter):
    """Runs a graph and keeps the smallest and the largest value of every channel."""

    def __init__(
        self, graph: fx.GraphModule, shapes: Mapping[fx.Node, tuple[int, ...]]
    ) -> None:
        super().__init__(graph)
        self.shapes = shapes
        self.extremes: dict[fx.Node, tuple[Tensor, Tensor]] = {}

    def run_node(self, node: fx.Node) -> Any:
        """Run one node."""
        result = super().run_node(node)
        shape = self.shapes.get(node)
        if shape is not None:
            uniform = tuple(axis for axis, size in enumerate(shape) if size == 1)
            low, high = torch.aminmax(_flat(result, uniform), dim=0)
            low, high = low.view(shape), high.view(shape)
            if node in self.extremes:
                before = self.extremes[node]
                low, high = torch.minimum(low, before[0]), torch.maximum(high, before[1])
            self.extremes[node] = (low, high)
        return result


def _flat(value: Tensor, uniform: tuple[int, ...]) -> Tensor:
    """Return ``[elements alike, channels]``; the channels in the order of their state."""
    others = [axis for axis in range(value.dim()) if axis not in uniform]
    return value.permute(*uniform, *others).flatten(len(uniform)).flatten(0, len(uniform) - 1)


class Seen(Record):
    """A channel that was one constant on every image.

    ``value`` is the name of the call whose result it is, ``channel`` the index in it.
    """

    value: str
    channel: int
    constant: float


def plan_paid(
    graph: fx.GraphModule, seen: Mapping[str, Channels], *, multiple: int = 1
) -> tuple[CutPlan, list[Seen]]:
    """Plan the removal of what was seen to be constant.

    A channel that has to stay (tied to another, or to carry constants) has to go on being
    computed, and counts as seen no more; the plan is made anew until it removes all that
    it takes for constant.

    Args:
        graph: from ``trace``, what exact compaction left.
        seen: from ``constant_on``.
        multiple: of which the widths are kept.

    Returns:
        The plan, and the channels that it takes for constant.
    """
    seen = dict(seen)
    while True:
        plan = plan_cuts(graph, seen, multiple=multiple)
        believed = {name: _left(plan, name, state) for name, state in seen.items()}
        if all(torch.equal(believed[name].live, state.live) for name, state in seen.items()):
            return plan, _listed(seen)
        seen = {name: state for name, state in believed.items() if not state.live.all()}


def _listed(seen: Mapping[str, Channels]) -> list[Seen]:
    return [
        Seen(value=name, channel=channel, constant=float(state.value.flatten()[channel]))
        for name, state in seen.items()
        for channel in (~state.live).flatten().nonzero().flatten().tolist()
    ]


def _left(plan: CutPlan, name: str, state: Channels) -> Channels:
    """Return the state with everything live again that stays in the plan.

    Where one channel stayed as a carrier, the next would in its turn: then only those of
    constant zero, which need none, are believed.
    """
    cut = plan.calls.get(name)
    if cut is None or cut.output is None:
        return Channels.all_live(state.shape)
    axis = free_axis(state.shape)
    stays = torch.zeros(state.shape[axis], dtype=torch.bool)
    stays[cut.output.kept] = True
    shape = [1] * len(state.shape)
    shape[axis] = -1
    live = state.live | stays.view(shape)
    if not torch.equal(live, state.live):
        live = live | (state.value != 0)
    return Channels.of(live, copy.deepcopy(state.value))
