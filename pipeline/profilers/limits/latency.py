"""Latency: a measured one counts before a predicted one, and that before a bound."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.target import Target
from pipeline.profilers.candidate import Candidate
from pipeline.profilers.limits.check import Check, at_most, share_over

_HIGH = ("p90", "p95")  # statistics that a limit of a 90th percentile may be held against
_FASTER = {"fp32": ("int8", "fp16", "dynamic"), "fp16": ("int8",), "w8": ("int8", "dynamic")}


def checks(candidate: Candidate, target: Target) -> Iterator[Check]:
    """Yield the check of latency; no two ways of knowing it are ever mixed."""
    limit = target.budgets.latency_p90_ms if target.budgets else None
    if limit is None:
        return
    if candidate.measured is not None:
        yield _measured(candidate, target, limit)
    elif candidate.predicted is not None:
        yield _predicted(candidate, target, limit)
    else:
        yield _bounded(candidate, target, limit)


def _measured(candidate: Candidate, target: Target, limit: float) -> Check:
    assert candidate.measured is not None
    measured = candidate.measured
    statistic = measured.conditions.get("statistic", "mean")
    remedy = _faster(candidate, target, measured.value, limit)
    check = at_most("latency", measured.value, limit, "ms", remedy)
    why = f"{measured} on this device, {statistic}: {check.why}"
    if check.passed and statistic not in _HIGH:
        # Half of the runs may be above a median: below the limit it proves nothing.
        why += "; the limit is of the 90th percentile, for which there are too few runs"
        return check.model_copy(
            update={"why": why, "passed": None, "remedy": "measure with more runs"}
        )
    return check.model_copy(update={"why": why})


def _predicted(candidate: Candidate, target: Target, limit: float) -> Check:
    assert candidate.predicted is not None
    predicted = candidate.predicted
    worst = predicted.spread[1] if predicted.spread else predicted.value
    remedy = _faster(candidate, target, worst, limit)
    if predicted.value <= limit < worst:
        remedy += ", or measure on the device: the prediction itself is within the limit"
    check = at_most("latency", worst, limit, "ms", remedy)
    unit = target.accelerator
    where = " on the CPU" if unit and unit.on_fail == "reject" else ""
    why = f"predicted {predicted}{where}; its upper end counts: {check.why}"
    return check.model_copy(update={"why": why})


def _bounded(candidate: Candidate, target: Target, limit: float) -> Check:
    """Check a lower bound, which can refuse a file and never approve one."""
    least = candidate.bound
    if least is not None and least.value > limit:
        remedy = _faster(candidate, target, least.value, limit)
        check = at_most("latency", least.value, limit, "ms", remedy)
        why = f"no calibration, but even the lower bound breaks the limit: {check.why}"
        return check.model_copy(update={"why": why})
    return Check(
        name="latency",
        limit=f"{limit:g} ms",
        figure=None if least is None else f"at least {least.value:.3g} ms",
        passed=None,
        why="no calibration for this runtime and dtype"
        + ("" if least is None else "; a lower bound below the limit proves nothing"),
        remedy="measure on the device",
    )


def _faster(candidate: Candidate, target: Target, figure: float, limit: float) -> str:
    """Say how many MACs have to go, with activations in step, or which dtype is faster."""
    if figure <= limit:
        return ""
    share, macs = share_over(figure, limit), candidate.graph.macs
    remedy = f"cut more MACs: about {share} of {macs:,}, and activations in step"
    allowed = target.constraints.dtypes
    faster = next((d for d in _FASTER.get(candidate.dtype, ()) if d in allowed), None)
    return f"{remedy}, or try {faster}" if faster else remedy
