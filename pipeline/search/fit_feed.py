"""The order of a fit: candidates first, then files of the best, until all is decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.core.epoch import Epoch
from pipeline.core.target import Target
from pipeline.search.family import Member
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

    Candidates are ranked on the validation split, then by their multiply-accumulates. The best
    that a target may take becomes a run with files for all targets; where these break one of
    its limits after all, the next best is tried.
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
            deadline: by ``time.monotonic``, after which no candidate is begun.
            more: proposes further candidates from the outcomes so far.
        """
        self._members = {member.trial.name: member for member in members}
        self._open = [member.trial.name for member in members]
        self._targets = {target.id: target for target in targets}
        self._sources, self._recount = list(sources), recount
        self._hopes, self._rule = hopes, rule
        self._finalists, self._deadline = finalists, deadline
        self._more = more or NoMore()
        self._running: set[str] = set()
        self._outcomes: dict[str, Outcome] = {}
        self._lost: dict[str, list[Lost]] = {name: [] for name in self._targets}
        self._tried: dict[str, list[str]] = {name: [] for name in self._targets}
        self.verdicts: dict[str, Verdict] = {}

    @property
    def trials(self) -> list[Trial]:
        """Every trial there was so far, those with files included."""
        known = [trial for trial in self.possible if trial.name in self._outcomes]
        return [
            *(member.trial for member in self._members.values()),
            *(t for t in known if t.goes_on),
        ]

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
        return not (self._candidate_left() or self._running or self._undecided())

    def next(self) -> Trial | None:
        """Return a candidate, or, once all have ended, the best one as a run with files."""
        if not self._open and self._candidate_left():
            self._propose()
        if self._open and self._in_time():
            name = self._open.pop(0)
            self._running.add(name)
            return self._members[name].trial
        if any(not name.endswith(_FILES) for name in self._running):
            return None
        self._decide()
        return self._finalist()

    def epoch(self, trial: str, epoch: Epoch) -> bool:
        """Let a training go on where it is ahead for any group of targets it may fit."""
        if trial not in self._members:
            return True
        member = self._members[trial]
        groups = [f"{member.kind} {target}" for target in sorted(self._hopes.targets(trial))]
        ahead = [self._rule.goes_on(trial, g, epoch.epoch, epoch.accuracy) for g in groups]
        return any(ahead) or not groups

    def told(self, outcome: Outcome) -> None:
        """Take in an outcome; one with files may decide targets."""
        self._running.discard(outcome.trial)
        self._outcomes[outcome.trial] = outcome
        if outcome.trial in self._open:  # known from before
            self._open.remove(outcome.trial)
        if outcome.trial.endswith(_FILES):
            self._judge(outcome)
        elif outcome.state == "finished":
            self._narrow(outcome)

    def _narrow(self, outcome: Outcome) -> None:
        """Let a candidate hope for no more than what is left of it fits."""
        name = outcome.trial
        found = self._recount(self._members[name], outcome.figures)
        both = {target: self._hopes.why(name, target) or why for target, why in found.items()}
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

    def _finalist(self) -> Trial | None:
        """Return the best candidate that an undecided target has not seen, with files."""
        waited = {name.removesuffix(_FILES) for name in self._running}
        for target in self._undecided():
            ranked = self._ranked(target)
            if ranked and ranked[0] not in waited:
                trial = self._with_files(ranked[0])
                self._running.add(trial.name)
                return trial
        return None

    def _decide(self) -> None:
        """Give a verdict to the targets that no candidate is left for."""
        for target in self._undecided():
            tried = self._tried[target]
            if not self._ranked(target) or len(tried) >= self._finalists:
                self.verdicts[target] = Verdict(
                    target=target,
                    fits=False,
                    why=self._without(target),
                    lost=tuple(self._all_lost(target)),
                )

    def _without(self, target: str) -> str:
        if not self._tried[target]:
            return "no candidate that counting lets fit was trained to its end"
        count, last = len(self._tried[target]), self._lost[target][-1]
        return f"none of {count} networks fits; the last, {last.trial}: {last.why}"

    def _ranked(self, target: str) -> list[str]:
        """Return the candidates that may fit and were not tried, best first."""

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
                and name not in self._tried[target]
            ),
            key=rank,
        )

    def _judge(self, outcome: Outcome) -> None:
        name = outcome.trial.removesuffix(_FILES)
        for target in self._undecided():
            if target not in self._hopes.targets(name):
                continue
            self._tried[target].append(name)
            if outcome.state != "finished":
                why: str | None = outcome.why or outcome.state
            else:
                why = refusal(outcome, self._targets[target], self._reference())
            if why:
                self._lost[target].append(Lost(trial=name, why=why))
            else:
                self.verdicts[target] = accepted(
                    outcome,
                    self._targets[target],
                    self._members[name].trial.settings,
                    self._all_lost(target, but=name),
                )

    def _reference(self) -> float:
        """Return top-1 on the test split of the network that is best on validation."""
        done = [o.figures for o in self._outcomes.values() if o.state == "finished"]
        best = max(done, key=lambda figures: figures["reference_validation"])
        return float(best["reference_accuracy"])

    def _all_lost(self, target: str, but: str = "") -> list[Lost]:
        """Say of every other candidate why the target did not get it."""
        known = {lost.trial: lost.why for lost in self._lost[target]}
        found = []
        for name in self._members:
            if name != but:
                why = known.get(name) or self._why_not(name, target, but)
                found.append(Lost(trial=name, why=why))
        return found

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
