"""The limits of a target, held against one file: a check each, with its reason and remedy."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.target import Target
from pipeline.profilers.candidate import Candidate
from pipeline.profilers.limits import accuracy, form, latency, operators, sizes
from pipeline.profilers.limits.check import Check


def checks(candidate: Candidate, target: Target) -> Iterator[Check]:
    """Yield every limit that a target states. Limits are inclusive."""
    yield from form.checks(candidate, target)
    yield from operators.checks(candidate, target)
    yield from sizes.checks(candidate, target)
    yield from latency.checks(candidate, target)
    yield from accuracy.checks(candidate, target)
