"""A run that takes a second, ways to start it through the command line, and its hashes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.core.recipe import Recipe
from pipeline.stages.runner import Quiet, Run, Runner

ROOT = Path(__file__).resolve().parent.parent

#: What makes the quickstart fast: a small network, two epochs, no file for any device.
FAST = (
    "targets=[]",
    "model.width=4",
    "model.hidden=8",
    "budget.weights=0.5",
    "train.epochs=2",
    "train.accelerator=cpu",
    "profile.seconds=0",
    "profile.repeats=2",
    "profile.warmup_s=0",
)


def run_fast(out: Path, *overrides: str, until: str = "compact", fresh: bool = False) -> Run:
    """Run the fast recipe in this process."""
    recipe = Recipe.load("quickstart", [*FAST, *overrides])
    return Runner(recipe, out, Quiet()).run(until=until, fresh=fresh)


def arguments(command: str, out: Path, *overrides: str) -> list[str]:
    """Return the command line of the fast recipe."""
    sets = [part for text in (*FAST, *overrides) for part in ("--set", text)]
    return [command, "quickstart", "--out", str(out), *sets]


def pare(*args: str) -> Result:
    """Run the command line in this process; what is no refusal is raised."""
    result = CliRunner().invoke(main, list(args))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def start_pare(
    *args: str,
    cwd: Path,
    preexec_fn: Callable[[], object] = lambda: None,
    **changes: object,
) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "pipeline.cli", *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: _listens_to_ctrl_c() or preexec_fn(),
        **changes,
    )


def _listens_to_ctrl_c() -> None:
    """Take back what a suite that was started in the background hands to its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stage_hashes(run: Path) -> dict[str, str]:
    """Return the hash of every file of every finished stage."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in sorted(run.glob("[0-9]-*"))
        if folder.suffix != ".partial"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
