"""Masks -> effective masks, every dead channel named with its reason."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.core.rundir import write_json
from pipeline.graph.channels import analyse, effective_masks
from pipeline.graph.counting import count
from pipeline.graph.planning import plan_cuts
from pipeline.graph.trace import trace
from pipeline.stages.context import Context
from pipeline.training.evaluation import accuracy
from pipeline.training.recalibration import pruned_network


def run(context: Context) -> dict[str, Any]:
    """Apply the masks once and for all, and find what they left without signal."""
    data, masks = context.data, context.masks()
    before = context.trained("train")
    recipe = context.recipe
    bare = pruned_network(before, masks, data, recipe.train, recipe.seed).eval()
    graph = trace(bare, data.shape)
    liveness = analyse(graph)
    plan = plan_cuts(graph)
    effective = effective_masks(graph, masks)
    context.save("model.safetensors", bare.state_dict())
    context.save("effective.safetensors", {k: m.to(torch.uint8) for k, m in effective.items()})
    dead = plan.model_dump(mode="json", include={"removed", "kept"})
    write_json(context.out / "channels.json", dead)
    total, kept = _total(masks), _kept(masks)
    acc_before = context.metric("train", "test_accuracy")
    acc_after = accuracy(bare, data.test, data)
    _warn(context, acc_after, cut_off=liveness.cut_off())
    counted = count(bare, data.shape, masks)
    return {
        "summary": f"{kept:,} of {total:,} weights kept ({kept / total:.2%}), "
        f"{_kept(effective):,} effective; {len(plan.removed)} channels dead; "
        f"test {acc_before:.2%} -> {acc_after:.2%}",
        "weights": total,
        "kept_weights": kept,
        "effective_weights": _kept(effective),
        "sparsity": 1 - kept / total,
        "effective_sparsity": 1 - _kept(effective) / total,
        "dead_channels": len(plan.removed),
        "dead_but_kept": len(plan.kept),
        "accuracy_before": acc_before,
        "accuracy_after": acc_after,
        "instability": (acc_before - acc_after) / acc_before if acc_before else None,
        "layers": [layer.model_dump() for layer in counted.layers],
    }


def _warn(context: Context, accuracy_after: float, *, cut_off: list[str]) -> None:
    """Say before the long way to the files that nothing good can come of them."""
    unit = context.recipe.budget.unit
    remedy = f"Train longer, raise budget.{unit} or choose another method."
    reference = context.metric("train", "reference_accuracy")
    budgets = [target.budgets for target in context.targets]
    limits = [b.accuracy_drop_pct for b in budgets if b and b.accuracy_drop_pct is not None]
    lost = (reference - accuracy_after) * 100
    if cut_off:
        context.reporter.warn(
            f"the pruned network is disconnected at {', '.join(map(repr, cut_off))}: its "
            f"output does not depend on the image. {remedy}"
        )
    elif accuracy_after <= 1.5 / len(context.data.classes):
        context.reporter.warn(
            f"the pruned network guesses: test {accuracy_after:.2%}. {remedy}"
        )
    elif limits and len(limits) == len(context.targets) and lost > max(limits):
        context.reporter.warn(
            f"pruning costs {lost:.3g} points of top-1 ({reference:.2%} was the best network "
            f"in training), more than any target grants ({max(limits):g}). {remedy}"
        )


def _total(masks: dict[str, torch.Tensor]) -> int:
    return sum(mask.numel() for mask in masks.values())


def _kept(masks: dict[str, torch.Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())
