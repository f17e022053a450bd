"""Carries out one trial: an ordinary run, its shared stages taken over, its end recorded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pipeline.core.epoch import Epoch
from pipeline.core.errors import Interrupted, PareError
from pipeline.core.own_code import importable_from_here
from pipeline.search.figures import figures
from pipeline.search.folder import SearchDir
from pipeline.search.sharing import take_over
from pipeline.search.trial import Outcome, Trial
from pipeline.stages import STAGES, dense_start, named
from pipeline.stages.runner import Quiet, Reporter, Runner

Told = Callable[[Epoch, int], bool]


class Stopped(Exception):
    """Others of its kind were ahead: the training ends, and could be continued."""


class _Reporter:
    """Says nothing, hands epochs on, and ends a training that is not worth going on."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self.warnings: list[str] = []

    def stage(self, number: int, name: str, text: str, seconds: float | None) -> None:
        """Say nothing: the run's folder tells."""

    def progress(self, done: int, total: int, epoch: Epoch) -> None:
        """Hand an epoch on.

        Raises:
            Stopped: the search wants no more of it.
        """
        del done
        if not self._told(epoch, total):
            raise Stopped(f"stopped after epoch {epoch.epoch}: others were ahead")

    def warn(self, text: str) -> None:
        """Keep it for the outcome."""
        self.warnings.append(text)


def key_of(trial: Trial, folder: SearchDir) -> str:
    """Return the identity of a trial's result: the key of its last stage.

    Raises:
        PareError: the recipe names what there is not.
    """
    runner = _runner(trial, folder, Quiet())
    return runner.key(_last(trial))


def first_keys(trial: Trial, folder: SearchDir) -> tuple[str, ...]:
    """Return the keys of what a trial computes first, which trials may have in common."""
    dense = dense_start.key_of(trial.recipe)
    own = _runner(trial, folder, Quiet()).key(1)
    return (own, dense) if dense else (own,)


def run_trial(trial: Trial, folder: SearchDir, told: Told = lambda *_: True) -> Outcome:
    """Run a trial to its end, and record what became of it.

    What fails in it is its outcome and no error: the search goes on with the others.

    Args:
        trial: what is to be run.
        folder: of the search.
        told: called after each epoch with its record and the epochs in all; returns whether
            the training is to go on.

    Raises:
        Interrupted: on Ctrl-C.
    """
    importable_from_here()
    began = time.monotonic()
    reporter = _Reporter(told)
    reached = _attempt(trial, folder, reporter)
    outcome = Outcome(
        trial=trial.name,
        seconds=round(time.monotonic() - began, 3),
        warnings=tuple(reporter.warnings),
        **reached,
    )
    try:
        folder.keep(outcome)
    except OSError as error:
        raise PareError(
            f"what became of trial {trial.name} can't be written to {folder.path}: "
            f"{error.strerror}. Its run is kept; free some space and run the same command "
            "again."
        ) from error
    return outcome


def _attempt(trial: Trial, folder: SearchDir, reporter: _Reporter) -> dict[str, Any]:
    """Run a trial and return how it ended, and what it reached where it did."""
    key, taken = "", list[str]()
    try:
        runner = _runner(trial, folder, reporter)
        key = runner.key(_last(trial))
        result = runner.run(
            until=trial.until,
            prepare=lambda: taken.extend(take_over(runner, folder.runs(), trial.until)),
        )
        return {
            "key": key,
            "state": "finished",
            "shared": tuple(taken),
            "executed": tuple(result.executed),
            "figures": figures(result),
        }
    except Interrupted:
        raise
    except Stopped as stop:
        return {"key": key, "state": "stopped", "why": str(stop)}
    except PareError as error:
        return {"key": key, "state": "failed", "why": str(error)}
    except Exception as error:  # a bug, or a library's: the others go on, and it is told
        return {"key": key, "state": "failed", "why": f"{type(error).__name__}: {error}"}


def _runner(trial: Trial, folder: SearchDir, reporter: Reporter) -> Runner:
    return Runner(trial.recipe, folder.run(trial.name), reporter, shelf=folder.shelf)


def _last(trial: Trial) -> int:
    names = [stage.name for stage in STAGES]
    return names.index(named(trial.until).name) + 1 if trial.until else len(names)
