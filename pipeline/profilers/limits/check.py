"""What a check is, and the two forms that most of them have: one of these, at most that."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from pipeline.core.record import Record

_NOISE = 1e-9  # of decimal fractions, so that limits stay inclusive


class Check(Record):
    """One limit. ``passed`` is ``None`` where the figure is not known: never a zero."""

    name: str
    limit: str
    figure: str | None
    passed: bool | None
    why: str
    remedy: str = ""


def among(name: str, found: str, allowed: Sequence[str], remedy: str) -> Check:
    """Check that what was found is one of what is allowed."""
    passed = found in allowed
    verb = "is" if passed else "is not"
    return Check(
        name=name,
        limit=listed(allowed),
        figure=found,
        passed=passed,
        why=f"{found or 'nothing'} {verb} among {listed(allowed)}",
        remedy="" if passed else remedy,
    )


def at_most(name: str, figure: float, limit: float, unit: str, remedy: str) -> Check:
    """Check that a figure is not above its limit."""
    passed = keeps(figure, limit)
    over = f", {figure - limit:.3g} {unit} over" if not passed else ""
    return Check(
        name=name,
        limit=f"{limit:g} {unit}",
        figure=f"{figure:.3g} {unit}",
        passed=passed,
        why=f"{figure:.3g} {unit} against a limit of {limit:g} {unit}{over}",
        remedy="" if passed else remedy,
    )


def keeps(figure: float, limit: float) -> bool:
    """Tell whether a figure is within its limit, the limit itself included."""
    return figure <= limit + _NOISE


def share_over(figure: float, limit: float) -> str:
    """Write what share of a figure has to go for its limit, rounded up.

    >>> share_over(200, 150), share_over(3, 2)
    ('25 %', '34 %')
    """
    return f"{ceil(100 * (1 - limit / figure) - _NOISE)} %"


def listed(names: Sequence[str]) -> str:
    """Write names as a list.

    >>> listed(["onnx", "tflite"]), listed([])
    ('onnx, tflite', 'nothing')
    """
    return ", ".join(names) or "nothing"
