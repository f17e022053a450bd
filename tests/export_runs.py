"""Runs up to the files: targets in a few words, what a run said, children that misbehave."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fast_run import FAST

from pipeline.core.recipe import Recipe
from pipeline.core.rundir import read_json
from pipeline.stages.runner import Quiet, Run, Runner

#: What each TFLite exporter needs, looked for and never imported.
_NEEDED = {
    "litert": ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"),
    "onnx2tf": ("tensorflow", "onnx2tf", "tf_keras", "ai_edge_litert"),
}


def needs(*backends: str) -> pytest.MarkDecorator:
    """Skip a test, with the reason, where a converter is not installed."""
    absent = sorted({n for b in backends for n in _NEEDED[b] if find_spec(n) is None})
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


def write_target(
    folder: Path, name: str, formats: Sequence[str], dtypes: Sequence[str], *more: str
) -> Path:
    """Write a target file with nothing but what it takes; ``more`` are lines of its limits."""
    path = folder / f"{name}.toml"
    lines = [
        'schema = "edge-target/1"',
        f'id = "{name}"',
        f'name = "A device called {name}"',
        'class = "sbc"',
        "[platform]",
        'os = "linux"',
        "[constraints]",
        'basis = "assumed"',
        'source = "this test"',
        f"formats = {list(formats)}",
        f"dtypes = {list(dtypes)}",
        *more,
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Heard(Quiet):
    """Remembers the warnings of a run."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def copied(finished: Path, to: Path) -> Path:
    """Return a copy of a run that goes on from what is finished there."""
    shutil.copytree(finished, to)
    return to


def asked(targets: Sequence[Path], *overrides: str) -> list[str]:
    """Return the overrides of a run for some targets."""
    return [f"targets={[str(path) for path in targets]}", *overrides]


def go_on(
    folder: Path, targets: Sequence[Path], *overrides: str, until: str | None = "export"
) -> tuple[Run, list[str]]:
    """Run what is not finished yet in this process; return it and the warnings."""
    heard = Heard()
    recipe = Recipe.load("quickstart", [*FAST, *asked(targets, *overrides)])
    return Runner(recipe, folder, heard).run(until=until), heard.warnings


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what a run knows of its files, by their names."""
    return {entry["file"]: entry for entry in read_json(folder / "5-export" / "files.json")}


def states(entry: dict[str, Any]) -> dict[str, str]:
    """Return what became of each exporter's file."""
    return {one["exporter"]: one["state"] for one in entry["candidates"]}


_OF_THE_MOMENT = ("timings", "tracking")


def names(folder: Path) -> set[str]:
    """Return every file below a folder, by its path in it.

    Of this machine's times only what was stable is kept: which those are is not the run's.
    Event files are named by the time they were begun.
    """
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if path.parts[0] not in _OF_THE_MOMENT}


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that waits to be buried does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return stat.parent.parent.is_dir() is False  # gone meanwhile, or no /proc here


_AT_START = """
import sys
for worker, code in {workers!r}.items():
    if "pipeline.exporters." + worker in sys.orig_argv:
        exec(code)
"""


def at_start(folder: Path, **workers: str) -> Path:
    """Make a folder for ``PYTHONPATH`` whose code runs first in the workers' processes."""
    folder.mkdir(parents=True, exist_ok=True)
    code = _AT_START.format(workers={f"{key}_worker": text for key, text in workers.items()})
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    return folder


def hidden(module: str) -> str:
    """Return code after which a module cannot be imported, as if it were not installed."""
    return f"sys.modules[{module!r}] = None"


#: What a converter may do at its worst.
CRASHES = "import os, signal; print('stack smashed', flush=True); os.kill(os.getpid(), 11)"
