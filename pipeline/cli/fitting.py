"""Finds a network for each target for the command line, and prints the verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from pipeline.cli.tables import Column, print_table, table_of
from pipeline.core.errors import OverBudget, PareError
from pipeline.core.own_code import importable_from_here
from pipeline.core.recipe import Recipe
from pipeline.core.record import parse
from pipeline.core.target import Target
from pipeline.report.search import write
from pipeline.search import board
from pipeline.search.engine import chosen
from pipeline.search.family import Space
from pipeline.search.fit import fit
from pipeline.search.trial import Outcome
from pipeline.search.verdicts import Verdict
from pipeline.stages.terminal import console


def execute(
    recipe: str,
    *,
    targets: Sequence[str],
    space: Mapping[str, Sequence[float] | None],
    minutes: float | None,
    more: int,
    overrides: Sequence[str],
    out: Path | None,
    workers: int | None,
    cpus: int,
    ray: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Search, write the report, and print what each target got.

    Raises:
        PareError: what nothing could be searched for.
        OverBudget: a line for each target that no network of the family fits.
        Interrupted: on Ctrl-C.
    """
    importable_from_here()
    loaded = Recipe.load(recipe, overrides)
    names = [*targets] or loaded.targets
    if not names:
        raise PareError("no target. Name a device: --target raspberry-pi-4b.")
    sources = _sources(names)
    given = {name: tuple(values) for name, values in space.items() if values is not None}
    wanted = parse(Space, given, "the family")
    folder = out or Path("runs") / f"{loaded.name}-fit"
    engine = chosen(workers, ray, cpus=cpus)
    terminal = console()
    seconds = None if minutes is None else 60 * minutes

    shown = board.Board(terminal, None, engine.workers, _best)
    with board.watching(shown, click.echo, quiet=quiet, as_json=as_json) as watcher:
        verdicts = fit(
            loaded, sources, wanted, folder, engine, watcher, seconds=seconds, more=more
        )
    write(folder)
    if as_json:
        for verdict in verdicts:
            click.echo(json.dumps({"event": "verdict", **verdict.model_dump(mode="json")}))
    elif not quiet:
        _print(terminal, verdicts, folder)
    if misfits := [verdict for verdict in verdicts if not verdict.fits]:
        raise OverBudget("\n".join(f"{one.target}: {one.why}" for one in misfits))


def _sources(names: Sequence[str]) -> list[str]:
    """Return each device once, by its name or the whole path of its file.

    Raises:
        PareError: there is no such device, or two files describe one of the same name.
    """
    found: dict[str, str] = {}
    for name in names:
        source = str(Path(name).resolve()) if name.endswith(".toml") else name
        known = found.setdefault(Target.load(source).id, source)
        if known != source:
            raise PareError(f"{known} and {source} have the same id. Name one of them.")
    return list(found.values())


def _print(terminal: Console, verdicts: Sequence[Verdict], folder: Path) -> None:
    title = "What fits each target"
    rows = [
        [
            one.target,
            (one.trial or "nothing").removesuffix(".files"),
            one.file or "-",
            "-" if one.accuracy is None else f"{one.accuracy:.2%}",
            "-" if one.bytes is None else f"{one.bytes:,}",
        ]
        for one in verdicts
    ]
    columns = [
        Column("target"), Column("network", narrowest=20), Column("file", narrowest=16),
        Column("top-1", "right"), Column("bytes", "right"),
    ]  # fmt: skip
    lines = [f"{name}: {', '.join(rest)}" for name, *rest in rows]
    print_table(terminal, title, table_of(title, columns, rows), lines)
    terminal.print(f"recipes and files: {folder / 'targets'}", soft_wrap=True)
    terminal.print(f"report: {folder / 'search.html'}", soft_wrap=True)


def _best(ended: Mapping[str, Outcome]) -> list[str]:
    """Say which candidate is best so far, by the split that decides."""
    known = [one for one in ended.values() if "validation" in one.figures]
    if not known:
        return []
    best: Any = max(known, key=lambda one: one.figures["validation"])
    return [f"best on validation {best.figures['validation']:.2%}: {best.trial}"]
