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

    def epoch(self, trial: str, epoch: Epoch, total: int) -> bool:
        """Take in what an epoch of ``total`` reached; return whether the training goes on."""

    def told(self, outcome: Outcome) -> None:
        """Take in what became of a trial."""


class Turns:
    """Lets one trial go ahead where several compute the same first.

    The others wait until it has ended, and then find what they have in common.
    """

    def __init__(self, first_keys: Callable[[Trial], tuple[str, ...]]) -> None:
        """Take what tells the keys of what a trial computes first."""
        self._first_keys = first_keys
        self._keys: dict[str, tuple[str, ...]] = {}
        self._made: set[str] = set()
        self.running: dict[str, tuple[str, ...]] = {}

    def first(self, trials: Sequence[Trial]) -> Trial | None:
        """Return the first trial that nobody holds back, as one that has begun."""
        making = {key for keys in self.running.values() for key in keys} - self._made
        for trial in trials:
            keys = self._keys_of(trial)
            if not making & set(keys):
                self.running[trial.name] = keys
                return trial
        return None

    def _keys_of(self, trial: Trial) -> tuple[str, ...]:
        """Return a trial's keys, computed once: it is asked for them as often as it waits."""
        if trial.name not in self._keys:
            self._keys[trial.name] = self._first_keys(trial)
        return self._keys[trial.name]

    def ended(self, outcome: Outcome) -> None:
        """Note that a trial has ended; what it finished is there for others."""
        keys = self.running.pop(outcome.trial, ())
        if outcome.state == "finished":
            self._made |= set(keys)


class Listed:
    """Trials of a list, each once, none stopped.

    Those that name others in ``after`` wait for them; where one of those fails, they are
    told as failed without being begun.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        first_keys: Callable[[Trial], tuple[str, ...]],
        done: Mapping[str, Outcome],
        told: Callable[[Outcome], None],
    ) -> None:
        """Take the list.

        Args:
            trials: with names that are unique.
            first_keys: of what a trial computes first, which trials may have in common.
            done: what became of trials before; those that ended well are not repeated.
            told: called with each outcome.
        """
        self._waiting = list(trials)
        self._turns = Turns(first_keys)
        self._ended = dict(done)
        self._told = told

    def next(self) -> Trial | None:
        """Return the first trial that nothing holds back."""
        self._give_up_hopeless()
        ready = [t for t in self._waiting if all(name in self._ended for name in t.after)]
        trial = self._turns.first(ready)
        if trial is not None:
            self._waiting.remove(trial)
        return trial

    @property
    def exhausted(self) -> bool:
        """Whether every trial was begun."""
        return not self._waiting

    def epoch(self, trial: str, epoch: Epoch, total: int) -> bool:
        """Let every training go on."""
        del trial, epoch, total
        return True

    def told(self, outcome: Outcome) -> None:
        """Note what became of a trial, and tell on."""
        self._turns.ended(outcome)
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
