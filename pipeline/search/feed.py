"""What is tried next: trials in an order that computes what they share once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pipeline.core.epoch import Epoch
from pipeline.search.trial import Outcome, Trial


class Feed(Protocol):
    """Decides what is tried next, and whether a training is worth going on."""

    def next(self) -> Trial | None:
        """Return a trial that may begin; nothing where none may before another ends."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing will come any more."""

    def epoch(self, trial: str, epoch: Epoch) -> bool:
        """Take in what an epoch reached; return whether the training is to go on."""

    def told(self, outcome: Outcome) -> None:
        """Take in what became of a trial."""


class Listed:
    """Trials of a list, each once, none stopped.

    Of trials that share a stage the first goes ahead; the others wait until it has ended, and
    then find the stage. So do trials that name others in ``after``; where one of those fails,
    they are told as failed without being begun.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        shared: Mapping[str, str],
        done: Mapping[str, Outcome],
        told: Callable[[Outcome], None],
    ) -> None:
        """Take the list.

        Args:
            trials: with names that are unique.
            shared: key of a trial's first stage, by its name.
            done: what became of trials before; those that ended well are not repeated.
            told: called with each outcome.
        """
        self._waiting = list(trials)
        self._shared = shared
        self._ended = dict(done)
        self._told = told
        self._running: dict[str, str] = {}
        self._made = {shared[name] for name in done if name in shared}

    def next(self) -> Trial | None:
        """Return the first trial that nothing holds back."""
        self._give_up_hopeless()
        for trial in self._waiting:
            first = self._shared[trial.name]
            if first in self._running.values() and first not in self._made:
                continue
            if not all(name in self._ended for name in trial.after):
                continue
            self._waiting.remove(trial)
            self._running[trial.name] = first
            return trial
        return None

    @property
    def exhausted(self) -> bool:
        """Whether every trial was begun."""
        return not self._waiting

    def epoch(self, trial: str, epoch: Epoch) -> bool:
        """Let every training go on."""
        del trial, epoch
        return True

    def told(self, outcome: Outcome) -> None:
        """Note what became of a trial, and tell on."""
        first = self._running.pop(outcome.trial, None)
        if first is not None and outcome.state == "finished":
            self._made.add(first)
        self._ended[outcome.trial] = outcome
        self._told(outcome)

    def _give_up_hopeless(self) -> None:
        for trial in list(self._waiting):
            failed = [n for n in trial.after if n in self._ended and _is_lost(self._ended[n])]
            if failed:
                self._waiting.remove(trial)
                why = f"it needs {failed[0]}, which failed"
                self.told(
                    Outcome(trial=trial.name, key="", state="failed", why=why, seconds=0.0)
                )


def _is_lost(outcome: Outcome) -> bool:
    return outcome.state != "finished"
