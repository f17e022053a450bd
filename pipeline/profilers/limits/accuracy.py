"""Accuracy: how much of it is gone, and whether pruning or the file cost it."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.target import Target
from pipeline.profilers.candidate import Candidate
from pipeline.profilers.limits.check import Check, at_most


def checks(candidate: Candidate, target: Target) -> Iterator[Check]:
    """Yield the check of the drop, in points of top-1."""
    limit = target.budgets.accuracy_drop_pct if target.budgets else None
    if limit is None:
        return
    top1, trained = candidate.top1, candidate.reference_top1
    if top1 is None or trained is None:
        yield Check(
            name="accuracy drop",
            limit=f"{limit:g} points",
            figure=None,
            passed=None,
            why="the accuracy of the file or of its network was not measured",
            remedy="measure both on the same images",
        )
        return
    cause, remedy = _cause(candidate, top1, trained)
    check = at_most("accuracy drop", (trained - top1) * 100, limit, "points", remedy)
    why = f"{check.why}; top-1 {top1:.2%}, of the best network in training {trained:.2%}"
    yield check.model_copy(update={"why": why if check.passed else f"{why}{cause}"})


def _cause(candidate: Candidate, top1: float, trained: float) -> tuple[str, str]:
    """Return whether the pruning or the file cost more accuracy, and what helps against it."""
    pruned = "keep more weights or train longer"
    exact, compact = candidate.dtype == "fp32", candidate.compact_top1
    if compact is None:
        both = "calibrate on more images, quantize more gently, or keep more weights"
        return "", pruned if exact else both
    by_pruning, by_file = (trained - compact) * 100, (compact - top1) * 100
    step = "export" if exact else "quantization"
    if by_pruning >= by_file:
        return f"; pruning cost {by_pruning:.3g} points, {step} {by_file:.3g}", pruned
    remedy = "calibrate on more images or quantize more gently"
    if exact:
        remedy = "lower export.max_float_difference"
    return f"; {step} cost {by_file:.3g} points, pruning {by_pruning:.3g}", remedy
