"""Which exporter's file is offered, and by what the others lost, in tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.report.tables import BAD, GOOD, OPEN, Cell, Column, Table
from pipeline.report.wording import (
    DASH,
    MINUS,
    TIMES,
    milliseconds,
    number,
    percent,
    points,
    whole,
)

_STATES = {"wrong": BAD, "refused": OPEN}
_NOT_OFFERED = "offers no"  # the exporter was never made for this scheme: no failure
_UNABLE = "does not write it"
_LONGEST = 120  # letters of a reason in the short table

Entry = dict[str, Any]
One = dict[str, Any]


def offered(report: dict[str, Any]) -> Table:
    """Return one row a file: whose is offered, and by what each other one lost."""
    columns = [
        Column("File"),
        Column("Offered", "and its packages"),
        Column("Top-1", "validation, measured", numeric=True),
        Column("Others", "and what decided"),
    ]
    return Table(columns, [_offer(entry) for entry in _contested(report)])


def _offer(entry: Entry) -> list[Cell]:
    winner = winner_of(entry)
    others = [one for one in entry["candidates"] if one is not winner]
    reasons = _reasons(entry, winner)
    said = [f"{label(one)}: {why}" for one, why in zip(others, reasons, strict=True)]
    cell = Cell("none", mark=BAD)
    if winner:
        cell = Cell(label(winner), ", ".join(winner.get("made_by") or []), GOOD)
    return [
        Cell(entry["file"], mark="code"),
        cell,
        Cell(percent(winner.get("validation_top1")) if winner else DASH),
        Cell("; ".join(said) or DASH),
    ]


def figures(report: dict[str, Any]) -> Table:
    """Return one row a candidate, the offered one first, with all that was measured of it."""
    columns = [
        Column("File"),
        Column("Exporter"),
        Column("Outcome"),
        Column("Validation", "top-1, measured", numeric=True),
        Column("Test", "top-1, measured", numeric=True),
        Column("Agreement", "with PyTorch, measured", numeric=True),
        Column("PSNR", "dB, measured", numeric=True),
        Column("Host, 1 thread", "median ms, measured", numeric=True),
        Column("Size", "bytes, measured", numeric=True),
    ]
    rows = [row for entry in _contested(report) for row in _group(entry)]
    return Table(columns, rows)


def _group(entry: Entry) -> Iterator[list[Cell]]:
    winner = winner_of(entry)
    ordered = sorted(entry["candidates"], key=lambda one: one is not winner)
    for place, one in enumerate(ordered):
        parity, best = one.get("parity"), None if one is winner else winner
        yield [
            Cell(entry["file"], mark="code again" if place else "code"),
            Cell(label(one)),
            Cell("offered", mark=GOOD) if one is winner else _outcome(one),
            Cell(percent(one.get("validation_top1")), _fewer(one, best)),
            Cell(percent(parity["top1"]["value"]) if parity else DASH),
            Cell(percent(parity["agreement"], 1) if parity else DASH),
            Cell(_psnr(parity)),
            Cell(milliseconds(one.get("inference")), _slower(one, best)),
            Cell(whole(one.get("bytes")), _larger(one, best)),
        ]


def _contested(report: dict[str, Any]) -> list[Entry]:
    """Return the files that more than one candidate was asked for."""
    return [entry for entry in report["files"] if len(entry.get("candidates") or []) > 1]


def label(one: One) -> str:
    """Name an exporter, and the weights where they were trained with rounding.

    >>> label({"exporter": "tflite_litert", "weights": "qat"})
    'litert, QAT'
    """
    name = str(one["exporter"]).removeprefix("tflite_")
    return f"{name}, QAT" if one.get("weights") == "qat" else name


def winner_of(entry: Entry) -> One | None:
    """Return the candidate whose file is offered, or nothing."""
    if entry["state"] != "made":
        return None
    name = (entry.get("exporter"), entry.get("weights"))
    found = (
        one for one in entry["candidates"] if (one["exporter"], one.get("weights")) == name
    )
    return next(found, None)


def _outcome(one: One) -> Cell:
    if one["state"] == "made":
        return Cell("cross-check")
    if _NOT_OFFERED in one["why"]:
        return Cell(_UNABLE)
    return Cell(one["state"].upper(), one["why"], _STATES[one["state"]])


def _reasons(entry: Entry, winner: One | None) -> list[str]:
    """Say for every candidate that lost by what it did."""
    others = [one for one in entry["candidates"] if one is not winner]
    made = [one for one in others if one["state"] == "made"]
    decided = str(entry.get("elected") or "").split("; ")
    told = dict(zip(map(id, made), decided, strict=False)) if len(decided) == len(made) else {}
    return [_reason(one, winner, told.get(id(one), "")) for one in others]


def _reason(one: One, winner: One | None, decided: str) -> str:
    """Say by what one candidate lost, in its own figure.

    Args:
        one: it.
        winner: the candidate that is offered.
        decided: what the election wrote down of the two.
    """
    if one["state"] != "made":
        absent = _NOT_OFFERED in one["why"]
        return _UNABLE if absent else f"{one['state'].upper()}, {_clipped(one['why'])}"
    if "more accurate" in decided:
        return f"less accurate ({_fewer(one, winner)})"
    if " takes " in decided:
        return f"slower ({_slower(one, winner)} the time)"
    if "bytes smaller" in decided:
        return f"as good, larger ({_larger(one, winner)} bytes)"
    if "comes later" in decided:
        return "as good, later in the list"
    return decided or "cross-check"


def _clipped(why: str) -> str:
    """Shorten a converter's long reason; all of it is beside its figures.

    >>> _clipped("no " * 60)[-6:]
    'no no…'
    """
    return why if len(why) <= _LONGEST else f"{why[:_LONGEST].rstrip()}…"


def _fewer(one: One, best: One | None) -> str:
    """Write the accuracy of a candidate against that of the offered one."""
    mine, other = one.get("validation_top1"), best and best.get("validation_top1")
    return points(mine - other) if mine is not None and other is not None else ""


def _slower(one: One, best: One | None) -> str:
    mine, other = one.get("inference"), best and best.get("inference")
    return f"{mine['value'] / other['value']:.2f} {TIMES}" if mine and other else ""


def _larger(one: One, best: One | None) -> str:
    mine, other = one.get("bytes"), best and best.get("bytes")
    if mine is None or other is None:
        return ""
    return f"{mine - other:+,}".replace("-", MINUS) if mine != other else "equal"


def _psnr(parity: dict[str, Any] | None) -> str:
    if not parity:
        return DASH
    return "exact" if parity["psnr_db"] is None else number(parity["psnr_db"])
