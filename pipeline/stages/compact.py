"""Effective masks -> a physically smaller network, outputs proved equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from pipeline.core.rundir import write_json
from pipeline.graph.counting import Count, count, demand_predicted
from pipeline.graph.equivalence import prove
from pipeline.graph.explain import explain
from pipeline.graph.observed import Seen, constant_on, plan_paid
from pipeline.graph.plan import CutPlan
from pipeline.graph.surgery import compact, perform
from pipeline.graph.trace import trace
from pipeline.graph.widths import uneven
from pipeline.stages.context import Context
from pipeline.training.evaluation import accuracy


def run(context: Context) -> dict[str, Any]:
    """Cut the dead channels out and prove that the outputs did not change.

    Raises:
        PareError: the proof fails; nothing is replaced.
    """
    data = context.data
    before = context.trained("prune")
    multiple = context.recipe.compact.multiple
    after, plan = compact(before, data.shape, multiple=multiple)
    images = data.normalise(data.test.subset(64, seed=0).images)
    proof = prove(before, after, plan, images)
    write_json(context.out / "equivalence.json", proof.model_dump(mode="json"))
    proof.demand()
    old, free = count(before, data.shape), count(after, data.shape)
    demand_predicted(old, free, plan)
    write_json(context.out / "plan.json", plan.model_dump(mode="json"))
    write_json(context.out / "channels.json", explain(plan).model_dump(mode="json"))
    paid = _paid(context, after)
    shipped = paid.network if paid and paid.removed else after
    slow = uneven(shipped)
    if slow:
        context.reporter.warn(slow)
    context.save("model.safetensors", shipped.state_dict())
    return {
        "summary": f"{old.parameters:,} -> {free.parameters:,} parameters, "
        f"{old.macs:,} -> {free.macs:,} MACs; outputs equal "
        f"({len(proof.comparisons)} comparisons, worst {proof.worst:.1e} of the scale)"
        + (f"; {paid.summary}" if paid else ""),
        "before": _figures(old),
        "after": _figures(free),
        "paid": paid.figures if paid else None,
        "slow_widths": slow,
        "channels_removed": len(plan.removed),
        "carriers": sum(fold.into.startswith("carrier") for fold in plan.folds.values()),
        "worst_relative_difference": proof.worst,
        "test_accuracy": accuracy(shipped, data.test, data),
    }


@dataclass(frozen=True)
class _Paid:
    """What the channels that never change on data would save, or did, and at what price."""

    network: fx.GraphModule
    removed: bool
    summary: str
    figures: dict[str, Any]


def _paid(context: Context, free: fx.GraphModule) -> _Paid | None:
    """List what is constant on the calibration images, and remove it where that is asked."""
    options, data = context.recipe.compact, context.data
    if options.dead_on_data == "off":
        return None
    removed = options.dead_on_data == "remove"
    chosen = data.train.subset(options.calibration_images, options.calibration_seed)
    graph = trace(free, data.shape)
    observed = constant_on(graph, data.batches(chosen.images))
    plan, seen = plan_paid(graph, observed, multiple=options.multiple)
    network = perform(graph, plan)
    _write(context, plan, seen, removed=removed)
    prices = accuracy(free, data.test, data), accuracy(network, data.test, data)
    left = count(network, data.shape)
    figures = {
        "images": len(chosen),
        "channels": len(plan.removed),
        "removed": removed,
        "accuracy_before": prices[0],
        "accuracy_after": prices[1],
        "after": _figures(left),
    }
    verb = "removed" if removed else "listed"
    summary = (
        f"dead on {len(chosen)} images: {len(plan.removed)} channels {verb}, "
        f"{left.parameters:,} parameters, top-1 {prices[0]:.2%} -> {prices[1]:.2%}"
    )
    return _Paid(network, removed, summary, figures)


def _write(context: Context, plan: CutPlan, seen: list[Seen], *, removed: bool) -> None:
    """Keep the list, and the plan where it was carried out."""
    listed = [one.model_dump(mode="json") for one in seen]
    write_json(context.out / "dead_on_data.json", listed)
    if removed:
        write_json(context.out / "paid.json", plan.model_dump(mode="json"))


def _figures(counted: Count) -> dict[str, Any]:
    return {
        "parameters": counted.parameters,
        "weights": counted.weights,
        "nonzero_weights": counted.kept,
        "macs": counted.macs,
        "layers": [layer.model_dump() for layer in counted.layers],
    }
