"""Operations in place: a value that was changed is read through the call that changed it.

``y = a(x); relu_(y); b(y)`` traces to a graph in which ``b`` reads the node of ``a``: right
when it runs, because the tensor was changed, and wrong for anyone who reads the graph. Here
every later reader of a changed value is made to read the node that changed it.
"""

from __future__ import annotations

import operator

import torch
from torch import fx, nn

from pipeline.core.errors import PareError

_OPERATORS = (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.ipow, operator.imod,
)  # fmt: skip
#: Calls whose result may share memory with their input.
_VIEWS = frozenset(
    {
        "view", "reshape", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "chunk",
        "split", "narrow", "expand", "detach", "contiguous", "getitem", "view_as", "t",
        "unbind", "select", "dropout", "swapaxes", "movedim", "unflatten", "slice", "alias",
    }
)  # fmt: skip
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_VIEW_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity, *_DROPOUTS)


def follow_mutations(graph: fx.GraphModule) -> None:
    """Make later readers of a value that is changed in place read the changed value.

    Raises:
        PareError: a view of the changed value is read later; names the call.
    """
    order = {node: number for number, node in enumerate(graph.graph.nodes)}
    for node in graph.graph.nodes:
        changed = _changed(graph, node)
        if changed is None:
            continue
        _refuse_aliases(graph, node, changed, order)
        for reader in list(changed.users):
            if order[reader] > order[node]:
                reader.replace_input_with(changed, node)
    graph.recompile()


def _changed(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return the value that a call changes in place, if it changes one."""
    first = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(first, fx.Node):
        return None
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        idle = isinstance(module, _DROPOUTS)  # in evaluation mode it changes nothing
        return first if getattr(module, "inplace", False) and not idle else None
    if node.op == "call_method":
        name = str(node.target)
        return first if name.endswith("_") and not name.endswith("__") else None
    if isinstance(node.target, torch._ops.OpOverload):
        return first if node.target._schema.is_mutable else None
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        in_place = node.target in _OPERATORS or bool(node.kwargs.get("inplace"))
        named = name.endswith("_") and not name.endswith("__")
        return first if in_place or named or _inplace_by_position(node) else None
    return None


def _inplace_by_position(node: fx.Node) -> bool:
    """Tell whether ``F.relu(x, True)`` and its kin ask for it without naming it."""
    if not str(getattr(node.target, "__module__", "")).startswith("torch.nn.functional"):
        return False
    return any(argument is True for argument in node.args[1:])


def _refuse_aliases(
    graph: fx.GraphModule, node: fx.Node, changed: fx.Node, order: dict[fx.Node, int]
) -> None:
    """Refuse a change that a view, read later, would show without the graph saying so.

    A view made after the change is no danger: it is one of the changed value.
    """
    earlier = [alias for alias in _aliases(graph, changed) if order[alias] < order[node]]
    for alias in earlier:
        late = [r for r in alias.users if order[r] > order[node] and r is not node]
        if late:
            raise PareError(
                f"the network cannot be analysed: {node.format_node()} changes a value in "
                f"place of which {late[0].name!r} later reads a view. Use the version of the "
                "operation that is not in place."
            )


def _aliases(graph: fx.GraphModule, value: fx.Node) -> set[fx.Node]:
    """Return the values that may share memory with ``value``, itself left out."""
    found: set[fx.Node] = set()
    waiting = [value]
    while waiting:
        node = waiting.pop()
        near = [user for user in node.users if _is_view(graph, user)]
        if _is_view(graph, node):
            near += node.all_input_nodes[:1]
        for other in near:
            if other not in found and other is not value:
                found.add(other)
                waiting.append(other)
    return found


def _is_view(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), _VIEW_MODULES)
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.removeprefix("aten::") in _VIEWS
    if node.op in ("call_method", "call_function"):
        name = (
            node.target
            if isinstance(node.target, str)
            else getattr(node.target, "__name__", "")
        )
        return name in _VIEWS
    return False
