"""Which network a target gets, which came near, and why the others lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from pipeline.core.record import Record
from pipeline.core.target import Target
from pipeline.search.trial import Outcome


class Lost(Record):
    """A network that a target did not get, and why."""

    trial: str
    why: str


class Verdict(Record):
    """What a search found for one target.

    Attributes:
        fits: whether it has a network; ``trial`` and ``file`` name it.
        accuracy: of the file, on the test split.
        counted: whether counting alone decided.
    """

    target: str
    fits: bool
    why: str
    trial: str | None = None
    file: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    accuracy: float | None = None
    bytes: int | None = None
    counted: bool = False
    lost: tuple[Lost, ...] = ()


def refusal(outcome: Outcome, target: Target, reference: float) -> str | None:
    """Say why the files of a finished run are no answer for a target, or nothing.

    What accuracy is lost counts from the most accurate network of the whole search: a
    narrow network that lost nothing of the little it could do is no answer.

    Args:
        outcome: of a run with its files and verdicts.
        target: the device.
        reference: top-1 of that network on the test split.
    """
    got = outcome.figures["targets"].get(target.id)
    if got is None or not got["chosen"]:
        return "; ".join((got or {}).get("broken") or ["it has no file that fits"])
    limit = target.budgets.accuracy_drop_pct if target.budgets else None
    file = outcome.figures["files"][got["chosen"]]
    lost = 100 * (reference - file["accuracy"])
    if limit is not None and lost > limit + 1e-9:
        return (
            f"{got['chosen']} loses {lost:.2f} points of top-1 against the most accurate "
            f"network of the search ({reference:.2%}), limit {limit:g}"
        )
    return None


def accepted(
    outcome: Outcome, target: Target, settings: Mapping[str, Any], lost: Sequence[Lost]
) -> Verdict:
    """Return the verdict for a target that has its network."""
    got = outcome.figures["targets"][target.id]
    file = outcome.figures["files"][got["chosen"]]
    return Verdict(
        target=target.id,
        fits=True,
        why=got["why"],
        trial=outcome.trial,
        file=got["chosen"],
        settings=dict(settings),
        accuracy=file["accuracy"],
        bytes=file["bytes"],
        lost=tuple(lost),
    )
