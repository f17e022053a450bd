"""The dense training that pruning begins with, shared by runs that differ in what follows."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.core.errors import PareError
from pipeline.core.recipe import Recipe, fingerprint
from pipeline.core.record import digest
from pipeline.methods import Method, create
from pipeline.stages.sources import code


def key(recipe: Recipe, method: Method) -> str | None:
    """Return the identity of the dense training a method begins with, if it begins so.

    The budget is not in it: as long as nothing is pruned, it changes no weight.
    """
    phases = method.phases(recipe.train.epochs)
    if not method.starts_dense or len(phases) < 2 or recipe.train.devices > 1:
        return None
    return digest(
        {
            "recipe": recipe.part(("seed", "model", "data", "train")),
            "sources": fingerprint(recipe),
            "method": [recipe.method.name, method.params.model_dump(mode="json")],
            "phase": phases[0].model_dump(),
            "code": code("train"),
        }
    )


def key_of(recipe: Recipe) -> str | None:
    """Return the same for a recipe; nothing where its method or budget is refused."""
    try:
        # Of which shape the images are is no matter to the phases.
        return key(recipe, create(recipe.method, recipe.budget, (1, 1, 1)))
    except PareError:
        return None


def place(shelf: Path | None, recipe: Recipe, method: Method) -> Path | None:
    """Return where the end of a run's dense training is kept for others, if it is.

    Args:
        shelf: folder that runs have in common.
        recipe: of the run.
        method: of the recipe.
    """
    own = key(recipe, method) if shelf else None
    return shelf / f"dense-{own[:16]}.pt" if shelf and own else None


def take_over(shared: Path | None, checkpoint: Path) -> None:
    """Let a training that has not begun go on from the end of another's dense training."""
    if shared and shared.is_file() and not checkpoint.exists():
        scratch = checkpoint.with_suffix(".partial")
        shutil.copyfile(shared, scratch)
        scratch.replace(checkpoint)
