"""Whether a file may go on a device, limit by limit, and which of those that may is best."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Literal

from pipeline.core.measure import Measure
from pipeline.core.record import Record
from pipeline.core.target import Target
from pipeline.profilers.candidate import Candidate
from pipeline.profilers.limits import checks
from pipeline.profilers.limits.check import Check

_Basis = Literal["measured", "predicted"]


class Verdict(Record):
    """Every limit of a target, held against one file."""

    candidate: Candidate
    target: str
    checks: tuple[Check, ...]

    @property
    def fits(self) -> bool:
        """Whether no limit is known to be broken."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The limits that are broken."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def unknown(self) -> tuple[Check, ...]:
        """The limits that could not be checked."""
        return tuple(check for check in self.checks if check.passed is None)


class Loss(Record):
    """Why a file was not chosen, in one sentence."""

    file: str
    reason: str


class Choice(Record):
    """The file a target gets, or none, and why each of the others lost."""

    file: str | None
    reason: str
    lost: tuple[Loss, ...]


def judge(candidate: Candidate, target: Target) -> Verdict:
    """Hold a file against every limit a target states. Limits are inclusive."""
    return Verdict(
        candidate=candidate, target=target.id, checks=tuple(checks(candidate, target))
    )


def choose(verdicts: Sequence[Verdict]) -> Choice:
    """Pick the file with the best top-1, then the lowest latency, then the fewest bytes.

    Only files that break no limit are in the choice; one whose accuracy was not measured
    comes after all that were. Latencies are compared as measured where every file in the
    choice was measured on the device, and as predicted otherwise.
    """
    fitting = [verdict for verdict in verdicts if verdict.fits]
    if not fitting:
        lost = tuple(_misfit(verdict) for verdict in verdicts)
        return Choice(file=None, reason="no file fits the target.", lost=lost)
    basis: _Basis = "predicted"
    if all(verdict.candidate.measured for verdict in fitting):
        basis = "measured"
    first = min(fitting, key=lambda verdict: _rank(verdict.candidate, basis))
    best = first.candidate
    lost = tuple(
        Loss(file=v.candidate.file, reason=_behind(v.candidate, best, basis))
        if v.fits
        else _misfit(v)
        for v in verdicts
        if v is not first
    )
    return Choice(file=best.file, reason=_lead(best, len(fitting)), lost=lost)


def _rank(candidate: Candidate, basis: _Basis) -> tuple[float, float, int, str]:
    top1 = -inf if candidate.top1 is None else candidate.top1
    latency = _latency(candidate, basis)
    ms = inf if latency is None else latency.value
    return -top1, ms, candidate.bytes, candidate.file


def _latency(candidate: Candidate, basis: _Basis) -> Measure | None:
    return candidate.measured if basis == "measured" else candidate.predicted


def _misfit(verdict: Verdict) -> Loss:
    check, more = verdict.failed[0], len(verdict.failed) - 1
    others = f" (and {more} more)" if more else ""
    return Loss(file=verdict.candidate.file, reason=f"{check.name}: {check.why}{others}.")


def _behind(loser: Candidate, best: Candidate, basis: _Basis) -> str:
    """Say by which of the three criteria a file that fits lost."""
    if loser.top1 != best.top1:
        if loser.top1 is None or best.top1 is None:
            return f"its accuracy was not measured, that of {best.file} was."
        points = (best.top1 - loser.top1) * 100
        return f"top-1 {loser.top1:.2%} is {points:.2f} points below that of {best.file}."
    slow, fast = _latency(loser, basis), _latency(best, basis)
    if slow is None and fast is not None:
        return f"as accurate as {best.file}, but its latency can't be predicted."
    if slow is not None and fast is not None and slow.value > fast.value:
        times = f"{slow.value:.3g} ms, not {fast.value:.3g}"
        return f"as accurate as {best.file}, but {basis} at {times}."
    if loser.bytes > best.bytes:
        return f"as good as {best.file}, but {loser.bytes - best.bytes:,} bytes larger."
    return f"equal to {best.file} in everything that counts; the name decided."


def _lead(best: Candidate, fitting: int) -> str:
    if fitting == 1:
        return "the only file that fits the target."
    top1 = "accuracy not measured" if best.top1 is None else f"top-1 {best.top1:.2%}"
    return f"best of {fitting} files that fit: {top1}, {best.bytes:,} bytes."
