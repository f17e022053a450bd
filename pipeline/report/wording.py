"""Figures in words: three digits, a unit, and a dash for what is not known."""

from __future__ import annotations

import math
from typing import Any

DASH = "\N{EN DASH}"  # what is not known is never a zero
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


def number(value: float | None) -> str:
    """Write a figure with three digits that count, or all digits before the point.

    >>> number(0.06554), number(12.345), number(2726400.0), number(1.5e-7)
    ('0.0655', '12.3', '2,726,400', '1.5e-07')
    """
    if value is None:
        return DASH
    size = abs(value)
    if size and size < 1e-3:
        return f"{value:.1e}"
    if size >= 100:
        return f"{value:,.0f}"
    decimals = 2 - math.floor(math.log10(size)) if size else 0
    return f"{value:.{decimals}f}"


def whole(value: int | None) -> str:
    """Write a count with thousands separators.

    >>> whole(311208), whole(0)
    ('311,208', '0')
    """
    return DASH if value is None else f"{value:,}"


def percent(share: float | None, digits: int = 2) -> str:
    """Write a fraction in percent.

    >>> percent(0.99164)
    '99.16 %'
    """
    return DASH if share is None else f"{100 * share:.{digits}f} %"


def signed(share: float, digits: int = 1) -> str:
    """Write a change in percent with its sign; one that rounds to nothing has none.

    >>> signed(0.0512), signed(-0.2) == f"{MINUS}20.0 %", signed(-0.0001)
    ('+5.1 %', True, '0.0 %')
    """
    rounded = round(100 * share, digits)
    sign = "" if not rounded else MINUS if rounded < 0 else "+"
    return f"{sign}{abs(rounded):.{digits}f} %"


def points(difference: float) -> str:
    """Write a difference of two fractions in points, with its sign.

    >>> points(-0.0084) == f"{MINUS}0.84 points", points(0.0556), points(0.0)
    (True, '+5.56 points', 'equal')
    """
    if abs(difference) < 5e-5:
        return "equal"
    return f"{MINUS if difference < 0 else '+'}{100 * abs(difference):.2f} points"


def part(some: int | None, total: int | None) -> str:
    """Write what part of a total some are.

    >>> part(36768, 367680)
    '10.0 %'
    """
    return percent(some / total, 1) if some is not None and total else DASH


def change(before: int | None, after: int | None) -> str:
    """Write by how much a count changed.

    >>> change(100, 121), change(5, 5)
    ('+21.0 %', 'unchanged')
    """
    if after is None or not before:
        return DASH
    if after == before:
        return "unchanged"
    sign = MINUS if after < before else "+"
    return f"{sign}{100 * abs(after - before) / before:.1f} %"


def milliseconds(measure: dict[str, Any] | None) -> str:
    """Write a latency without its unit."""
    return number(measure["value"]) if measure else DASH


def interval(measure: dict[str, Any] | None) -> str:
    """Write the interval of a latency, or nothing."""
    if not measure or not measure["spread"]:
        return ""
    low, high = measure["spread"]
    return f"{number(low)} to {number(high)}"


def accuracy_interval(measure: dict[str, Any]) -> str:
    """Write the interval and the number of images behind an accuracy."""
    count = f"n = {whole(measure['n'])}"
    if not measure["spread"]:
        return count
    low, high = measure["spread"]
    return f"{100 * low:.2f} to {100 * high:.2f} %, {count}"


def plural(count: int, one: str, many: str = "") -> str:
    """Write a count with its noun.

    >>> plural(1, "file"), plural(3, "file"), plural(2, "class", "classes")
    ('1 file', '3 files', '2 classes')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"
