"""Networks between those of the family: any width and any part, as Optuna proposes."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.core.errors import PareError
from pipeline.core.recipe import Recipe
from pipeline.search.family import Kind, Member, Space, member, widths
from pipeline.search.trial import Outcome

_TRIES = 30  # of proposals in a row that counting refuses, or that there were before
_LEAST = 0.02  # of the weights
_MACS_MATTER = 1e-3  # of top-1 for a factor of e: decides between equals, and nothing else


class Proposal(NamedTuple):
    """Another candidate, and for each target why it can't fit, or nothing."""

    member: Member
    hopes: Mapping[str, str]


class NoMore:
    """Proposes nothing."""

    left = 0

    def __call__(self, outcomes: Mapping[str, Outcome]) -> Proposal | None:
        """Propose nothing."""
        del outcomes
        return None


class Proposer:
    """Asks a tree-structured Parzen estimator for what may be more accurate and smaller.

    Source:
        Bergstra, Bardenet, Bengio & Kégl, Algorithms for Hyper-Parameter Optimization,
        NeurIPS 2011, as ``optuna.samplers.TPESampler`` has it.
    """

    def __init__(
        self,
        recipe: Recipe,
        space: Space,
        ladder: Sequence[Member],
        count: Callable[[Member], Mapping[str, str]],
        limit: int,
    ) -> None:
        """Take what is varied.

        Args:
            recipe: that is varied.
            space: whose widths and kinds bound what is proposed.
            ladder: candidates that are tried anyway.
            count: tells for each target why a candidate can't fit, or nothing.
            limit: of proposals.

        Raises:
            PareError: Optuna is not installed.
        """
        if importlib.util.find_spec("optuna") is None:
            raise PareError(
                "Optuna is not installed, which proposes further networks. Install it: pip "
                "install 'pare[sweep]'; or leave --more out."
            )
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=recipe.seed)
        )
        self._recipe, self._space, self._count = recipe, space, count
        self._widths = widths(recipe, space)
        self._open: dict[str, Any] = {}
        self._known = {one.trial.name for one in ladder}
        self.left = limit

    def __call__(self, outcomes: Mapping[str, Outcome]) -> Proposal | None:
        """Return another candidate that may fit a target, learning from what is known."""
        self._learn(outcomes)
        for _ in range(_TRIES):
            if not self.left:
                return None
            asked = self._study.ask()
            made = self._member(asked)
            hopes = self._count(made) if made.trial.name not in self._known else {}
            if any(not why for why in hopes.values()):
                self._known.add(made.trial.name)
                self._open[made.trial.name] = asked
                self.left -= 1
                return Proposal(made, hopes)
            self._study.tell(asked, state=_pruned())
        self.left = 0
        return None

    def _member(self, asked: Any) -> Member:
        """Return the candidate of a proposal, in figures that a person can read."""
        kinds = [
            name for name in ("weights", "macs", "channels") if getattr(self._space, name)
        ]
        kind: Kind = asked.suggest_categorical("kind", ["dense", *kinds])
        low, high = min(self._widths), max(self._widths)
        width = asked.suggest_float("width", low, high, log=True) if low < high else high
        part = 1.0
        if kind != "dense":
            part = asked.suggest_float("part", _LEAST, 1.0, log=True)
        return member(
            self._recipe, kind, round(part, 3), round(width, 2), None, self._space.until
        )

    def _learn(self, outcomes: Mapping[str, Outcome]) -> None:
        for name in [name for name in self._open if name in outcomes]:
            asked, outcome = self._open.pop(name), outcomes[name]
            if outcome.state == "finished":
                self._study.tell(asked, score(outcome))
            else:
                self._study.tell(asked, state=_pruned())


def score(outcome: Outcome) -> float:
    """Return what is maximized: top-1 on validation, and of equals fewer MACs."""
    figures = outcome.figures
    return float(figures["validation"]) - _MACS_MATTER * math.log(figures["macs"])


def _pruned() -> Any:
    from optuna.trial import TrialState

    return TrialState.PRUNED
