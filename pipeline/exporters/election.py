"""Which of several files for one purpose is offered, by what was measured of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pipeline.core.measure import Measure
from pipeline.core.record import Record
from pipeline.exporters.parity import Parity

_LEVEL = 0.005  # of top-1: what is nearer counts as equally accurate
_SLOWER = 1.1  # times the fastest: what is within counts as equally fast

State = Literal["made", "refused", "wrong"]
Weights = Literal["trained", "qat"]


class Candidate(Record):
    """One exporter's file for a plan, or why there is none.

    Attributes:
        exporter: its key.
        weights: which the file holds: those of the network as it is (``trained``), or after
            training with rounding (``qat``).
        state: ``made``, ``refused`` (no file) or ``wrong`` (not faithful, or too inaccurate).
        why: the reason, where it is not made.
        validation_top1: accuracy on the split that chooses, in [0, 1].
        inference: median time of one on this machine, one thread.
        made_by: packages with their versions.
        audit: what of the file is really computed in integers.
    """

    exporter: str
    weights: Weights = "trained"
    state: State
    why: str = ""
    file: str
    bytes: int | None = None
    gzip_bytes: int | None = None
    zstd_bytes: int | None = None
    parity: Parity | None = None
    validation_top1: float | None = None
    inference: Measure | None = None
    made_by: tuple[str, ...] = ()
    audit: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """Short name for a sentence."""
        name = self.exporter.removeprefix("tflite_")
        return name if self.weights == "trained" else f"{name} after training with rounding"


class Election(Record):
    """The candidate that is offered, if any, and why."""

    winner: int | None
    why: str


def elect(candidates: Sequence[Candidate]) -> Election:
    """Choose a file: the right ones, of these the most accurate, the fastest, the smallest.

    Accuracies within half a point count as equal, and so do latencies within 10 %: below
    that a measurement on one split or on one machine decides nothing. Accuracy is that on
    the validation split, so that the test split chooses nothing.
    """
    right = [(i, c) for i, c in enumerate(candidates) if c.state == "made"]
    if not right:
        return Election(winner=None, why="; ".join(f"{c.label}: {c.why}" for c in candidates))
    if len(right) == 1:
        others = [
            f"{c.label} is {c.state}: {c.why}" for c in candidates if c is not right[0][1]
        ]
        why = f"only {right[0][1].label} made it" + (
            f"; {'; '.join(others)}" if others else ""
        )
        return Election(winner=right[0][0], why=why)
    accurate = _near_most_accurate(right)
    fast = _near_fastest(accurate)
    index, winner = min(fast, key=lambda pair: (pair[1].bytes or 0, pair[0]))
    rest = [candidate for number, candidate in right if number != index]
    return Election(winner=index, why="; ".join(_against(winner, other) for other in rest))


_Numbered = list[tuple[int, Candidate]]


def _near_most_accurate(right: _Numbered) -> _Numbered:
    best = max(c.validation_top1 or 0.0 for _, c in right)
    return [(i, c) for i, c in right if (c.validation_top1 or 0.0) >= best - _LEVEL]


def _near_fastest(right: _Numbered) -> _Numbered:
    times = [c.inference.value for _, c in right if c.inference]
    if len(times) < len(right):
        return right  # not all could be timed, so time decides nothing
    return [
        (i, c) for i, c in right if c.inference and c.inference.value <= min(times) * _SLOWER
    ]


def _against(winner: Candidate, other: Candidate) -> str:
    """Say by which figure one candidate was preferred to another."""
    mine, theirs = winner.validation_top1 or 0.0, other.validation_top1 or 0.0
    if mine - theirs > _LEVEL:
        return (
            f"{winner.label} is {(mine - theirs) * 100:.1f} points more accurate on the "
            f"validation split than {other.label}"
        )
    a, b = winner.inference, other.inference
    if a and b and b.value > a.value * _SLOWER:
        return f"{winner.label} takes {a.value:.3g} ms, {other.label} {b.value:.3g}"
    fewer = (other.bytes or 0) - (winner.bytes or 0)
    if fewer > 0:
        return f"{winner.label} is as good as {other.label} and {fewer:,} bytes smaller"
    return f"{winner.label} is as good as {other.label}, which comes later in the list"
