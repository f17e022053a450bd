"""Early stopping: a training that is behind most others of its kind is not worth going on."""

from __future__ import annotations

import math
from collections import defaultdict


class Halving:
    """Asynchronous successive halving over epochs.

    A training goes on past a rung if it is among the best third of those of its group that
    have reached it so far. Nobody waits for anybody; the first to come always goes on.

    Source:
        Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020,
        arXiv:1810.05934, algorithm 2, in its stopping form (a training once stopped is not
        taken up again).

    >>> rule = Halving(first=2, factor=3)
    >>> [rule.goes_on("a", "dense", 2, 0.8), rule.goes_on("b", "dense", 2, 0.7)]
    [True, False]
    >>> rule.goes_on("c", "dense", 1, 0.1)
    True
    """

    def __init__(self, first: int, factor: int = 3) -> None:
        """Take the rule.

        Args:
            first: epoch of the first rung; the others are at its multiples by ``factor``.
            factor: of each rung one part in so many goes on.
        """
        self._first, self._factor = max(1, first), factor
        self._scores: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)

    def goes_on(self, trial: str, group: str, epoch: int, score: float) -> bool:
        """Take in the score of an epoch, and tell whether the training is to go on."""
        if not self._is_rung(epoch):
            return True
        scores = self._scores[group, epoch]
        scores[trial] = score
        best = sorted(scores.values(), reverse=True)
        return score >= best[math.ceil(len(best) / self._factor) - 1]

    def _is_rung(self, epoch: int) -> bool:
        rung = self._first
        while rung < epoch:
            rung *= self._factor
        return rung == epoch
