"""Runs a recipe for the command line and prints what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.core.errors import PareError
from pipeline.core.own_code import importable_from_here
from pipeline.core.recipe import Recipe, shipped
from pipeline.stages.runner import Quiet, Runner, demand_files, demand_fit
from pipeline.stages.terminal import Terminal


def execute(
    source: str,
    *,
    until: str | None,
    targets: tuple[str, ...],
    overrides: tuple[str, ...],
    out: Path | None,
    fresh: bool,
    quiet: bool,
) -> None:
    """Run a recipe, or the recipe of a run's folder, and print its table.

    Raises:
        PareError: whatever the run refuses.
    """
    recipe, folder = _resolve(source, overrides, targets)
    terminal = None if quiet else Terminal()
    importable_from_here()
    runner = Runner(recipe, out or folder, terminal or Quiet())
    try:
        result = runner.run(fresh=fresh, until=until)
    finally:
        if terminal:
            terminal.close()
    if until == "export":
        demand_files(result.artifacts["export"].metrics["files"], runner.targets)
    if not until:
        if terminal:
            from pipeline.cli.tables import print_report

            print_report(terminal.console, result.report, result.path)
        demand_fit(result.report)


def _resolve(
    source: str, overrides: tuple[str, ...], targets: tuple[str, ...]
) -> tuple[Recipe, Path | None]:
    """Return the recipe, and the folder it lives in if ``source`` is a run."""
    path = Path(source)
    is_run = (path / "recipe.toml").is_file()
    folder = path if is_run or (path.is_dir() and source not in shipped()) else None
    if folder and not is_run:
        raise PareError(f"{folder} is not the folder of a run: it has no recipe.toml.")
    own: Any = folder / "recipe.toml" if folder else source
    listed = [f"targets={[*targets]!r}"] if targets else []
    return Recipe.load(own, [*overrides, *listed]), folder
