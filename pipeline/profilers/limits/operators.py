"""The operators of a file: which are refused, and how many an accelerator computes."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.target import Accelerator, Constraints, Target
from pipeline.profilers.candidate import MB, Candidate
from pipeline.profilers.coverage import Coverage
from pipeline.profilers.limits.check import Check, keeps, listed, share_over


def checks(candidate: Candidate, target: Target) -> Iterator[Check]:
    """Yield the checks of operators, of an accelerator's coverage and of its cache."""
    yield from _refused(candidate, target.constraints)
    unit = target.accelerator
    if candidate.format not in target.constraints.formats:
        return  # the operators of the accelerator have the names of another format
    if unit and unit.min_coverage_pct:
        yield _coverage(candidate.coverage, unit, unit.min_coverage_pct.value)
    if unit and unit.parameter_cache_mb:
        yield _cache(candidate, unit, unit.parameter_cache_mb.value)


def _refused(candidate: Candidate, limits: Constraints) -> Iterator[Check]:
    found, allowed = candidate.graph.op_types, limits.ops.allow
    if not limits.ops.deny and allowed is None:
        return
    refused = [
        op
        for op in found
        if op in limits.ops.deny or (allowed is not None and op not in allowed)
    ]
    yield Check(
        name="operators",
        limit=f"none of {listed(limits.ops.deny)}" if allowed is None else listed(allowed),
        figure=listed(refused or found),
        passed=not refused,
        why=f"the target refuses {listed(refused)}"
        if refused
        else "the target takes all of them",
        remedy=f"replace {listed(refused)} in the network" if refused else "",
    )


def _coverage(found: Coverage | None, unit: Accelerator, least: float) -> Check:
    """Check the share that an accelerator computes; what is left to the CPU is slow."""
    if found is None:
        return Check(
            name="coverage",
            limit=f"at least {least:g} %",
            figure=None,
            passed=None,
            why=f"the target doesn't list the operators of {unit.name}",
            remedy="measure on the device, or list them in [accelerator.ops]",
        )
    enough = keeps(least, found.pct)
    rejected = not enough and unit.on_fail == "reject"
    why = (
        f"{found.covered_operators} of {found.operators} operators "
        f"({found.operator_pct:.3g} %) and {found.mac_pct:.3g} % of the MACs run on "
        f"{unit.name}"
    )
    if found.first_outside:
        after = ", and all behind it" if unit.one_partition else ""
        why += f"; first outside{after}: {found.first_outside}"
    if not enough and not rejected:
        why += "; the rest runs on the CPU"
    return Check(
        name="coverage",
        limit=f"at least {least:g} %",
        figure=f"{found.pct:.3g} %",
        passed=not rejected,
        why=why,
        remedy="" if enough else _replace(found),
    )


def _replace(found: Coverage) -> str:
    what, _, _ = found.first_outside.partition(":")
    return f"replace {what} by operators that the accelerator has"


def _cache(candidate: Candidate, unit: Accelerator, room: float) -> Check:
    """Say whether weights stay on the accelerator; more of them is slower, never refused."""
    weights = candidate.graph.weight_bytes / MB
    fits = keeps(weights, room)
    beyond = f"{weights - room:.3g} MB of the weights stream in on every run"
    return Check(
        name="parameter cache",
        limit=f"{room:g} MB",
        figure=f"{weights:.3g} MB",
        passed=True,
        why=f"the weights stay on {unit.name}" if fits else beyond,
        remedy="" if fits else f"keep {share_over(weights, room)} fewer weights",
    )
