"""Why each channel left or stayed, layer by layer, told from the plan that was obeyed."""

from __future__ import annotations

from collections import Counter

from pipeline.core.record import Record
from pipeline.graph.plan import Branch, CutPlan, Folded


class RemovedChannel(Record):
    """A channel that left: why, its constant, and the layers that took it in."""

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
    """Every layer of a network, and the branches that left as a whole."""

    layers: list[LayerChannels]
    branches: list[Branch]


def explain(plan: CutPlan) -> Explanation:
    """Tell of each layer which channels left or stayed dead, why, and what became of them."""
    layers = []
    for name, cut in plan.layers.items():
        if not cut.makes_channels:
            continue
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
                        folded=record.folded,
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
    return Explanation(layers=layers, branches=_branches(plan))


def _branches(plan: CutPlan) -> list[Branch]:
    later = _branches(plan.again) if plan.again else []
    return [*plan.branches, *later]
