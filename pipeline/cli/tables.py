"""The tables at the end of a run; in a terminal that is too narrow for them, lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.report.fits import Square, matrix
from pipeline.report.latencies import is_unstable
from pipeline.report.tables import BAD, GOOD, OPEN

_FILES = "Files: difference from PyTorch, host latency with one thread"
_TARGETS = "Targets"
_MATRIX = "Which file fits: yes; NO, and the first limit it breaks; yes?, and one not checked"


def print_report(console: Console, report: dict[str, Any], folder: Path) -> None:
    """Print the files, the verdict of each target, and where the report is."""
    if report["files"]:
        print_table(console, _FILES, _files(report), _file_lines(report))
    if report["targets"]:
        print_table(console, _TARGETS, _targets(report), _target_lines(report))
        _print_matrix(console, report)
    else:
        console.print("no target was asked for")
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


@dataclass(frozen=True)
class Column:
    """A column's head; one that folds can be as narrow as ``narrowest``."""

    name: str
    justify: Literal["left", "right"] = "left"
    narrowest: int | None = None


def print_table(console: Console, title: str, table: Table, lines: Sequence[str]) -> None:
    """Print the table where its columns have room, else the lines."""
    if _has_room(console, table):
        console.print(table)
        return
    # Too long a line is broken between words; nothing is cut off.
    console.print(title, *lines, "", sep="\n", overflow="fold", markup=False)


def _has_room(console: Console, table: Table) -> bool:
    return Console(width=10_000).measure(table).minimum <= console.width


def _print_matrix(console: Console, report: dict[str, Any]) -> None:
    """Print which file fits which target, where there is room; the report has it anyway."""
    found = matrix(report)
    if len(found.files) < 2:
        return
    columns = [Column("file"), *(Column(target["id"]) for target, _ in found.rows)]
    squares = zip(*(squares for _, squares in found.rows), strict=True)
    rows = [
        [file, *("-" if one is None else _square(one) for one in of_file)]
        for file, of_file in zip(found.files, squares, strict=True)
    ]
    table = table_of(_MATRIX, columns, rows)
    if _has_room(console, table):
        console.print(table)


def _square(one: Square) -> str:
    text = {GOOD: "yes", BAD: f"NO {one.limit}", OPEN: f"yes? {one.limit}"}[one.mark]
    return f"{text}, chosen" if one.chosen else text


def table_of(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table in which nothing is cut off."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        longest = max(len(text) for text in (column.name, *(row[number] for row in rows)))
        table.add_column(
            column.name,
            justify=column.justify,
            no_wrap=column.narrowest is None,
            overflow="fold",
            min_width=min(longest, column.narrowest or longest),
        )
    for row in rows:
        table.add_row(*(escape(text) for text in row))
    return table


def _files(report: dict[str, Any]) -> Table:
    columns = [Column("file")]
    columns += [Column(name, "right") for name in ("bytes", "gzip", "top-1")]
    columns.append(Column("difference, agreement", "right", narrowest=11))
    columns += [Column(name, "right") for name in ("median ms", "p90")]
    return table_of(_FILES, columns, [_shown(entry) for entry in report["files"]])


def _shown(entry: dict[str, Any]) -> list[str]:
    """Return the cells without format and scheme: the file's name says both."""
    file, _, _, *figures = file_cells(entry)
    return [file, *figures]


def _file_lines(report: dict[str, Any]) -> list[str]:
    lines = []
    for entry in report["files"]:
        file, size, gzip, top1, parity, median, p90 = _shown(entry)
        if entry["state"] == "refused":
            lines += [file, f"  {parity}"]
            continue
        lines += [
            file,
            f"  {size} bytes, gzip {gzip}",
            f"  top-1 {top1}, {parity}",
            f"  median {median} ms, p90 {p90} ms",
        ]
    return lines


def file_cells(entry: dict[str, Any]) -> list[str]:
    """Return the cells of one file's row; a missing figure is a dash, never a zero."""
    scheme = "-".join(filter(None, [entry["scheme"], entry.get("variant")]))
    head = [entry["file"], entry["format"], scheme]
    if entry["state"] == "refused":
        return [*head, "-", "-", "-", "REFUSED", "-", "-"]
    parity = entry["parity"]
    timing = entry.get("latency") or []
    first = timing[0] if timing else None
    return [
        *head,
        f"{entry['bytes']:,}",
        f"{entry['gzip_bytes']:,}",
        f"{parity['top1']['value']:.2%}",
        parity_text(entry),
        _median(first) if first else "-",
        f"{first['p90']['value']:.3f}" if first and first["p90"] else "-",
    ]


def parity_text(entry: dict[str, Any]) -> str:
    """Say how far a file is from PyTorch: by difference if float, in steps if integer."""
    parity = entry["parity"]
    agreement = f"{parity['agreement']:.1%}"
    if parity["max_steps"] is not None:
        text = f"{parity['max_steps']:.1f} steps, {agreement}"
    elif parity["max_abs_difference"] is not None:
        text = f"{parity['max_abs_difference']:.1e}, {agreement}"
    else:
        text = f"not finite, {agreement}"
    return text if entry["state"] == "made" else f"WRONG {text}"


def _median(timing: dict[str, Any]) -> str:
    unstable = " UNSTABLE" if timing.get("stable") is False else ""
    return f"{timing['median']['value']:.3f}{unstable}"


def _targets(report: dict[str, Any]) -> Table:
    columns = [Column(name) for name in ("target", "file", "fits")]
    columns += [
        Column("latency", narrowest=10),
        Column("peak RAM", narrowest=4),
        Column("why", narrowest=16),
    ]
    return table_of(_TARGETS, columns, [target_cells(target) for target in report["targets"]])


def _target_lines(report: dict[str, Any]) -> list[str]:
    lines = []
    for target in report["targets"]:
        name, file, fits, latency, memory, why = target_cells(target)
        lines += [
            f"{name}: fits {fits}",
            f"  {file}",
            f"  latency {latency}",
            f"  peak RAM {memory}",
            f"  {why}",
        ]
    return lines


def target_cells(target: dict[str, Any]) -> list[str]:
    """Return the cells of one target's row: its file, or the one that comes nearest."""
    shown = target["chosen"] or target["nearest"]
    row = next((row for row in target["files"] if row["file"] == shown), None)
    return [
        target["id"],
        target["chosen"] or (f"nearest: {shown}" if shown else "none"),
        "yes" if target["chosen"] else "NO",
        latency_text(row) if row else "-",
        f"{row['peak_ram']['value']:.3g} MB" if row else "-",
        target["why"],
    ]


def latency_text(row: dict[str, Any]) -> str:
    """Return the latency that counts and its basis: measured, else predicted, else a bound."""
    if measured := row.get("measured"):
        statistic = measured["conditions"].get("statistic", "mean")
        note = f"measured, {statistic}, n = {measured['n']}"
        return f"{measured['value']:.2g} ms ({note}{', UNSTABLE' if is_unstable(row) else ''})"
    predicted, bound = row["predicted"], row["bound"]
    if predicted:
        low, high = predicted["spread"]
        note = ", extrapolated" if predicted["conditions"].get("extrapolated") else ""
        return f"{predicted['value']:.2g} ms ({low:.2g} to {high:.2g}, predicted{note})"
    if bound:
        return f"at least {bound['value']:.2g} ms (bound)"
    return "not predictable"
