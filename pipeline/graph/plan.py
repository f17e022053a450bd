"""The plan of a compaction: everything it will do, written down before it does any of it."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.core.record import Record


class Branch(Record):
    """A constant operand, and what becomes of it.

    Attributes:
        call: name of the node of the sum or product.
        operand: 0 for the left side, 1 for the right.
        shape: of the constant, one along every axis on which it is uniform.
        values: of the constant, in that shape's order.
        into: ``nothing:<call>`` of a sum with zeros, ``bias:<layer>``, ``parameter:<name>``.
    """

    call: str
    operand: int
    shape: list[int]
    values: list[float]
    into: str


class LayerCut(Record):
    """What stays of one layer: indices of kept outputs and inputs, and the widths before.

    ``makes_channels`` tells a layer with a kernel from a normalisation.
    """

    makes_channels: bool
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


class Removed(Record):
    """A channel that left, why, and the layers that took its constant in.

    ``no input``: all its weights are zero. ``constant``: it reads nothing but constants.
    ``no reader``: it is live, and the output does not depend on it. No layer took it in
    where every reader sees a zero (the constant itself, or what an activation made of it),
    and where a whole branch left at once, of which the plan's branches tell.
    """

    layer: str
    channel: int
    reason: str
    constant: float | None
    folded: list[Folded]


class Kept(Record):
    """A dead channel that stayed, and why."""

    layer: str
    channel: int
    why: str


class Stay(Record):
    """Indices that stay along an axis of a value."""

    axis: int
    kept: list[int]


class CallCut(Record):
    """What stays of the inputs of a call and of its result; None where nothing leaves.

    ``sizes`` are those of the result's other axes on which channels lie.
    """

    inputs: list[Stay | None]
    output: Stay | None
    sizes: dict[int, int]


class CutPlan(Record):
    """Everything compaction will do, before it does any of it.

    ``again`` is what the network that this leaves loses in its turn: where a dead layer kept a
    channel, more may be found constant once the others are gone. ``layers``, ``removed`` and
    ``kept`` tell of all rounds, in the numbers of the network before the first.
    """

    branches: list[Branch]
    layers: dict[str, LayerCut]
    folds: dict[str, Fold]
    calls: dict[str, CallCut]
    removed: list[Removed]
    kept: list[Kept]
    again: CutPlan | None = None

    def followed_by(self, again: CutPlan) -> CutPlan:
        """Return the plan of this round and the next, which was made on what this leaves."""
        layers = self.layers | {
            name: _both(self.layers[name], cut) for name, cut in again.layers.items()
        }
        removed = [_before(one, self.layers) for one in again.removed]
        gone = {(one.layer, one.channel) for one in removed}
        kept = [one for one in self.kept if (one.layer, one.channel) not in gone]
        return self.model_copy(
            update={
                "layers": layers,
                "removed": sorted(
                    [*self.removed, *removed], key=lambda one: list(layers).index(one.layer)
                ),
                "kept": kept,
                "again": again,
            }
        )

    @property
    def is_empty(self) -> bool:
        """True where nothing can leave."""
        return not self.removed


def _both(first: LayerCut, second: LayerCut) -> LayerCut:
    """Return what stays of a layer after two rounds, in the numbers before the first."""
    return first.model_copy(
        update={
            "kept_outputs": [first.kept_outputs[index] for index in second.kept_outputs],
            "kept_inputs": [first.kept_inputs[index] for index in second.kept_inputs],
        }
    )


def _before(one: Removed, layers: Mapping[str, LayerCut]) -> Removed:
    """Return a channel of the second round with the numbers it had before the first."""
    folded = [
        fold.model_copy(
            update={"inputs": [layers[fold.reader].kept_inputs[i] for i in fold.inputs]}
        )
        for fold in one.folded
    ]
    channel = layers[one.layer].kept_outputs[one.channel]
    return one.model_copy(update={"channel": channel, "folded": folded})
