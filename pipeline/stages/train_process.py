"""One of several processes that train a run's network: ``python -m`` starts it, not a user.

It builds network, data and method from the recipe, as the run's own process does, and leaves
its checkpoint, from which that one takes the finished training.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipeline.core.epoch import Epoch
from pipeline.core.recipe import Recipe
from pipeline.core.record import parse
from pipeline.methods import create
from pipeline.stages.context import Context, Shared
from pipeline.training.launcher import run_processes
from pipeline.training.loop import Progress, train
from pipeline.training.member import Say, member


def train_in_processes(recipe: Recipe, checkpoint: Path, progress: Progress) -> None:
    """Train in as many processes as the recipe says, which leave a finished checkpoint.

    Args:
        recipe: of the run.
        checkpoint: continued from if it exists.
        progress: called as ``pipeline.training.loop.train`` calls it.

    Raises:
        PareError: what the training refused, or a process that was killed.
        ProcessError: a process failed otherwise.
    """

    def hear(message: dict[str, Any]) -> None:
        progress(message["done"], message["total"], Epoch(**message["epoch"]))

    request = {
        "recipe": recipe.model_dump(mode="json"),
        "checkpoint": str(checkpoint.absolute()),
        "path": sys.path,
    }
    run_processes(__name__, request, recipe.train.devices, hear)


def work(request: dict[str, Any], say: Say) -> None:
    """Train as the request says."""
    sys.path += [entry for entry in request["path"] if entry not in sys.path]
    recipe = parse(Recipe, request["recipe"], "recipe")
    context = Context(recipe, [], _Teller(say), Shared(recipe))
    train(
        context.network(),
        create(recipe.method, recipe.budget, context.data.shape),
        context.data,
        recipe.train,
        seed=recipe.seed,
        checkpoint=Path(request["checkpoint"]),
        progress=context.reporter.progress,
        teacher=context.teacher(),
    )


class _Teller:
    """Says to the run's own process what it would say itself."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def stage(self, number: int, name: str, text: str, seconds: float | None) -> None:
        """Say nothing: the stage is not finished here."""

    def progress(self, done: int, total: int, epoch: Epoch) -> None:
        """Say how far the training is."""
        self._say({"done": done, "total": total, "epoch": epoch.model_dump()})

    def warn(self, text: str) -> None:
        """Say nothing: the run's own process warns."""


if __name__ == "__main__":
    sys.exit(member(work))
