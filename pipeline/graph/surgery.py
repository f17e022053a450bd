"""Compaction: decide what leaves, write the decision down, obey it.

A group of coupled channels leaves if every one of its channels is constant or not needed.
The constants of what left are folded into the bias of each reader (or into the running mean
of the batch norm behind a convolution without bias). A bias would be wrong on the border of
a zero-padded convolution: there ONE constant channel stays as the *carrier*, with the kernel
``W_k + sum_i (c_i / c_k) W_i``, which is exact at every resolution.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from pipeline.core.record import Record
from pipeline.graph.channels import Liveness, analyse, couple
from pipeline.graph.rules import OPAQUE, Call, Cut, calls
from pipeline.graph.rules.conv import is_zero_padded
from pipeline.graph.rules.norm import BatchNorm
from pipeline.graph.trace import trace

SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


class LayerCut(Record):
    """What stays of one layer: indices of kept outputs and inputs, and the widths before."""

    kept_outputs: list[int]
    kept_inputs: list[int]
    outputs_before: int
    inputs_before: int


class Fold(Record):
    """Constants of removed inputs, and where in their reader they went.

    ``into`` is ``bias``, ``running_mean:<batch norm>`` or ``carrier:<input index>``.
    """

    constants: dict[int, float]
    into: str


class Removed(Record):
    """A channel that left, and why.

    ``no input``: all its weights are zero. ``constant``: it reads nothing but constants.
    ``no reader``: it is live, and the output does not depend on it.
    """

    layer: str
    channel: int
    reason: str
    constant: float | None


class Kept(Record):
    """A dead channel that stayed, and why."""

    layer: str
    channel: int
    why: str


class CutPlan(Record):
    """Everything compaction will do, before it does any of it."""

    layers: dict[str, LayerCut]
    folds: dict[str, Fold]
    calls: dict[str, tuple[list[list[int]], list[int]]]
    removed: list[Removed]
    kept: list[Kept]

    @property
    def is_empty(self) -> bool:
        """True where nothing can leave."""
        return not self.removed


@dataclass(frozen=True)
class _Decision:
    """Groups that leave, and the carrier of each padded reader that needs one."""

    leaving: frozenset[int]
    carriers: dict[fx.Node, int]
    why_kept: dict[int, str]


def compact(model: nn.Module, shape: tuple[int, ...]) -> tuple[fx.GraphModule, CutPlan]:
    """Return a physically smaller network with the same outputs, and the plan it obeyed.

    Args:
        model: a network with zeros in its weights; it is not changed.
        shape: of one input image, ``(c, h, w)``.

    Raises:
        PareError: the network cannot be traced.
    """
    graph = trace(model, shape)
    plan = plan_cuts(analyse(graph))
    return perform(graph, plan), plan


def rebuild(model: nn.Module, shape: tuple[int, ...], plan: CutPlan) -> fx.GraphModule:
    """Return the architecture a plan leads to, ready for its saved weights.

    Needs the network's code and the plan alone, so that a compact network travels as a
    state dict and a JSON file. The weights' values are meaningless until loaded.
    """
    return perform(trace(model, shape), plan)


@torch.no_grad()
def perform(graph: fx.GraphModule, plan: CutPlan) -> fx.GraphModule:
    """Carry a plan out on a copy of the graph, and flush what fell below the normal range."""
    graph = copy.deepcopy(graph)
    for layer, fold in plan.folds.items():
        _fold(graph, layer, fold)
    for call, rule in calls(graph):
        if call.node.name in plan.calls:
            inputs, output = plan.calls[call.node.name]
            rule.cut(call, Cut(tuple(_index(part) for part in inputs), _index(output)))
    graph.recompile()
    flush_subnormals(graph)
    return graph


def plan_cuts(liveness: Liveness) -> CutPlan:
    """Decide which channels leave, where their constants go, and why each left or stayed."""
    groups, slots = couple(liveness)
    decision = _decide(liveness, groups, slots.pinned_groups())
    stays = {
        node: ~torch.isin(numbers, torch.tensor(sorted(decision.leaving), dtype=torch.int64))
        for node, numbers in groups.items()
    }
    return CutPlan(
        layers=_layer_cuts(liveness, stays),
        folds=_folds(liveness, stays, decision.carriers),
        calls=_call_cuts(liveness, stays),
        removed=_removed(liveness, stays),
        kept=_kept(liveness, groups, stays, decision),
    )


def flush_subnormals(model: nn.Module) -> None:
    """Set parameters below the smallest normal float32 to zero: they cost time on a CPU."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.masked_fill_(tensor.abs() < SMALLEST_NORMAL, 0)


def _decide(
    liveness: Liveness, groups: Mapping[fx.Node, Tensor], pinned: set[int]
) -> _Decision:
    """Choose the leaving groups: all removable ones, less carriers and last channels."""
    stay = set(pinned)
    everything: set[int] = set()
    for node, numbers in groups.items():
        removable = ~liveness.states[node].live | ~liveness.needed[node]
        stay.update(numbers[~removable].tolist())
        everything.update(numbers.tolist())
    leaving = everything - stay
    why_kept: dict[int, str] = {}
    carriers: dict[fx.Node, int] = {}
    while True:
        carriers, rescued = _carriers(liveness, groups, leaving)
        reason = "carries the constants into a zero-padded convolution"
        if rescued is None:
            rescued = _emptied(liveness, groups, leaving)
            reason = "the layer would be empty without it"
        if rescued is None:
            return _Decision(frozenset(leaving), carriers, why_kept)
        leaving.discard(rescued)
        why_kept[rescued] = reason


def _emptied(
    liveness: Liveness, groups: Mapping[fx.Node, Tensor], leaving: set[int]
) -> int | None:
    """Return a group to keep in a value that would lose its last channel, if there is one."""
    for call, _ in liveness.calls:
        numbers = groups[call.node].tolist()
        if numbers and all(number in leaving for number in numbers):
            return int(numbers[0])
    return None


def _carriers(
    liveness: Liveness, groups: Mapping[fx.Node, Tensor], leaving: set[int]
) -> tuple[dict[fx.Node, int], int | None]:
    """Find a carrier for each padded reader of constants.

    Returns:
        The carrier's input index per reader, and a group that has to stay for one, if a
        reader has none yet (then the choice is made again).
    """
    carriers = {}
    for call, _ in liveness.calls:
        conv = call.module
        if not (isinstance(conv, nn.Conv2d) and conv.groups == 1 and is_zero_padded(conv)):
            continue
        state = liveness.states[call.inputs[0]]
        gone = _mask_of(groups[call.inputs[0]], leaving)
        rows = ~_mask_of(groups[call.node], leaving)
        reads = conv.weight[rows].flatten(2).any(2).any(0)
        nonzero = ~state.live & (state.value != 0)
        lost = gone & nonzero & reads
        if not lost.any():
            continue
        if (nonzero & ~gone).any():
            carriers[call.node] = int((state.value.abs() * (nonzero & ~gone)).argmax())
        else:
            index = int((state.value.abs() * lost).argmax())
            return carriers, int(groups[call.inputs[0]][index])
    return carriers, None


def _mask_of(numbers: Tensor, chosen: set[int]) -> Tensor:
    return torch.tensor([number in chosen for number in numbers.tolist()], dtype=torch.bool)


def _weighted(liveness: Liveness) -> list[Call]:
    """Return the calls of modules that have weights and a rule, in order."""
    return [
        call
        for call, rule in liveness.calls
        if rule is not OPAQUE and call.module is not None and _has_weight(call.module)
    ]


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)


def _layer_cuts(liveness: Liveness, stays: Mapping[fx.Node, Tensor]) -> dict[str, LayerCut]:
    return {
        str(call.node.target): LayerCut(
            kept_outputs=_indices(stays[call.node]),
            kept_inputs=_indices(stays[call.inputs[0]]),
            outputs_before=stays[call.node].numel(),
            inputs_before=stays[call.inputs[0]].numel(),
        )
        for call in _weighted(liveness)
    }


def _call_cuts(
    liveness: Liveness, stays: Mapping[fx.Node, Tensor]
) -> dict[str, tuple[list[list[int]], list[int]]]:
    """Return kept inputs and outputs of every call that loses a channel, by node name."""
    return {
        call.node.name: (
            [_indices(stays[node]) for node in call.inputs],
            _indices(stays[call.node]),
        )
        for call, _ in liveness.calls
        if not all(bool(stays[node].all()) for node in (*call.inputs, call.node))
    }


def _folds(
    liveness: Liveness, stays: Mapping[fx.Node, Tensor], carriers: Mapping[fx.Node, int]
) -> dict[str, Fold]:
    folds = {}
    norms = {call.node for call, rule in liveness.calls if isinstance(rule, BatchNorm)}
    for call, rule in liveness.calls:
        if not rule.folds:
            continue
        state = liveness.states[call.inputs[0]]
        lost = ~stays[call.inputs[0]] & ~state.live & (state.value != 0)
        if not lost.any():
            continue
        constants = {i: float(state.value[i]) for i in _indices(lost)}
        if call.node in carriers:
            carrier = carriers[call.node]
            constants[carrier] = float(state.value[carrier])
            into = f"carrier:{carrier}"
        else:
            into = _bias_of(call, norms)
        folds[str(call.node.target)] = Fold(constants=constants, into=into)
    return folds


def _bias_of(call: Call, norms: set[fx.Node]) -> str:
    """Choose the bias, or the running mean of the batch norm that alone reads the result."""
    assert call.module is not None
    readers = list(call.node.users)
    if call.module.bias is None and len(readers) == 1 and readers[0] in norms:
        return f"running_mean:{readers[0].target}"
    return "bias"


def _fold(graph: fx.GraphModule, layer: str, fold: Fold) -> None:
    """Add the constants of removed inputs to their reader, whose width is still the old."""
    module = graph.get_submodule(layer)
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    kind, _, place = fold.into.partition(":")
    if kind == "carrier":
        carrier = int(place)
        scale = fold.constants[carrier]
        wide = weight.double()
        kernel = sum(wide[:, i] * (c / scale) for i, c in fold.constants.items())
        weight[:, carrier] = kernel.to(weight.dtype)  # type: ignore[union-attr]  # never an empty sum
        return
    flat = weight.double().flatten(2).sum(2) if weight.dim() == 4 else weight.double()
    shift = torch.zeros(flat.shape[0], dtype=torch.float64)
    for index, constant in fold.constants.items():
        shift += flat[:, index] * constant
    if kind == "running_mean":
        mean = graph.get_submodule(place).running_mean
        assert isinstance(mean, Tensor)
        mean.copy_(mean.double() - shift)
    elif module.bias is None:
        module.bias = nn.Parameter(shift.to(weight.dtype))
    else:
        assert isinstance(module.bias, nn.Parameter)
        module.bias.copy_(module.bias.double() + shift)


def _producers(liveness: Liveness) -> list[Call]:
    """Return the calls that make channels of their own: convolutions and linear layers."""
    return [
        call for call in _weighted(liveness) if isinstance(call.module, nn.Conv2d | nn.Linear)
    ]


def _removed(liveness: Liveness, stays: Mapping[fx.Node, Tensor]) -> list[Removed]:
    removed = []
    for call in _producers(liveness):
        state = liveness.states[call.node]
        for channel in _indices(~stays[call.node]):
            constant = None if bool(state.live[channel]) else float(state.value[channel])
            reason = _reason(call, channel, live=constant is None)
            removed.append(
                Removed(
                    layer=str(call.node.target),
                    channel=channel,
                    reason=reason,
                    constant=constant,
                )
            )
    return removed


def _reason(call: Call, channel: int, *, live: bool) -> str:
    if live:
        return "no reader"
    weight = call.module.weight if call.module is not None else None
    assert isinstance(weight, Tensor)
    return "constant" if bool((weight[channel] != 0).any()) else "no input"


def _kept(
    liveness: Liveness,
    groups: Mapping[fx.Node, Tensor],
    stays: Mapping[fx.Node, Tensor],
    decision: _Decision,
) -> list[Kept]:
    """Say why a channel stayed although it is constant or nobody reads it."""
    live_partner = _live_partners(liveness, groups)
    kept = []
    for call in _producers(liveness):
        dead = ~liveness.states[call.node].live | ~liveness.needed[call.node]
        if call.node in liveness.pinned:
            dead = torch.zeros_like(dead)
        for channel in _indices(dead & stays[call.node]):
            group = int(groups[call.node][channel])
            why = decision.why_kept.get(group) or (
                f"tied to a live channel of {live_partner[group]}"
                if group in live_partner
                else "its width is part of the interface"
            )
            kept.append(Kept(layer=str(call.node.target), channel=channel, why=why))
    return kept


def _live_partners(liveness: Liveness, groups: Mapping[fx.Node, Tensor]) -> dict[int, str]:
    """Return, per group, a value in which it is live and needed."""
    partners: dict[int, str] = {}
    for call, _ in liveness.calls:
        alive = liveness.states[call.node].live & liveness.needed[call.node]
        for group in groups[call.node][alive].tolist():
            partners.setdefault(
                group, str(call.node.target if call.module else call.node.name)
            )
    return partners


def _indices(mask: Tensor) -> list[int]:
    return [int(i) for i in mask.nonzero().flatten()]


def _index(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
