"""The report in compact Markdown, for a pull request."""

from __future__ import annotations

from typing import Any

import tomli_w

from pipeline.report import candidates, fits, history, host, quantization, tables, verdicts
from pipeline.report.tables import Cell, Column, Table
from pipeline.report.wording import DASH


def text(report: dict[str, Any]) -> str:
    """Return a report as Markdown.

    Args:
        report: as ``collect`` returns it.
    """
    parts = [
        f"# {_plain(report['name'])}",
        _plain(verdicts.headline(report)),
        *_section("Verdicts", _verdicts(report)),
        *_matrix(report),
        *_lost(report),
        *_regressions(report),
        *_section("Files", tables.files(report)),
        *filter(None, [_plain(quantization.zeros(report))]),
        *filter(None, [_plain(host.unstable(report))]),
        *_tally(report),
        *_section("Who made them", candidates.offered(report), level=3),
        *_folded("Every candidate", candidates.figures(report)),
        *_folded("Host latency in full", host.details(report)),
        *_folded("Kernels by time", tables.operators(report)),
        *_integers(report),
        *_section("The network", tables.scores(report)),
        *_section("What was cut and why", tables.layers(report)),
        *_widths(report),
        *_section("Where constants were folded", tables.folds(report), level=3),
        *_section("Dead channels that were kept", tables.stayed(report), level=3),
        *_section("Proof: compact network against masked network", tables.proof(report)),
        *_checks(report),
        *_section("Stages", tables.stages(report)),
        *_section("Number formats", tables.plan(report), level=3),
        *_section("Calibration", tables.calibration(report), level=3),
        *_section("Measured on", host.conditions(report), level=3),
        *_section("Versions", tables.versions(report), level=3),
        _plain(f"Method: {tables.method(report)}. Seeds: {tables.seeds(report)}."),
        _fenced(tomli_w.dumps(report["recipe"]), "Recipe"),
    ]
    return "\n\n".join(parts) + "\n"


def _tally(report: dict[str, Any]) -> list[str]:
    """Count the files by state, where not all are made."""
    found = tables.tally(report)
    if [one.state for one in found] in ([], ["made"]):
        return []
    return [
        _plain(". ".join(f"{one.total} {one.state}: {one.meaning}" for one in found) + ".")
    ]


def _integers(report: dict[str, Any]) -> list[str]:
    """Return what is said of integers: what is really so, what it cost, what was done."""
    parts = [
        *_section("What is really integer", quantization.audits(report), level=3),
        *_folded("Every float part", quantization.islands(report)),
        *_section("Holding the accuracy limit", quantization.control(report), level=3),
        *_folded("Layer by layer", quantization.layers(report)),
        *_section("Training with rounding", quantization.gains(report), level=3),
        *_section("What hurts integers", quantization.findings(report), level=3),
        *_folded("Every finding", quantization.all_findings(report)),
    ]
    told = [f"- {_plain(line)}" for line in quantization.told(report)]
    if told:
        parts += ["### Done to the network for its integers", "\n".join(told)]
    return parts


def _folded(title: str, table: Table) -> list[str]:
    """Return a long table that is opened on demand, or nothing where it has no row."""
    if not table.rows:
        return []
    return [f"<details><summary>{title}</summary>\n\n{_table(table)}\n\n</details>"]


def _widths(report: dict[str, Any]) -> list[str]:
    slow = report["cut"]["slow_widths"]
    return [_plain(f"Widths: {slow}")] if slow else []


def _verdicts(report: dict[str, Any]) -> Table:
    """Return one row a target: its file and the figures that matter, each with its basis."""
    titles = ("Target", "Verdict", "File", "Latency", "Peak RAM", "Size", "Top-1", "Why")
    rows = []
    for card in verdicts.cards(report):
        latency = "; ".join(f"{fact.figure} ({fact.basis})" for fact in card.latency)
        facts = [Cell(fact.figure, fact.basis) for fact in card.facts] or [Cell(DASH)] * 3
        why = " ".join([card.why, *card.broken, *card.open])
        nearest = f"shown: {card.shown}" if card.shown and not card.file else ""
        rows.append(
            [
                Cell(card.name, card.id),
                Cell(card.state, mark=card.mark),
                Cell(card.file or DASH, nearest),
                Cell(latency or DASH),
                *facts,
                Cell(why),
            ]
        )
    return Table([Column(title) for title in titles], rows)


def _matrix(report: dict[str, Any]) -> list[str]:
    """Return which file fits which target, in one table."""
    found = fits.table(report)
    if len(found.columns) == 1:
        return []
    return [*_section("Targets and files", found), f"{_plain(fits.MEANING)}."]


def _regressions(report: dict[str, Any]) -> list[str]:
    found = history.table(report)
    title = "Worse than in the report before"
    return _section(title, found)


def _lost(report: dict[str, Any]) -> list[str]:
    parts = []
    for card in verdicts.cards(report):
        parts += _section(f"Why the other files lost on {card.name}", card.lost, level=3)
    return parts


def _checks(report: dict[str, Any]) -> list[str]:
    parts = []
    for target in report["targets"]:
        file = verdicts.nearest(target)
        if file:
            title = f"Limits of {target['name']}, held against {file}"
            parts += _section(title, tables.checks(report, target, file), level=3)
    return ["## Limits", *parts] if parts else []


def _section(title: str, table: Table, level: int = 2) -> list[str]:
    """Return a heading and a table, or nothing where the table has no row."""
    return [f"{'#' * level} {_plain(title)}", _table(table)] if table.rows else []


def _table(table: Table) -> str:
    """Return a table; the second line of a cell follows in brackets."""
    head = [_cell(Cell(column.title, column.note)) for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    lines = [head, rule, *([_cell(cell) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    note = f" ({cell.note})" if cell.note else ""
    return _plain(cell.text + note).replace("|", "\\|")


def _plain(text: str) -> str:
    """Keep a text from being read as Markdown or HTML, on one line.

    >>> _plain("<b> R&D")
    '&lt;b&gt; R&amp;D'
    """
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for letter in "\\`*_[]":
        text = text.replace(letter, f"\\{letter}")
    return text


def _fenced(text: str, title: str) -> str:
    """Return a block that its own content can't end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"<details><summary>{title}</summary>\n\n{fence}toml\n{text}{fence}\n\n</details>"
