"""Why each channel left or stayed, layer by layer, told from the plan that was obeyed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

from torch import fx, nn

from pipeline.core.record import Record
from pipeline.graph.surgery import CutPlan, Fold


class Folded(Record):
    """A layer that took the constant of a removed channel in.

    Attributes:
        reader: the layer.
        into: what of it holds the constant now, as in ``Fold``.
        inputs: of the reader that the channel was, numbered as before the cut; several
            where a flattening lies between.
    """

    reader: str
    into: str
    inputs: list[int]


class RemovedChannel(Record):
    """A channel that left: why, its constant, and the layers that took it in.

    Nobody did where every reader sees a zero (the constant itself, or what an activation
    made of it), and where a whole branch left at once: of that the plan tells.
    """

    channel: int
    reason: str
    constant: float | None
    folded: list[Folded]


class KeptChannel(Record):
    """A dead channel that stayed, and why."""

    channel: int
    why: str


class LayerChannels(Record):
    """The output channels of one layer: how many, and what became of those that are dead.

    Attributes:
        layer: its name.
        before: channels of the network that was pruned.
        after: channels of the compacted one.
        reasons: how many left for what.
        removed: those that left.
        kept: the dead ones that stayed.
    """

    layer: str
    before: int
    after: int
    reasons: dict[str, int]
    removed: list[RemovedChannel]
    kept: list[KeptChannel]


class Explanation(Record):
    """Every layer of a network, and the folds of the plan by reader.

    A fold whose reader's inputs cannot be followed back to the layers that make them (through
    a shuffle or a split) is under ``folds`` alone.
    """

    layers: list[LayerChannels]
    folds: dict[str, Fold]


def explain(plan: CutPlan, graph: fx.GraphModule) -> Explanation:
    """Tell of each layer which channels left or stayed dead, why, and what became of them.

    Args:
        plan: what was carried out.
        graph: the network before the cut, from ``trace``; only its connections are read.
    """
    folded = _folded(plan, graph)
    layers = []
    for name in _layers(plan, graph):
        cut = plan.layers[name]
        gone = [record for record in plan.removed if record.layer == name]
        layers.append(
            LayerChannels(
                layer=name,
                before=cut.outputs_before,
                after=len(cut.kept_outputs),
                reasons=dict(sorted(Counter(record.reason for record in gone).items())),
                removed=[
                    RemovedChannel(
                        channel=record.channel,
                        reason=record.reason,
                        constant=record.constant,
                        folded=folded.get((name, record.channel), []),
                    )
                    for record in gone
                ],
                kept=[
                    KeptChannel(channel=record.channel, why=record.why)
                    for record in plan.kept
                    if record.layer == name
                ],
            )
        )
    return Explanation(layers=layers, folds=plan.folds)


def _layers(plan: CutPlan, graph: fx.GraphModule) -> list[str]:
    """Return the layers that make channels of their own, in the plan's order."""
    return [name for name in plan.layers if not _is_in_place(graph.get_submodule(name))]


#: The output channels, each ``(layer, channel)``, that one channel of a value is made of.
_Origin = frozenset[tuple[str, int]]
_Origins = Sequence[_Origin] | None  # None where they are not followed

#: What leaves the channels of a value where they are.
_IN_PLACE_MODULES = frozenset(
    f"torch.nn.modules.{family}"
    for family in (
        "activation", "batchnorm", "dropout", "flatten", "instancenorm", "normalization",
        "pooling", "upsampling",
    )
)  # fmt: skip
_IN_PLACE_CALLS = frozenset({
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "batch_norm", "clamp",
    "contiguous", "dropout", "elu", "flatten", "gelu", "hardsigmoid", "hardswish", "hardtanh",
    "interpolate", "leaky_relu", "max_pool2d", "mean", "mish", "pad", "relu", "relu6", "relu_",
    "reshape", "sigmoid", "silu", "squeeze", "tanh", "view",
})  # fmt: skip
_CONCATENATIONS = frozenset({"cat", "concat"})
_ELEMENTWISE = frozenset({
    "add", "add_", "iadd", "imul", "isub", "maximum", "minimum", "mul", "mul_", "sub", "sub_",
    "truediv",
})  # fmt: skip


def _folded(plan: CutPlan, graph: fx.GraphModule) -> dict[tuple[str, int], list[Folded]]:
    """Return the readers that took each removed channel in."""
    removed = {(record.layer, record.channel) for record in plan.removed}
    dead = removed | {(record.layer, record.channel) for record in plan.kept}
    found: dict[tuple[str, int], list[Folded]] = {}
    origins: dict[fx.Node, _Origins] = {}
    for node in graph.graph.nodes:
        origins[node] = _origins_of(node, origins, plan, graph)
        fold = plan.folds.get(str(node.target)) if node.op == "call_module" else None
        if fold is None:
            continue
        inputs = _per_input(origins[node.all_input_nodes[0]], node.target, plan)
        # An index that no dead channel stands behind means that the way was misread.
        if inputs is None or not all(inputs[index] & dead for index in fold.constants):
            continue
        places: dict[tuple[str, int], list[int]] = {}
        for index in fold.constants:
            for channel in inputs[index] & removed:
                places.setdefault(channel, []).append(index)
        for channel, indices in places.items():
            entry = Folded(reader=str(node.target), into=fold.into, inputs=indices)
            found.setdefault(channel, []).append(entry)
    return found


def _per_input(origins: _Origins, reader: object, plan: CutPlan) -> _Origins:
    """Spread channels over the inputs of a reader: several each behind a flattening."""
    cut = plan.layers.get(str(reader))
    if origins is None or cut is None or not origins or cut.inputs_before % len(origins):
        return None
    positions = cut.inputs_before // len(origins)
    return [origins[index // positions] for index in range(cut.inputs_before)]


def _origins_of(
    node: fx.Node, known: Mapping[fx.Node, _Origins], plan: CutPlan, graph: fx.GraphModule
) -> _Origins:
    """Follow the channels of one value back to the layers that make them."""
    sources = [known[source] for source in _operands(node)]
    if node.op == "call_module":
        name = str(node.target)
        if _is_in_place(graph.get_submodule(name)):
            return sources[0] if sources else None
        if name not in plan.layers:
            return None
        return [frozenset({(name, i)}) for i in range(plan.layers[name].outputs_before)]
    call = _call(node)
    if call in _IN_PLACE_CALLS:
        return sources[0] if sources else None
    followed = [source for source in sources if source is not None]
    if not followed or len(followed) < len(sources):
        return None
    if call in _CONCATENATIONS:
        return list(chain.from_iterable(followed))
    if call in _ELEMENTWISE and len({len(source) for source in followed}) == 1:
        return [frozenset().union(*parts) for parts in zip(*followed, strict=True)]
    return None


def _is_in_place(module: nn.Module) -> bool:
    return type(module).__module__ in _IN_PLACE_MODULES or type(module) is nn.Identity


def _operands(node: fx.Node) -> list[fx.Node]:
    """Return the values that a call reads; a concatenation may read one of them twice."""
    listed = node.args[0] if node.args else node.kwargs.get("tensors")
    if _call(node) in _CONCATENATIONS and isinstance(listed, list | tuple):
        return [value for value in listed if isinstance(value, fx.Node)]
    return node.all_input_nodes


def _call(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
