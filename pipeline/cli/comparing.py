"""Compares the reports of runs and prints what differs and what became worse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.core.errors import OverBudget, PareError


def execute(runs: Sequence[Path], *, as_json: bool, demand: bool) -> None:
    """Print how runs differ, the last one held against the first.

    Args:
        runs: folders with a ``report.json``, two at least.
        as_json: print all of it as one JSON object.
        demand: refuse what became worse.

    Raises:
        PareError: fewer than two runs, or one without a report that can be compared.
        OverBudget: something became worse, where that is refused; after all is printed.
    """
    from pipeline.report.compare import regressions, results, settings

    if len(runs) < 2:
        raise PareError("one run can't be compared. Name two runs or more: pare compare A B.")
    reports = [_report(folder) for folder in runs]
    differing, found = settings([report["recipe"] for report in reports]), results(reports)
    worse = regressions(found)
    if as_json:
        content = {
            "runs": [str(folder) for folder in runs],
            "recipe": [setting._asdict() for setting in differing],
            "results": [line._asdict() for line in found],
            "regressions": [line._asdict() for line in worse],
        }
        click.echo(json.dumps(content, indent=1))
    else:
        _print(runs, differing, found)
    if demand and worse:
        raise OverBudget("\n".join(_told(line) for line in worse))


def _report(folder: Path) -> dict[str, Any]:
    from pipeline.core.rundir import read_json
    from pipeline.report.collect import SCHEMA_VERSION

    try:
        found = read_json(folder / "report.json")
    except (OSError, ValueError) as error:
        raise PareError(
            f"{folder} has no report that can be read. Write it: pare report {folder}."
        ) from error
    if not isinstance(found, dict) or found.get("schema_version") != SCHEMA_VERSION:
        raise PareError(
            f"the report of {folder} was written by another version of pare, which says other "
            f"things. Write it again: pare report {folder}."
        )
    return found


def _print(runs: Sequence[Path], differing: Sequence[Any], found: Sequence[Any]) -> None:
    """Print what differs, in tables with a letter a run; what is the same is counted."""
    from rich.console import Console

    letters = [_letter(number) for number in range(len(runs))]
    for letter, folder in zip(letters, runs, strict=True):
        click.echo(f"{letter}: {folder}")
    console = Console(highlight=False)
    if differing:
        _print_settings(console, letters, differing)
    else:
        click.echo("The recipes are the same.")
    if other := [line for line in found if line.result != "same"]:
        _print_results(console, letters, other)
    same = len(found) - len(other)
    click.echo(
        f"{same} of {len(found)} figures are the same in {letters[0]} and {letters[-1]}."
    )


def _print_settings(console: Any, letters: Sequence[str], differing: Sequence[Any]) -> None:
    from pipeline.cli.tables import Column, print_table, table_of

    title = "Recipe: what differs"
    rows = [
        [one.key, *("-" if value is None else json.dumps(value) for value in one.values)]
        for one in differing
    ]
    columns = [Column("key"), *(Column(letter, narrowest=8) for letter in letters)]
    lines = []
    for key, *values in rows:
        lines.append(key)
        lines += [f"  {letter}  {text}" for letter, text in zip(letters, values, strict=True)]
    print_table(console, title, table_of(title, columns, rows), lines)


def _print_results(console: Any, letters: Sequence[str], other: Sequence[Any]) -> None:
    from pipeline.cli.tables import Column, print_table, table_of
    from pipeline.report.history import change_text

    title = f"Result: {letters[-1]} held against {letters[0]}"
    rows = [
        [
            line.quantity,
            _short(line.of),
            *(_shown(line, value) for value in line.values),
            change_text(line),
            _short(_verdict(line)),
        ]
        for line in other
    ]
    columns = [
        Column("figure", narrowest=11),
        Column("of", narrowest=20),
        *(Column(letter, "right", narrowest=8) for letter in letters),
        Column("change", "right"),
        Column("result", narrowest=16),
    ]
    lines = []
    for quantity, of, *values, change, verdict in rows:
        lines += [f"{quantity}, {of}", f"  {' | '.join(values)}: {change}, {verdict}"]
    print_table(console, title, table_of(title, columns, rows), lines)


def _shown(line: Any, value: Any) -> str:
    """Write a figure; of a verdict the file's name is told beside the result."""
    from pipeline.report.history import value_text

    if line.quantity == "verdict" and value not in (None, "no file fits"):
        return "fits"
    return value_text(line, value)


def _short(text: str) -> str:
    """Leave out what the names of all files begin with.

    >>> _short("model.int8.onnx, 1 thread")
    'int8.onnx, 1 thread'
    """
    return text.replace("model.", "")


def _verdict(line: Any) -> str:
    result = "REGRESSION" if line.result == "regression" else line.result
    return f"{result}: {line.why}" if line.why else result


def _told(line: Any) -> str:
    from pipeline.report.history import change_text, value_text

    before, after = (value_text(line, line.values[place]) for place in (0, -1))
    change = f" ({change_text(line)})" if line.change is not None else ""
    return f"regression: {line.quantity} of {line.of}: {before}, now {after}{change}"


def _letter(number: int) -> str:
    """Name a run: A to Z, then by its number.

    >>> _letter(0), _letter(26)
    ('A', '27')
    """
    return chr(ord("A") + number) if number < 26 else str(number + 1)
