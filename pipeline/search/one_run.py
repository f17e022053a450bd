"""Carries out one trial: an ordinary run, its shared stages taken over, its end recorded."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.core.epoch import Epoch
from pipeline.core.errors import Interrupted, PareError
from pipeline.search.figures import figures
from pipeline.search.folder import SearchDir
from pipeline.search.sharing import take_over
from pipeline.search.trial import Outcome, State, Trial
from pipeline.stages import STAGES, dense_start, named
from pipeline.stages.runner import Runner

Told = Callable[[Epoch, int], bool]


class Stopped(Exception):
    """Others of its kind were ahead: the training ends, and could be continued."""


class _Reporter:
    """Says nothing, hands epochs on, and ends a training that is not worth going on."""

    def __init__(self, told: Told) -> None:
        self._told = told

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
        """Say nothing: the report tells."""


def key_of(trial: Trial, folder: SearchDir) -> str:
    """Return the identity of a trial's result: the key of its last stage.

    Raises:
        PareError: the recipe names what there is not.
    """
    runner = _runner(trial, folder, lambda *_: True)
    return runner.key(_last(trial))


def first_key(trial: Trial, folder: SearchDir) -> str:
    """Return the key of what a trial computes first, which trials may have in common."""
    return dense_start.key_of(trial.recipe) or _runner(trial, folder, lambda *_: True).key(1)


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
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # for the user's own package.module:name
    began = time.monotonic()
    state: State = "failed"
    more: dict[str, Any] = {}
    key = ""
    try:
        runner = _runner(trial, folder, told)
        key = runner.key(_last(trial))
        more["shared"] = tuple(take_over(runner, folder.runs(), trial.until))
        result = runner.run(until=trial.until)
        more |= {"executed": tuple(result.executed), "figures": figures(result)}
        state = "finished"
    except Interrupted:
        raise
    except Stopped as stop:
        state, more["why"] = "stopped", str(stop)
    except PareError as error:
        more["why"] = str(error)
    except Exception as error:  # a bug, or a library's: the others go on, and it is told
        more["why"] = f"{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - began, 3)
    outcome = Outcome(trial=trial.name, key=key, state=state, seconds=seconds, **more)
    folder.keep(outcome)
    return outcome


def _runner(trial: Trial, folder: SearchDir, told: Told) -> Runner:
    return Runner(trial.recipe, folder.run(trial.name), _Reporter(told), shelf=folder.shelf)


def _last(trial: Trial) -> int:
    names = [stage.name for stage in STAGES]
    return names.index(named(trial.until).name) + 1 if trial.until else len(names)
