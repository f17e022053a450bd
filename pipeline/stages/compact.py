"""Effective masks -> a physically smaller network, outputs proved equal."""

from __future__ import annotations

from typing import Any

from pipeline.core.rundir import write_json
from pipeline.graph.counting import Count, count, demand_predicted
from pipeline.graph.equivalence import prove
from pipeline.graph.explain import explain
from pipeline.graph.surgery import compact
from pipeline.graph.trace import trace
from pipeline.stages.context import Context
from pipeline.training.evaluation import accuracy


def run(context: Context) -> dict[str, Any]:
    """Cut the dead channels out and prove that the outputs did not change.

    Raises:
        PareError: the proof fails; nothing is replaced.
    """
    data = context.data
    before = context.trained("prune")
    after, plan = compact(before, data.shape)
    images = data.normalise(data.test.subset(64, seed=0).images)
    proof = prove(before, after, plan, images)
    write_json(context.out / "equivalence.json", proof.model_dump(mode="json"))
    proof.demand()
    old, new = count(before, data.shape), count(after, data.shape)
    demand_predicted(old, new, plan)
    write_json(context.out / "plan.json", plan.model_dump(mode="json"))
    channels = explain(plan, trace(before, data.shape))
    write_json(context.out / "channels.json", channels.model_dump(mode="json"))
    context.save("model.safetensors", after.state_dict())
    return {
        "summary": f"{old.parameters:,} -> {new.parameters:,} parameters, "
        f"{old.macs:,} -> {new.macs:,} MACs; outputs equal "
        f"({len(proof.comparisons)} comparisons, worst {proof.worst:.1e} of the scale)",
        "before": _figures(old),
        "after": _figures(new),
        "channels_removed": len(plan.removed),
        "carriers": sum(fold.into.startswith("carrier") for fold in plan.folds.values()),
        "worst_relative_difference": proof.worst,
        "test_accuracy": accuracy(after, data.test, data),
    }


def _figures(counted: Count) -> dict[str, Any]:
    return {
        "parameters": counted.parameters,
        "weights": counted.weights,
        "nonzero_weights": counted.kept,
        "macs": counted.macs,
        "layers": [layer.model_dump() for layer in counted.layers],
    }
