"""Runs a sweep for the command line and prints what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from pipeline.cli.tables import Column, print_table, table_of
from pipeline.core.errors import PareError
from pipeline.core.own_code import importable_from_here
from pipeline.report.search import combinations, write
from pipeline.search import board
from pipeline.search.engine import chosen
from pipeline.search.grid import axes, trials
from pipeline.search.sweep import sweep
from pipeline.search.trial import Outcome
from pipeline.stages.terminal import console


def execute(
    recipe: str,
    *,
    grid: Sequence[str],
    seeds: int,
    until: str | None,
    targets: Sequence[str],
    overrides: Sequence[str],
    out: Path | None,
    workers: int | None,
    cpus: int,
    ray: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run every trial of the grid, write the report, and print its table.

    Raises:
        PareError: what no trial could be made of, or the names of those that failed.
        Interrupted: on Ctrl-C.
    """
    importable_from_here()
    listed = [f"targets={[*targets]!r}"] if targets else []
    wanted = trials(recipe, axes(grid), seeds, overrides=[*overrides, *listed], until=until)
    folder = out or Path("runs") / f"{wanted[0].recipe.name}-sweep"
    engine = chosen(workers, ray, cpus=cpus)
    terminal = console()

    shown = board.Board(terminal, len(wanted), engine.workers, _best)
    with board.watching(shown, click.echo, quiet=quiet, as_json=as_json) as watcher:
        outcomes = sweep(wanted, folder, engine, watcher, grid=[*grid], seeds=seeds)
    report = write(folder)
    if as_json:
        click.echo(json.dumps({"event": "report", "path": str(folder / "search.html")}))
    elif not quiet:
        print_trials(terminal, report, folder)
    demand_all(outcomes)


def demand_all(outcomes: Sequence[Outcome]) -> None:
    """Refuse that a trial failed, now that all that could be done is done.

    Raises:
        PareError: a line for each.
    """
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        lines = [
            f"trial {one.trial} failed: {one.why.partition(chr(10))[0]}" for one in failed
        ]
        raise PareError("\n".join(lines))


def print_trials(terminal: Console, report: Mapping[str, Any], folder: Path) -> None:
    """Print a line for each combination, its seeds together, and where the report is."""
    title = "Trials: mean and standard deviation over the seeds"
    rows = [
        [row.name, row.seeds, row.accuracy, row.parameters, row.macs, row.bytes]
        for row in combinations(report)
    ]
    columns = [
        Column("settings", narrowest=20), Column("seeds", "right"), Column("top-1", "right"),
        Column("parameters", "right"), Column("MACs", "right"),
        Column("smallest file, B", "right"),
    ]  # fmt: skip
    lines = [f"{name}: {', '.join(filter(None, rest))}" for name, *rest in rows]
    print_table(terminal, title, table_of(title, columns, rows), lines)
    terminal.print(f"report: {folder / 'search.html'}", soft_wrap=True)


def _best(ended: Mapping[str, Outcome]) -> list[str]:
    """Say which trial is best so far, and on each target which one that fits."""
    done = [outcome for outcome in ended.values() if outcome.state == "finished"]
    known = [outcome for outcome in done if "accuracy" in outcome.figures]
    if not known:
        return []
    best = max(known, key=lambda outcome: outcome.figures["accuracy"])
    return [f"best top-1 {best.figures['accuracy']:.2%}: {best.trial}", *_on_targets(done)]


def _on_targets(done: Sequence[Outcome]) -> list[str]:
    found: dict[str, tuple[float, str]] = {}
    for outcome in done:
        for target, got in outcome.figures.get("targets", {}).items():
            if got["chosen"]:
                accuracy = outcome.figures["files"][got["chosen"]]["accuracy"]
                found[target] = max(found.get(target, (0.0, "")), (accuracy, outcome.trial))
    return [f"{name}: top-1 {top:.2%}, {trial}" for name, (top, trial) in found.items()]
