"""Operations in place: a value that was changed is read through the call that changed it.

``y = a(x); relu_(y); b(y)`` traces to a graph in which ``b`` reads the node of ``a``: right
when it runs, because the tensor was changed, and wrong for anyone who reads the graph. Here
every later reader of a changed value is made to read the node that changed it, and the call
itself no longer works in place: what surgery puts in its input's place must not be changed.
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
        "expand_as", "broadcast_to", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
        "feature_alpha_dropout", "feature_dropout", "stochastic_depth", "to", "float",
        "double", "type", "type_as", "tensor_split", "split_with_sizes", "unsafe_split",
        "unsafe_chunk", "swapdims", "moveaxis", "ravel", "unfold", "diagonal", "as_strided",
        "getattr",
    }
)  # fmt: skip
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_VIEW_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity, *_DROPOUTS)


def follow_mutations(graph: fx.GraphModule) -> None:
    """Make later readers of a value that is changed in place read the changed value.

    Raises:
        PareError: a view of the changed value is read later, or the change has no form that
            is not in place; names the call.
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
        _out_of_place(graph, node)
    graph.recompile()


def _out_of_place(graph: fx.GraphModule, node: fx.Node) -> None:
    """Make a call leave its input as it was, in a graph that is ours.

    Raises:
        PareError: the operation exists in place only.
    """
    target, name = node.target, ""
    if node.op == "call_module":
        graph.get_submodule(str(target)).inplace = False  # type: ignore[assignment]  # a flag
        return
    node.kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}
    if _inplace_by_position(node):
        node.args = tuple(False if argument is True else argument for argument in node.args)
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.removeprefix("aten::").rstrip("_")
        packet = getattr(torch.ops.aten, name, None)
        found = getattr(packet, target._overloadname, None)
    elif target in _OPERATORS:
        found = getattr(operator, str(getattr(target, "__name__", ""))[1:])
    elif isinstance(target, str):
        found = target.rstrip("_") if hasattr(torch.Tensor, target.rstrip("_")) else None
    else:
        name = str(getattr(target, "__name__", ""))
        homes = (torch, torch.nn.functional)
        kept = target if not name.endswith("_") else None
        plain = [getattr(home, name.rstrip("_"), None) for home in homes]
        found = kept or next((one for one in plain if one is not None), None)
    if found is None:
        raise PareError(
            f"the network cannot be analysed: {node.format_node()} exists in place only. "
            "Write what it does with operations that return a new value."
        )
    node.target = found


def _changed(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return the value that a call changes in place, if it changes one."""
    if node.kwargs.get("out") is not None:
        raise PareError(
            f"the network cannot be analysed: {node.format_node()} writes into `out`. Use "
            "what the operation returns."
        )
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
