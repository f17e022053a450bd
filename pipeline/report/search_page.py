"""A search as one page that needs nothing else: no script, no link, no font to fetch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.report.html import environment
from pipeline.report.search import as_csv, combinations, settings_text
from pipeline.report.search_pictures import fronts, rates
from pipeline.report.tables import BAD, GOOD, OPEN, Cell, Column, Table
from pipeline.report.wording import DASH, number, percent, plural, whole

_MARKS = {"finished": GOOD, "stopped": OPEN, "failed": BAD, "not run": OPEN}


def page(report: Mapping[str, Any]) -> str:
    """Return a search as a self-contained HTML page.

    Args:
        report: as ``search.collect`` returns it.
    """
    return (
        environment()
        .get_template("search.html")
        .render(
            report=report,
            headline=headline(report),
            verdicts=_verdicts(report),
            fronts=fronts(report),
            rates=rates(report),
            compared=_compared(report),
            trials=_trials(report),
            csv=as_csv(report),
        )
    )


def headline(report: Mapping[str, Any]) -> str:
    """Say in a sentence what became of the trials and of the targets."""
    states = Counter(trial["state"] for trial in report["trials"])
    said = ", ".join(f"{count} {state}" for state, count in states.items())
    text = f"{plural(len(report['trials']), 'trial')}: {said}."
    if report["verdicts"]:
        fit = sum(verdict["fits"] for verdict in report["verdicts"])
        text = f"{fit} of {plural(len(report['verdicts']), 'target')} got a network. {text}"
    return text


def _verdicts(report: Mapping[str, Any]) -> Table:
    columns = [
        Column("target"), Column("verdict"), Column("network"), Column("file"),
        Column("top-1", "test split, measured", numeric=True),
        Column("bytes", "", numeric=True),
        Column("why"),
    ]  # fmt: skip
    rows = []
    for verdict in report["verdicts"]:
        mark = ("fits", GOOD) if verdict["fits"] else ("does not fit", BAD)
        rows.append([
            Cell(verdict["target"]), Cell(mark[0], mark=mark[1]),
            _network(verdict),
            Cell(verdict["file"] or DASH, mark="code"), Cell(percent(verdict["accuracy"])),
            Cell(whole(verdict["bytes"])), Cell(verdict["why"]),
        ])  # fmt: skip
    return Table(columns, rows)


def _network(verdict: Mapping[str, Any]) -> Cell:
    if not verdict["trial"]:
        return Cell(DASH)
    name = verdict["trial"].removesuffix(".files")
    return Cell(name, settings_text(verdict["settings"]))


def _compared(report: Mapping[str, Any]) -> Table:
    columns = [
        Column("settings"), Column("seeds", "", numeric=True),
        Column("top-1", "test split, mean ± deviation", numeric=True),
        Column("parameters", "", numeric=True), Column("MACs", "", numeric=True),
        Column("smallest file", "bytes", numeric=True), Column("not finished"),
    ]  # fmt: skip
    return Table(columns, [[Cell(text) for text in row] for row in combinations(report)])


def _trials(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row a trial, with what a point of a picture leads to."""
    return [
        {
            "name": trial["name"],
            "settings": settings_text(trial["settings"]),
            "seed": trial["settings"].get("seed", DASH),
            "state": trial["state"],
            "mark": _MARKS[trial["state"]],
            "accuracy": percent((trial["figures"] or {}).get("accuracy")),
            "parameters": whole((trial["figures"] or {}).get("parameters")),
            "macs": whole((trial["figures"] or {}).get("macs")),
            "seconds": number(trial["seconds"]),
            "shared": ", ".join(trial["shared"] or ()) or DASH,
            "why": "; ".join(filter(None, [trial["why"], *(trial["warnings"] or ())])),
        }
        for trial in report["trials"]
    ]
