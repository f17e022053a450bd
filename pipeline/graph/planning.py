"""Decide what leaves, where its constants go, and why each channel left or stayed.

A group of coupled channels leaves if every one of its channels is constant or not needed.
The constants of what left are folded into the bias of each reader (or into the running mean
of the batch norm behind a convolution without bias). A bias would be wrong on the border of
a zero-padded convolution: there ONE constant channel stays as the *carrier*, with the kernel
``W_k + sum_i (c_i / c_k) W_i``, which is exact at every resolution. A whole branch that is
constant leaves the sum or product that it met; its constant stays as a parameter, or goes
into the bias of the other side.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from pipeline.graph.branches import cut_branches, dead_branches
from pipeline.graph.channels import Liveness, analyse, couple
from pipeline.graph.plan import (
    Branch,
    CallCut,
    CutPlan,
    Fold,
    Folded,
    Kept,
    LayerCut,
    Removed,
    Stay,
)
from pipeline.graph.rules import OPAQUE, Call, Channels, Rule, free_axis, line
from pipeline.graph.rules.movement import Sized
from pipeline.graph.rules.norm import BatchNorm
from pipeline.graph.rules.weighted import Depthwise, Kernel, layer_of, varies, widths

EMPTY = "the layer would be empty without it"
UNEVEN = "the groups of a convolution have to be equally wide"
#: Why a channel stays that may leave once others have left.
MAY_LEAVE_LATER = (EMPTY, UNEVEN)


@dataclass(frozen=True)
class _Decision:
    """What leaves.

    Attributes:
        stays: per value, of its state's shape, true where the channel stays.
        dropped: values that leave as a whole, with the calls that make them.
        carriers: of each reader that needs one, the index of its input.
        why_kept: by group.
    """

    stays: dict[fx.Node, Tensor]
    dropped: set[fx.Node]
    carriers: dict[fx.Node, int]
    why_kept: dict[int, str]


@torch.no_grad()
def plan_cuts(
    graph: fx.GraphModule,
    observed: Mapping[str, Channels] | None = None,
    *,
    multiple: int = 1,
) -> CutPlan:
    """Decide which channels leave, where their constants go, and why each left or stayed.

    Args:
        graph: from ``trace``; it is not changed.
        observed: channels that were seen to be constant on data, by node name.
        multiple: so many channels, or a multiple of them, stay of each layer where it has
            them: kernels run at full speed on blocks of 4, 8 or 16. What stays for it is
            dead, and changes nothing.
    """
    first = liveness = analyse(graph, observed=observed)
    branches: list[Branch] = []
    while found := dead_branches(liveness):
        # In float64, lest what is folded further on is a constant rounded on its way.
        graph = copy.deepcopy(graph).double()
        cut_branches(graph, found)
        liveness = analyse(graph, observed=observed)
        branches += found
    groups, slots = couple(liveness)
    decision = _decide(liveness, groups, slots.pinned_groups(), multiple)
    folds = _folds(liveness, decision)
    return CutPlan(
        branches=branches,
        layers=_layer_cuts(first, liveness, decision),
        folds=folds,
        calls=_call_cuts(liveness, decision),
        removed=_removed(first, liveness, decision, _folded(liveness, groups, folds)),
        kept=_kept(liveness, groups, decision),
    )


def _decide(
    liveness: Liveness,
    groups: Mapping[fx.Node, Tensor],
    pinned: set[int],
    multiple: int = 1,
) -> _Decision:
    """Choose the leaving groups: all removable ones, less those that something relies on."""
    count = 1 + max((int(numbers.max()) for numbers in groups.values()), default=-1)
    leaving = torch.ones(count, dtype=torch.bool)
    leaving[torch.tensor(sorted(pinned), dtype=torch.int64)] = False
    for node, numbers in groups.items():
        removable = ~liveness.states[node].live | ~liveness.needed[node]
        leaving[numbers[~removable]] = False
    why_kept: dict[int, str] = {}
    while True:
        dropped, last = _emptied(liveness, groups, leaving)
        rescued: dict[int, str] = {}
        carriers: dict[fx.Node, int] = {}
        for call, rule in liveness.calls:
            if isinstance(rule, Kernel) and call.node not in dropped:
                found, carrier = _relied_on(liveness, groups, leaving, call, rule)
                rescued |= found
                if carrier is not None:
                    carriers[call.node] = carrier
        rescued = rescued or last  # what stays as a carrier need not stay as the last
        if not rescued and multiple > 1:
            rescued = _rounded(liveness, groups, leaving, dropped, multiple)
        if not rescued:
            stays = {node: ~leaving[numbers] for node, numbers in groups.items()}
            return _Decision(stays, dropped, carriers, why_kept)
        leaving[torch.tensor(list(rescued))] = False
        why_kept |= rescued


def _emptied(
    liveness: Liveness, groups: Mapping[fx.Node, Tensor], leaving: Tensor
) -> tuple[set[fx.Node], dict[int, str]]:
    """Find the values that lose all their channels, from the output backwards.

    Returns:
        Those that all readers do without, and a group to keep of each of the others.
    """
    leaving = leaving.clone()
    readers: dict[fx.Node, list[tuple[Call, Rule]]] = {}
    for call, rule in liveness.calls:
        for node in call.inputs:
            readers.setdefault(node, []).append((call, rule))
    empty: set[fx.Node] = set()
    rescued: dict[int, str] = {}
    for call, _ in reversed(liveness.calls):
        node, numbers = call.node, groups[call.node].flatten()
        if not bool(leaving[numbers].all()):
            continue
        known = readers.get(node, [])
        unneeded = all(reader.node in empty or rule.drops_empty() for reader, rule in known)
        if unneeded and {reader.node for reader, _ in known}.issuperset(node.users):
            empty.add(node)
        else:
            last = int(numbers[_dearest(liveness.states[node])])
            leaving[last] = False
            rescued[last] = EMPTY
    return empty, rescued


def _dearest(state: Channels) -> int:
    """Return the constant channel that has most to say; it may serve as a carrier too."""
    return int(torch.where(state.live, -1.0, state.value.abs()).argmax())


def _rounded(
    liveness: Liveness,
    groups: Mapping[fx.Node, Tensor],
    leaving: Tensor,
    dropped: set[fx.Node],
    multiple: int,
) -> dict[int, str]:
    """Return groups to keep so that layers are a multiple wide, as far as they ever were."""
    leaving = leaving.clone()
    rescued: dict[int, str] = {}
    for call in _producers(liveness):
        numbers = groups[call.node].flatten()
        gone = leaving[numbers]
        missing = -int((~gone).sum()) % multiple
        candidates = numbers[gone].unique().tolist()
        if call.node in dropped or missing > int(gone.sum()):
            continue
        for group in candidates[:missing]:
            leaving[group] = False
            rescued[group] = f"keeps the width a multiple of {multiple}"
    return rescued


def _relied_on(
    liveness: Liveness,
    groups: Mapping[fx.Node, Tensor],
    leaving: Tensor,
    call: Call,
    rule: Kernel,
) -> tuple[dict[int, str], int | None]:
    """Return groups that a layer needs though they could leave, and its carrier if any."""
    into, out = widths(layer_of(call))
    inputs, outputs = line(groups[call.inputs[0]], into), line(groups[call.node], out)
    parts = 1 if isinstance(rule, Depthwise) else getattr(call.module, "groups", 1)
    rescued: dict[int, str] = {}
    if parts > 1:
        uneven = _uneven(leaving[inputs], leaving[outputs], parts)
        for numbers, surplus in zip((inputs, outputs), uneven, strict=True):
            for group in numbers[surplus].tolist():
                rescued[group] = UNEVEN
    if not varies(layer_of(call)) or isinstance(rule, Depthwise):
        return rescued, None
    state = liveness.states[call.inputs[0]].line(into)
    nonzero = ~state.live & (state.value != 0)
    lost = leaving[inputs] & nonzero & rule.read_by(call, ~leaving[outputs])
    if not lost.any():
        return rescued, None
    if parts > 1:
        for group in inputs[lost].tolist():
            rescued[group] = f"its constant varies on the border of {call.name}"
        return rescued, None
    staying = nonzero & ~leaving[inputs]
    if staying.any():
        return rescued, int((state.value.abs() * staying).argmax())
    index = int((state.value.abs() * lost).argmax())
    rescued[int(inputs[index])] = "carries the constants into a zero-padded convolution"
    return rescued, index


def _uneven(inputs: Tensor, outputs: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Return which leaving inputs and outputs have to stay for groups of equal width.

    Groups that lose everything leave as a whole; of the others each loses as many as the
    one that loses fewest.

    >>> leaving = torch.tensor([True, True, True, False, True, False])
    >>> _uneven(leaving, leaving, 3)[0].tolist()
    [False, False, False, False, False, False]
    """
    sides = (inputs.view(parts, -1), outputs.view(parts, -1))
    whole = sides[0].all(1) & sides[1].all(1)
    surplus = []
    for side in sides:
        fewest = int(side[~whole].sum(1).min()) if bool((~whole).any()) else 0
        beyond = side & (side.cumsum(1) > fewest) & ~whole[:, None]
        surplus.append(beyond.flatten())
    return surplus[0], surplus[1]


def _weighted(liveness: Liveness) -> list[Call]:
    """Return the calls of modules that have weights and a rule, in order."""
    return [
        call
        for call, rule in liveness.calls
        if rule is not OPAQUE and call.module is not None and _has_weight(call.module)
    ]


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)


def _layer_cuts(
    first: Liveness, liveness: Liveness, decision: _Decision
) -> dict[str, LayerCut]:
    found = {}
    left = {call.node.name: call for call in _weighted(liveness)}
    for call in _weighted(first):
        into, out = _widths(call)
        own = left.get(call.node.name)
        if own is None or own.node in decision.dropped:
            inputs, outputs = torch.zeros(into).bool(), torch.zeros(out).bool()
        else:
            inputs = line(decision.stays[own.inputs[0]], into)
            outputs = line(decision.stays[own.node], out)
        found[call.name] = LayerCut(
            makes_channels=(call.module is not None and hasattr(call.module, "in_channels"))
            or isinstance(call.module, nn.Linear),
            kept_outputs=_indices(outputs),
            kept_inputs=_indices(inputs),
            outputs_before=out,
            inputs_before=into,
        )
    return found


def _widths(call: Call) -> tuple[int, int]:
    """Return how many channels a module with weights reads and makes."""
    if isinstance(call.module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
        return widths(call.module)
    if hasattr(call.module, "in_channels"):
        return widths(layer_of(call))
    axis = -1 if isinstance(call.module, nn.LayerNorm) else 1
    return call.input_shapes[0][axis], call.shape[axis]


def _call_cuts(liveness: Liveness, decision: _Decision) -> dict[str, CallCut]:
    """Return what stays around every call that loses a channel, by node name."""
    found = {}
    for call, rule in liveness.calls:
        if call.node in decision.dropped:
            continue
        inputs = [_stay(decision.stays[node]) for node in call.inputs]
        output = _stay(decision.stays[call.node])
        if isinstance(rule, Sized) and output is None and rule.asks_sizes(call):
            output = _stay(decision.stays[call.node], whole=True)
        if output is not None or any(one is not None for one in inputs):
            shape, axis = decision.stays[call.node].shape, output.axis if output else None
            sizes = {n: size for n, size in enumerate(shape) if size > 1 and n != axis}
            found[call.node.name] = CallCut(inputs=inputs, output=output, sizes=sizes)
    return found


def _stay(stays: Tensor, *, whole: bool = False) -> Stay | None:
    """Return what stays along the axis that channels leave from; None if nothing leaves."""
    if bool(stays.all()) and not (whole and stays.numel() > 1):
        return None
    axis = free_axis(stays.shape)
    return Stay(axis=axis, kept=_indices(stays.movedim(axis, 0).flatten(1).any(1)))


def _folds(liveness: Liveness, decision: _Decision) -> dict[str, Fold]:
    folds = {}
    norms = {call.node for call, rule in liveness.calls if isinstance(rule, BatchNorm)}
    for call, rule in liveness.calls:
        if not isinstance(rule, Kernel) or call.node in decision.dropped:
            continue
        into, _ = widths(layer_of(call))
        state = liveness.states[call.inputs[0]].line(into)
        stays = line(decision.stays[call.inputs[0]], into)
        lost = ~stays & ~state.live & (state.value != 0)
        if not lost.any():
            continue
        constants = {i: float(state.value[i]) for i in _indices(lost)}
        if call.node in decision.carriers:
            carrier = decision.carriers[call.node]
            constants[carrier] = float(state.value[carrier])
            place = f"carrier:{carrier}"
        elif varies(layer_of(call)):
            continue  # nothing that stays reads these constants
        else:
            place = _bias_of(call, norms)
        folds[call.name] = Fold(constants=constants, into=place)
    return folds


def _bias_of(call: Call, norms: set[fx.Node]) -> str:
    """Choose the bias, or the running mean of the batch norm that alone reads the result."""
    readers = list(call.node.users)
    if layer_of(call).bias is None and len(readers) == 1 and readers[0] in norms:
        return f"running_mean:{readers[0].target}"
    return "bias"


def _producers(liveness: Liveness) -> list[Call]:
    """Return the calls that make channels of their own: convolutions and linear layers."""
    return [call for call, rule in liveness.calls if isinstance(rule, Kernel)]


def _folded(
    liveness: Liveness, groups: Mapping[fx.Node, Tensor], folds: Mapping[str, Fold]
) -> dict[fx.Node, dict[int, list[Folded]]]:
    """Return, for each channel of every layer's result, the layers that took it in."""
    inputs: dict[int, dict[str, list[int]]] = {}
    for call in _producers(liveness):
        fold = folds.get(call.name)
        if fold is None:
            continue
        into, _ = widths(layer_of(call))
        numbers = line(groups[call.inputs[0]], into).tolist()
        for index in fold.constants:
            inputs.setdefault(numbers[index], {}).setdefault(call.name, []).append(index)
    taken_in = {
        group: [Folded(reader=r, into=folds[r].into, inputs=i) for r, i in by_reader.items()]
        for group, by_reader in inputs.items()
    }
    return {
        call.node: {
            channel: taken_in[group]
            for channel, group in enumerate(groups[call.node].flatten().tolist())
            if group in taken_in
        }
        for call in _producers(liveness)
    }


def _removed(
    first: Liveness,
    liveness: Liveness,
    decision: _Decision,
    folded: Mapping[fx.Node, Mapping[int, list[Folded]]],
) -> list[Removed]:
    removed = []
    left = {call.node.name: call.node for call, _ in liveness.calls}
    for call, rule in first.calls:
        if not isinstance(rule, Kernel):
            continue
        _, out = widths(layer_of(call))
        state = first.states[call.node].line(out)
        own = left.get(call.node.name)
        stays = torch.zeros(out, dtype=torch.bool)
        if own is not None and own not in decision.dropped:
            stays = line(decision.stays[own], out)
        empty = rule.is_empty(call)
        taken_in = folded.get(own, {}) if own is not None else {}
        for channel in _indices(~stays):
            live = bool(state.live[channel])
            removed.append(
                Removed(
                    layer=call.name,
                    channel=channel,
                    reason=_reason(live=live, empty=bool(empty[channel])),
                    constant=None if live else float(state.value[channel]),
                    folded=taken_in.get(channel, []),
                )
            )
    return removed


def _reason(*, live: bool, empty: bool) -> str:
    if live:
        return "no reader"
    return "no input" if empty else "constant"


def _kept(
    liveness: Liveness, groups: Mapping[fx.Node, Tensor], decision: _Decision
) -> list[Kept]:
    """Say why a channel stayed although it is constant or nobody reads it."""
    live_partner = _live_partners(liveness, groups)
    kept = []
    for call in _producers(liveness):
        if call.node in liveness.pinned or call.node in decision.dropped:
            continue
        dead = ~liveness.states[call.node].live | ~liveness.needed[call.node]
        numbers = groups[call.node].flatten()
        for channel in _indices((dead & decision.stays[call.node]).flatten()):
            group = int(numbers[channel])
            why = decision.why_kept.get(group) or (
                f"tied to a live channel of {live_partner[group]}"
                if group in live_partner
                else "its width is part of the interface"
            )
            kept.append(Kept(layer=call.name, channel=channel, why=why))
    return kept


def _live_partners(liveness: Liveness, groups: Mapping[fx.Node, Tensor]) -> dict[int, str]:
    """Return, per group, a value in which it is live and needed; a layer's if there is one."""
    partners: dict[int, str] = {}
    layers = {call.node for call in _producers(liveness)}
    for call, _ in sorted(liveness.calls, key=lambda one: one[0].node not in layers):
        alive = liveness.states[call.node].live & liveness.needed[call.node]
        for group in groups[call.node][alive].tolist():
            partners.setdefault(group, call.name)
    return partners


def _indices(mask: Tensor) -> list[int]:
    found: list[int] = mask.nonzero().flatten().tolist()
    return found
