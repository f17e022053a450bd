"""What became worse since the report before, kept in the report itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.core.rundir import read_json
from pipeline.report.compare import Line, lines, regressions
from pipeline.report.figures import figures
from pipeline.report.tables import BAD, Cell, Column, Table
from pipeline.report.wording import DASH, number, percent, points, signed, whole


def with_history(report: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a report with the figures of the one before it, and what is worse now.

    Args:
        report: the new one.
        path: of the ``report.json`` that it replaces.
    """
    own = figures(report)
    previous: dict[str, Any] | None = None
    worse: list[Line] = []
    # There is none yet, or it is harmed, or an older pare wrote it: nothing to compare with.
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        found = _previous(report, read_json(path))
        worse = regressions(lines([found, own])) if found else []
        previous = found
    return {
        **report,
        "previous": previous,
        "regressions": [line._asdict() for line in worse],
    }


def _previous(report: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the figures of the last report of the same recipe on other results.

    A report that is only written again, of the same results, keeps what it was held against.
    """
    if any(old[key] != report[key] for key in ("schema_version", "recipe")):
        return None
    if all(old[key] == report[key] for key in ("keys", "created")):
        return dict(old["previous"]) if old["previous"] else None
    return figures(old)


def table(report: Mapping[str, Any]) -> Table:
    """Return what is worse than in the report before."""
    columns = [
        Column("Figure"),
        Column("Before", numeric=True),
        Column("Now", numeric=True),
        Column("Change", numeric=True),
    ]
    return Table(columns, [_row(Line(**line)) for line in report.get("regressions") or []])


def _row(line: Line) -> list[Cell]:
    before, now = (value_text(line, value) for value in line.values)
    change = change_text(line)
    return [Cell(line.quantity, line.of), Cell(before), Cell(now), Cell(change, line.why, BAD)]


def value_text(line: Line, value: float | str | None) -> str:
    """Write a figure of a comparison with its unit."""
    if value is None:
        return DASH
    if isinstance(value, str):
        return value
    if line.quantity == "top-1":
        return percent(value)
    text = whole(value) if isinstance(value, int) else number(value)
    return f"{text} {line.unit}".strip()


def change_text(line: Line) -> str:
    """Write by how much a figure changed."""
    if line.change is None:
        return DASH
    return points(line.change) if line.quantity == "top-1" else signed(line.change)
