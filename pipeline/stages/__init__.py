"""The way through the house, stated once.

train     dense network + budget              -> network with masks
prune     masks                               -> effective masks, every dead channel named
compact   effective masks                     -> a smaller network, outputs proved equal
quantize  compact network + calibration data  -> a quantization plan
export    compact network + plan              -> .onnx and .tflite files, each with its parity
profile   every file x every target           -> figures and a verdict per target
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.errors import PareError, unknown

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.recipe import Recipe
    from pipeline.stages.runner import Run


@dataclass(frozen=True)
class Stage:
    """One stage: what it takes and gives, and what its result depends on beside its code.

    Attributes:
        consumes: kinds of artifact it needs; ``produces`` is the kind it leaves.
        recipe: parts of the recipe that it reads.
        targets: what it reads of the targets: nothing, the files wanted, their form (batch
            and opset), or all.
        resumable: whether a stopped run of it is continued.
    """

    name: str
    consumes: tuple[str, ...]
    produces: str
    recipe: tuple[str, ...]
    targets: str = "none"
    resumable: bool = False


_DATA = ("seed", "model", "data")

STAGES: tuple[Stage, ...] = (
    Stage(
        "train", (), "masked network", (*_DATA, "method", "budget", "train"), resumable=True
    ),
    Stage("prune", ("masked network",), "pruned network", (*_DATA, "budget", "train")),
    Stage("compact", ("pruned network",), "compact network", (*_DATA, "compact")),
    Stage(
        "quantize", ("compact network",), "quantization plan",
        (*_DATA, "train", "quantize"),
        targets="wanted",
    ),
    Stage(
        "export", ("compact network", "quantization plan"), "files",
        (*_DATA, "quantize", "export"),
        targets="form",
    ),
    Stage("profile", ("files",), "profile", (*_DATA, "profile"), targets="all"),
)  # fmt: skip


def check_order(stages: tuple[Stage, ...] = STAGES) -> None:
    """Refuse an order in which a stage would find nothing to work on.

    Raises:
        PareError: names the stage and the kind of artifact that no earlier stage makes.
    """
    made: set[str] = set()
    for stage in stages:
        for kind in stage.consumes:
            if kind not in made:
                raise PareError(
                    f"stage {stage.name!r} needs a {kind}, which no earlier stage makes."
                )
        made.add(stage.produces)


def named(name: str) -> Stage:
    """Return a stage by its name.

    Raises:
        PareError: there is no such stage.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise unknown("stage", name, [stage.name for stage in STAGES])


def run(
    recipe: Recipe | str = "quickstart",
    *,
    out: Path | str | None = None,
    fresh: bool = False,
    until: str | None = None,
    quiet: bool = True,
) -> Run:
    """Run a recipe through all stages and write its report.

    Finished stages are skipped: a stage runs again only if its own options, its inputs or
    its code changed.

    Args:
        recipe: a ``Recipe``, a path, or the name of one that ships.
        out: folder of the run; ``runs/<recipe name>`` by default.
        fresh: believe nothing that the folder holds and start over.
        until: name of the last stage to run; all of them, and the report, by default.
        quiet: print nothing.

    Raises:
        PareError: anything the user can solve; finished stages stay as they are.
        OverBudget: after the report is written, if a target has no file that fits.

    Example:
        >>> from pipeline import Recipe, run
        >>> result = run(Recipe.load("quickstart"))  # doctest: +SKIP
        >>> result.report["targets"][0]["chosen"]  # doctest: +SKIP
        'model.int8.tflite'
    """
    from pipeline.core.recipe import Recipe
    from pipeline.stages.runner import Quiet, Runner, demand_files, demand_fit
    from pipeline.stages.terminal import Terminal

    loaded = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    loaded.check()
    runner = Runner(loaded, out, Quiet() if quiet else Terminal())
    result = runner.run(fresh=fresh, until=until)
    if until == "export":
        demand_files(result.artifacts["export"].metrics["files"], runner.targets)
    demand_fit(result.report)
    return result
