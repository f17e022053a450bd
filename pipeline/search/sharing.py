"""Finished stages that trials of one search have in common are computed once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.core.artifact import Artifact
from pipeline.core.rundir import SCRATCH, RunDir
from pipeline.stages import STAGES
from pipeline.stages.runner import Runner


def take_over(runner: Runner, others: Iterable[Path], until: str | None) -> list[str]:
    """Give a run the stages that another run has finished under the same keys.

    A stage's key holds all that its result depends on, so that one with the same key is the
    same result. Files are linked where the disk allows it; stages never change a file that
    is finished.

    Args:
        runner: of the run that is about to begin.
        others: folders of runs to take from.
        until: the last stage that is wanted.

    Returns:
        The names of the stages that were taken over.
    """
    taken: list[str] = []
    parent: Artifact | None = None
    lenders = [RunDir(path) for path in others if path != runner.dir.path]
    for number, stage in enumerate(STAGES, 1):
        key = runner.key(number)
        own = runner.dir.finished(number, stage.name, key)
        if own is None or not own.follows(parent):
            own = _from_any(runner.dir, lenders, number, stage.name, key, parent)
            if own is None:
                break
            taken.append(stage.name)
        parent = own
        if stage.name == until:
            break
    return taken


def _from_any(
    run: RunDir,
    lenders: Iterable[RunDir],
    number: int,
    stage: str,
    key: str,
    parent: Artifact | None,
) -> Artifact | None:
    for lender in lenders:
        found = lender.finished(number, stage, key)
        if found and found.follows(parent):
            _copy(lender.folder(number, stage), run.folder(number, stage))
            return run.finished(number, stage, key)
    return None


def _copy(source: Path, final: Path) -> None:
    """Put a finished stage in its place, whole or not at all."""
    scratch = final.with_name(final.name + ".taken")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.parent.mkdir(parents=True, exist_ok=True)
    # What a commit takes away last is no part of a result, and may be gone while it is copied.
    ignored = shutil.ignore_patterns(*SCRATCH)
    shutil.copytree(source, scratch, copy_function=_linked, ignore=ignored)
    shutil.rmtree(final, ignore_errors=True)
    scratch.rename(final)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
