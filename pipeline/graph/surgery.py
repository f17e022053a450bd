"""Compaction: a plan carried out on a network, which becomes smaller and computes the same."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from pipeline.graph.branches import cut_branches
from pipeline.graph.plan import CutPlan, Fold, Stay
from pipeline.graph.planning import MAY_LEAVE_LATER, plan_cuts
from pipeline.graph.rules import Cut, Kept, calls
from pipeline.graph.rules.weighted import output_axis, shift, shift_bias, widths
from pipeline.graph.subnormals import flush_subnormals
from pipeline.graph.trace import Shape, trace


def compact(
    model: nn.Module, shape: Shape, *, multiple: int = 1
) -> tuple[fx.GraphModule, CutPlan]:
    """Return a physically smaller network with the same outputs, and the plan it obeyed.

    Args:
        model: a network with zeros in its weights; it is not changed.
        shape: of one input image, ``(c, h, w)``, or of one of each input.
        multiple: of which the widths are kept, by dead channels, where kernels like it.

    Raises:
        PareError: the network cannot be traced.
    """
    graph = trace(model, shape)
    plan = _all_rounds(graph, shape, multiple)
    return _next_rounds(_carry_out(graph, plan), shape, plan), plan


def _all_rounds(graph: fx.GraphModule, shape: Shape, multiple: int) -> CutPlan:
    """Plan until nothing leaves; after the first round in float64.

    What is folded in a later round would otherwise be a constant that an earlier one rounded.
    """
    plan = plan_cuts(graph, multiple=multiple)
    if plan.is_empty or not any(kept.why in MAY_LEAVE_LATER for kept in plan.kept):
        return plan
    wide = _carry_out(copy.deepcopy(graph).double(), plan)
    again = _all_rounds(trace(wide, shape), shape, multiple)
    return plan if again.is_empty else plan.followed_by(again)


def rebuild(model: nn.Module, shape: Shape, plan: CutPlan) -> fx.GraphModule:
    """Return the architecture a plan leads to, ready for its saved weights.

    Needs the network's code and the plan alone, so that a compact network travels as a
    state dict and a JSON file. The weights' values are meaningless until loaded.
    """
    return _next_rounds(_carry_out(trace(model, shape), plan), shape, plan)


def _next_rounds(small: fx.GraphModule, shape: Shape, plan: CutPlan) -> fx.GraphModule:
    """Carry out what a plan says of the network that its first round left."""
    return rebuild(small, shape, plan.again) if plan.again else small


def perform(graph: fx.GraphModule, plan: CutPlan) -> fx.GraphModule:
    """Carry a plan out on a copy of the graph, and flush what fell below the normal range."""
    shapes = [n.meta["shape"][1:] for n in graph.graph.nodes if n.op == "placeholder"]
    return _next_rounds(_carry_out(copy.deepcopy(graph), plan), tuple(shapes), plan)


@torch.no_grad()
def _carry_out(graph: fx.GraphModule, plan: CutPlan) -> fx.GraphModule:
    """Carry a plan out in place, on a graph that is ours; large weights are copied once."""
    cut_branches(graph, plan.branches)
    for layer, fold in plan.folds.items():
        _fold(graph, layer, fold)
    for call, rule in calls(graph):
        if (cut := plan.calls.get(call.node.name)) is not None:
            inputs, output = tuple(map(_left, cut.inputs)), _left(cut.output)
            rule.cut(call, Cut(inputs, output, cut.sizes))
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    flush_subnormals(graph)
    return graph


def _fold(graph: fx.GraphModule, name: str, fold: Fold) -> None:
    """Add the constants of removed inputs to their reader, whose width is still the old."""
    layer = graph.get_submodule(name)
    assert isinstance(layer, nn.Linear) or hasattr(layer, "in_channels")
    into, _ = widths(layer)  # type: ignore[arg-type]  # one of the layers with a kernel
    kind, _, place = fold.into.partition(":")
    constants = torch.zeros(into, dtype=torch.float64)
    values = torch.tensor(list(fold.constants.values()), dtype=torch.float64)
    constants[list(fold.constants)] = values
    if kind == "carrier":
        _carry(layer, int(place), constants)
        return
    moved = shift(layer, constants)  # type: ignore[arg-type]  # as above
    if kind == "running_mean":
        mean = graph.get_submodule(place).running_mean
        assert isinstance(mean, Tensor)
        mean.copy_(mean.double() - moved)
    else:
        shift_bias(layer, moved)  # type: ignore[arg-type]  # as above


def _carry(layer: nn.Module, carrier: int, constants: Tensor) -> None:
    """Give the carrier's kernel what all constants together add."""
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    axis = 1 - output_axis(layer)
    read = constants.nonzero().flatten()
    parts = (constants[read] / constants[carrier]).to(torch.float64)
    wide = weight.index_select(axis, read).double().movedim(axis, -1)
    weight.select(axis, carrier).copy_(wide @ parts)


def _left(stay: Stay | None) -> Kept | None:
    return None if stay is None else Kept(stay.axis, torch.tensor(stay.kept).long())
