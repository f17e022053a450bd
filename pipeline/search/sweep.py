"""A sweep: every trial of a grid, each an ordinary run, what they share computed once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.search.engine import Engine, Watcher
from pipeline.search.feed import Listed
from pipeline.search.folder import SearchDir
from pipeline.search.one_run import first_keys, key_of
from pipeline.search.trial import Outcome, State, Trial


def sweep(
    trials: Sequence[Trial],
    out: Path,
    engine: Engine,
    watcher: Watcher,
    **said: Any,
) -> list[Outcome]:
    """Run trials that are not finished, and return what became of all.

    Args:
        trials: with names that are unique.
        out: folder of the sweep, one search at a time.
        engine: where they run.
        watcher: who is told.
        said: what else to record of the sweep, such as its grid.

    Raises:
        PareError: another search runs in the folder, or a recipe is refused.
        Interrupted: on Ctrl-C; the same call goes on from there.
    """
    folder = SearchDir(out)
    with folder.lock():
        folder.await_workers()
        folder.describe("sweep", list(trials), **said)
        done = finished(trials, folder)
        for outcome in done.values():
            watcher.ended(outcome)
        ended = dict(done)
        feed = Listed(
            [trial for trial in trials if trial.name not in done],
            lambda trial: first_keys(trial, folder),
            done,
            lambda outcome: ended.update({outcome.trial: outcome}),
        )
        engine.run(feed, folder, watcher)
    return [ended[trial.name] for trial in trials]


def finished(
    trials: Sequence[Trial], folder: SearchDir, also: Sequence[State] = ()
) -> dict[str, Outcome]:
    """Return the outcomes of trials that have ended well and are still what is asked for.

    Args:
        trials: what is asked for.
        folder: of the search.
        also: other ends that count.
    """
    found = {}
    for trial in trials:
        outcome = folder.outcome(trial.name)
        if outcome is None or outcome.state not in ("finished", *also):
            continue
        if outcome.key == key_of(trial, folder):
            found[trial.name] = outcome
    return found
