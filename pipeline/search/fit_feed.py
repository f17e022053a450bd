"""The order of a fit: candidates first, then files of the best, until all is decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.core.epoch import Epoch
from pipeline.core.target import Target
from pipeline.search.family import Member
from pipeline.search.feed import Turns
from pipeline.search.halving import Halving
from pipeline.search.proposing import NoMore, Proposer
from pipeline.search.trial import Outcome, Trial
from pipeline.search.verdicts import Lost, Verdict, accepted, refusal

_FILES = ".files"

Recount = Callable[[Member, Mapping[str, Any]], Mapping[str, str]]


class Hopes:
    """Which targets each candidate may fit, and why it can't fit the others."""

    def __init__(self, of: Mapping[str, Mapping[str, str]]) -> None:
        """Take, by candidate and target, why it can't fit; nothing where it may."""
        self._of = of

    def targets(self, candidate: str) -> frozenset[str]:
        """Return the targets a candidate may fit."""
        return frozenset(name for name, why in self._of[candidate].items() if not why)

    def with_(self, candidate: str, of: Mapping[str, str]) -> Hopes:
        """Return these with those of another candidate."""
        return Hopes({**self._of, candidate: of})

    def why(self, candidate: str, target: str) -> str:
        """Say why a candidate can't fit a target, or nothing."""
        return self._of[candidate].get(target, "")


class FitFeed:
    """Gives candidates, stops those that are behind, and makes files of the best.

    Candidates are ranked on the validation split, then by their multiply-accumulates. A target
    gets the first of its ranking whose files keep all of its limits; none is judged before
    every candidate has ended and those ahead of it were. Where all that were trained to their
    end fail, those that were stopped on the way are trained on.
    """

    def __init__(
        self,
        members: Sequence[Member],
        targets: Sequence[Target],
        sources: Sequence[str],
        hopes: Hopes,
        recount: Recount,
        rule: Halving,
        *,
        finalists: int,
        first_keys: Callable[[Trial], tuple[str, ...]] = lambda trial: (trial.name,),
        deadline: float | None = None,
        more: Proposer | NoMore | None = None,
    ) -> None:
        """Take the family.

        Args:
            members: the candidates, in the order they are tried.
            targets: those that any of them may fit.
            sources: their names or paths, as a recipe has them.
            hopes: which those are.
            recount: tells the same of a candidate that was compacted, by its figures.
            rule: of early stopping.
            finalists: candidates that are made files of for one target, at most.
            first_keys: of what a trial computes first, which trials may have in common.
            deadline: by ``time.monotonic``, after which no candidate is begun.
            more: proposes further candidates from the outcomes so far.
        """
        self._members = {member.trial.name: member for member in members}
        self._open = [member.trial.name for member in members]
        self._targets = {target.id: target for target in targets}
        self._sources, self._recount = list(sources), recount
        self._hopes, self._rule = hopes, rule
        self._finalists, self._deadline = finalists, deadline
        self._turns = Turns(first_keys)
        self._more = more or NoMore()
        self._reopened: set[str] = set()
        self._outcomes: dict[str, Outcome] = {}
        self.verdicts: dict[str, Verdict] = {}

    @property
    def trials(self) -> list[Trial]:
        """Every trial there was so far, those with files included."""
        made = [t for t in self.possible if t.goes_on and t.name in self._outcomes]
        return [*(member.trial for member in self._members.values()), *made]

    @property
    def possible(self) -> list[Trial]:
        """Every trial there may be: each candidate, and then each with files."""
        own = [member.trial for member in self._members.values()]
        return [*own, *(self._with_files(trial.name) for trial in own)]

    @property
    def members(self) -> list[Member]:
        """Every candidate, those that were proposed included."""
        return list(self._members.values())

    @property
    def exhausted(self) -> bool:
        """Whether every target is decided and nothing is left to do."""
        return not (self._candidate_left() or self._turns.running or self._undecided())

    def next(self) -> Trial | None:
        """Return a candidate, or, once all have ended, the best one as a run with files."""
        if not self._open and self._candidate_left():
            self._propose()
        if self._open and self._in_time():
            return self._begun([self._members[name].trial for name in self._open])
        if any(not name.endswith(_FILES) for name in self._turns.running):
            return None
        self._decide()
        if self._open and self._in_time():  # what was stopped is needed after all
            return self._begun([self._members[name].trial for name in self._open])
        return self._begun(self._finalists_to_make())

    def epoch(self, trial: str, epoch: Epoch, total: int) -> bool:
        """Let a training go on where it is ahead for any of the targets it may fit."""
        if trial not in self._members or trial in self._reopened or epoch.epoch >= total:
            return True
        member = self._members[trial]
        groups = [f"{member.kind} {target}" for target in sorted(self._hopes.targets(trial))]
        ahead = [self._rule.goes_on(trial, g, epoch.epoch, epoch.accuracy) for g in groups]
        return any(ahead) or not groups

    def told(self, outcome: Outcome) -> None:
        """Take in an outcome; nothing is decided by it before its turn."""
        self._turns.ended(outcome)
        self._outcomes[outcome.trial] = outcome
        if outcome.trial in self._open:  # known from before
            self._open.remove(outcome.trial)
        if outcome.trial in self._members and outcome.state == "finished":
            self._narrow(outcome)

    def _begun(self, trials: Sequence[Trial]) -> Trial | None:
        trial = self._turns.first(trials)
        if trial is not None and trial.name in self._open:
            self._open.remove(trial.name)
        return trial

    def _narrow(self, outcome: Outcome) -> None:
        """Let a candidate hope for no more than what is left of it fits."""
        name = outcome.trial
        found = self._recount(self._members[name], outcome.figures)
        both = {t: self._hopes.why(name, t) or found.get(t, "") for t in self._targets}
        self._hopes = self._hopes.with_(name, both)

    def _candidate_left(self) -> bool:
        return bool(self._open or self._more.left) and self._in_time()

    def _propose(self) -> None:
        """Put another candidate behind those of the family, where there is one."""
        proposal = self._more(self._outcomes)
        if proposal:
            name = proposal.member.trial.name
            self._members[name] = proposal.member
            self._hopes = self._hopes.with_(name, proposal.hopes)
            self._open.append(name)

    def _in_time(self) -> bool:
        return self._deadline is None or time.monotonic() < self._deadline

    def _undecided(self) -> list[str]:
        return [name for name in self._targets if name not in self.verdicts]

    def _decide(self) -> None:
        """Judge the files there are, each target along its own ranking, as far as they go."""
        for target in self._undecided():
            lost: list[Lost] = []
            for name in self._ranked(target)[: self._finalists]:
                outcome = self._outcomes.get(name + _FILES)
                if outcome is None:
                    break
                why = self._refusal(outcome, target)
                if why is None:
                    self.verdicts[target] = self._accepted(outcome, target, name, lost)
                    break
                lost.append(Lost(trial=name, why=why))
            else:
                if not self._reopen(target, lost):
                    self.verdicts[target] = self._refused(target, lost)

    def _refusal(self, outcome: Outcome, target: str) -> str | None:
        if outcome.state != "finished":
            return outcome.why or outcome.state
        return refusal(outcome, self._targets[target], self._reference())

    def _reopen(self, target: str, lost: Sequence[Lost]) -> bool:
        """Train on what was stopped, where a target has no other hope left."""
        stopped = [
            name
            for name, outcome in self._outcomes.items()
            if outcome.state == "stopped" and target in self._hopes.targets(name)
        ]
        if len(lost) >= self._finalists or not stopped or not self._in_time():
            return False
        self._reopened |= set(stopped)
        for name in stopped:
            del self._outcomes[name]
            self._open.append(name)
        return True

    def _finalists_to_make(self) -> list[Trial]:
        """Return for each undecided target the best candidate without files, with files."""
        found = []
        for target in self._undecided():
            ranked = self._ranked(target)[: self._finalists]
            name = next((n for n in ranked if n + _FILES not in self._outcomes), None)
            if name and name + _FILES not in self._turns.running:
                found.append(self._with_files(name))
        return found

    def _ranked(self, target: str) -> list[str]:
        """Return the candidates that may fit, best first."""

        def rank(name: str) -> tuple[float, float, str]:
            figures = self._outcomes[name].figures
            return -figures["validation"], figures["macs"], name

        return sorted(
            (
                name
                for name, outcome in self._outcomes.items()
                if name in self._members
                and outcome.state == "finished"
                and target in self._hopes.targets(name)
            ),
            key=rank,
        )

    def _reference(self) -> float:
        """Return top-1 on the test split of the network that is best on validation."""
        done = [o.figures for o in self._outcomes.values() if o.state == "finished"]
        best = max(done, key=lambda figures: figures["reference_validation"])
        return float(best["reference_accuracy"])

    def _accepted(
        self, outcome: Outcome, target: str, name: str, lost: Sequence[Lost]
    ) -> Verdict:
        settings = self._members[name].trial.settings
        others = self._all_lost(target, lost, chosen=name)
        return accepted(outcome, self._targets[target], settings, others)

    def _refused(self, target: str, lost: Sequence[Lost]) -> Verdict:
        why = "no candidate that counting lets fit was trained to its end"
        if lost:
            left = len(self._ranked(target)) - len(lost)
            more = f", {left} more were not tried" if left else ""
            last = lost[-1]
            tried = f"none of {len(lost)} networks fits{more}"
            why = f"{tried}; the last, {last.trial}: {last.why}"
        return Verdict(
            target=target, fits=False, why=why, lost=tuple(self._all_lost(target, lost))
        )

    def _all_lost(self, target: str, lost: Sequence[Lost], chosen: str = "") -> list[Lost]:
        """Say of every other candidate why the target did not get it."""
        known = {one.trial: one.why for one in lost}
        return [
            Lost(trial=name, why=known.get(name) or self._why_not(name, target, chosen))
            for name in self._members
            if name != chosen
        ]

    def _why_not(self, name: str, target: str, chosen: str) -> str:
        if why := self._hopes.why(name, target):
            return f"by counting: {why}"
        outcome = self._outcomes.get(name)
        if outcome is None:
            return "not begun: the time was up"
        if outcome.state != "finished":
            return outcome.why
        if not chosen:
            return "not tried: other networks were more accurate on validation"
        own, best = outcome.figures, self._outcomes[chosen].figures
        lead = 100 * (best["validation"] - own["validation"])
        if lead > 0:
            return f"{lead:.2f} points of top-1 behind on validation"
        return f"as accurate on validation, with {own['macs']:,} MACs, not {best['macs']:,}"

    def _with_files(self, name: str) -> Trial:
        trial = self._members[name].trial
        values = trial.recipe.model_copy(update={"targets": self._sources})
        return Trial(name=name + _FILES, settings=trial.settings, recipe=values, goes_on=name)
