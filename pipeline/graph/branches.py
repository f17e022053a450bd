"""Whole branches that are constant: a dead residual branch, a gate that depends on nothing.

Where one side of a sum or product is constant in all its channels and the other is not, the
branch that made it leaves as a whole. Its constant goes into the bias of the other side
where nobody else reads that, and else stays as a parameter; a sum with zero is no sum.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from pipeline.graph.channels import Liveness
from pipeline.graph.plan import Branch
from pipeline.graph.rules import Call, Channels, Rule, calls, operation
from pipeline.graph.rules.merge import Elementwise, operands
from pipeline.graph.rules.weighted import Kernel, shift_bias, widths

_COMMUTE = ("add", "iadd")
_SUMS = (*_COMMUTE, "sub", "isub", "subtract")


def dead_branches(liveness: Liveness) -> list[Branch]:
    """Return the sides of sums and products that are constant in all channels that count.

    Where both sides are, the right one is the branch.
    """
    made_by = {call.node: (call, rule) for call, rule in liveness.calls}
    found: list[Branch] = []
    for call, rule in liveness.calls:
        sides = operands(call) if isinstance(rule, Elementwise) else ()
        if not sides or operation(call.node) == "expand_as":
            continue
        if not all(side in call.inputs for side in sides):
            continue
        counts = _counts(liveness, call)
        dead = [
            place
            for place, side in enumerate(sides)
            if counts.any() and not (liveness.states[side].live & counts).any()
        ]
        # A side of another shape than the result gives the result its shape.
        if not dead or sides[1 - dead[-1]].meta["shape"] != call.shape:
            continue
        place = dead[-1]
        state = liveness.states[sides[place]]
        into = _place_of(call, place, state, made_by.get(sides[1 - place]))
        if into not in {branch.into for branch in found}:  # one constant a layer and round
            found.append(
                Branch(
                    call=call.node.name,
                    operand=place,
                    shape=list(state.shape),
                    values=state.value.flatten().tolist(),
                    into=into,
                )
            )
    return found


def _counts(liveness: Liveness, call: Call) -> Tensor:
    """Return the channels of a result that the output reads; all, where none is live."""
    live = liveness.states[call.node].live
    return liveness.needed[call.node] & live if live.any() else ~live


def _place_of(
    call: Call, place: int, constant: Channels, other: tuple[Call, Rule] | None
) -> str:
    """Choose where a constant side goes."""
    name = str(operation(call.node))
    if name in _SUMS and (place == 1 or name in _COMMUTE):
        if not constant.value.any():
            return f"nothing:{call.node.name}"
        layer = other and _shifted_by_bias(*other)
        if layer:
            return f"bias:{layer}"
    return f"parameter:constant_{call.node.name}"


def _shifted_by_bias(call: Call, rule: Rule) -> str | None:
    """Return the layer whose bias shifts a value that only the sum reads, if there is one."""
    return call.name if isinstance(rule, Kernel) and len(call.node.users) == 1 else None


@torch.no_grad()
def cut_branches(graph: fx.GraphModule, branches: list[Branch]) -> None:
    """Take the branches out, in place, in a graph that is ours."""
    by_name = {call.node.name: call for call, _ in calls(graph)}
    for branch in branches:
        call = by_name[branch.call]
        sides = operands(call)
        other = sides[1 - branch.operand]
        kind, _, place = branch.into.partition(":")
        constant = torch.tensor(branch.values, dtype=torch.float64).reshape(branch.shape)
        if kind == "parameter":
            _as_parameter(graph, call, branch.operand, constant, place)
            continue
        if kind == "bias":
            minus = operation(call.node) not in _COMMUTE
            layer = graph.get_submodule(place)
            _, outputs = widths(layer)  # type: ignore[arg-type]  # has a kernel
            moved = (-constant if minus else constant).flatten().expand(outputs)
            shift_bias(layer, moved)  # type: ignore[arg-type]  # has a kernel
        call.node.replace_all_uses_with(other)
        graph.graph.erase_node(call.node)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()


def _as_parameter(
    graph: fx.GraphModule, call: Call, place: int, constant: Tensor, name: str
) -> None:
    """Read a parameter in the place of the constant side."""
    dtype = next(graph.parameters()).dtype
    graph.register_parameter(name, nn.Parameter(constant.to(dtype)))
    with graph.graph.inserting_before(call.node):
        read = graph.graph.get_attr(name)
    read.meta["shape"] = tuple(constant.shape)
    sides = list(operands(call))
    sides[place] = read
    call.node.args, call.node.kwargs = tuple(sides), {}
