"""Every file on every target: does it fit, and if not, by which limit first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.report.tables import BAD, GOOD, OPEN, Cell, Column, Table
from pipeline.report.wording import DASH, plural

_SIGNS = {GOOD: "✓", BAD: "✗", OPEN: "?"}
MEANING = "✓ fits, ✗ breaks the limit that is named, ? breaks none, but that is not checked"


class Square(NamedTuple):
    """One file on one target.

    Attributes:
        mark: its colour: good, bad, or open where no limit is broken and one is unknown.
        sign: the same as one letter.
        limit: the first broken limit, or the first unknown one, by a short name.
        why: the same in a sentence.
    """

    mark: str
    sign: str
    limit: str
    why: str
    chosen: bool


class Matrix(NamedTuple):
    """Files by their names without what all share, and the squares of each target."""

    files: list[str]
    rows: list[tuple[Mapping[str, Any], list[Square | None]]]


def matrix(report: Mapping[str, Any]) -> Matrix:
    """Return every target with a square a file; ``None`` where it was not judged."""
    names = [row["file"] for target in report["targets"] for row in target["files"]]
    names = list(dict.fromkeys(names))
    rows = []
    for target in report["targets"]:
        found = {row["file"]: square(row, target["chosen"]) for row in target["files"]}
        rows.append((target, [found.get(name) for name in names]))
    return Matrix([name.removeprefix("model.") for name in names], rows)


def square(row: Mapping[str, Any], chosen: str | None) -> Square:
    """Return the verdict on one file in a word."""
    broken = [check for check in row["checks"] if check["passed"] is False]
    unknown = [check for check in row["checks"] if check["passed"] is None]
    mark, worst = (BAD, broken) if broken else (OPEN, unknown) if unknown else (GOOD, [])
    if not worst:
        held = plural(len(row["checks"]), "limit")
        return Square(GOOD, _SIGNS[GOOD], "", f"keeps all of {held}", row["file"] == chosen)
    first, more = worst[0], len(worst) - 1
    others = f", and {plural(more, 'more limit')}" if more else ""
    return Square(
        mark, _SIGNS[mark], _short(first["name"]),
        f"{first['name']}: {first['why']}{others}", row["file"] == chosen,
    )  # fmt: skip


def table(report: Mapping[str, Any]) -> Table:
    """Return the matrix as words, for a page without colours."""
    found = matrix(report)
    columns = [Column("Target"), *(Column(name) for name in found.files)]
    rows = [
        [Cell(target["id"]), *(_cell(one) for one in squares)]
        for target, squares in found.rows
    ]
    return Table(columns, rows)


def _cell(one: Square | None) -> Cell:
    if one is None:
        return Cell(DASH)
    text = f"{one.sign} {one.limit}".strip()
    return Cell(f"{text}, chosen" if one.chosen else text, mark=one.mark)


def _short(name: str) -> str:
    """Take off a limit's name where it comes from.

    >>> _short("peak RAM (device)"), _short("latency")
    ('peak RAM', 'latency')
    """
    return name.partition(" (")[0]
