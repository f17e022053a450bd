"""What a finished run chose for a target, and what an image of it has to know."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.core.artifact import sha256
from pipeline.core.errors import PareError
from pipeline.core.recipe import Recipe
from pipeline.core.record import digest
from pipeline.core.rundir import RunDir, read_json
from pipeline.core.target import Target
from pipeline.stages import STAGES, named

_GOLDEN = 4  # images that an image has to classify as here


def chosen_file(run: Path, target: Target, file: str | None = None) -> Path:
    """Return the file that a finished run chose for a target, or another that fits it.

    Args:
        run: folder of a finished run.
        target: the device.
        file: one of the run, instead of the chosen one.

    Raises:
        PareError: the run is not finished, was not judged for the target, found no file that
            fits it, or the named one is none of these.
    """
    number = STAGES.index(named("profile")) + 1
    if not (run / "recipe.toml").is_file() or RunDir(run).finished(number, "profile") is None:
        raise PareError(f"{run} is not a finished run. Finish it: pare run {run}.")
    rows = read_json(RunDir(run).folder(number, "profile") / "profile.json")["targets"]
    row = next((row for row in rows if row["id"] == target.id), None)
    if row is None:
        known = ", ".join(row["id"] for row in rows) or "none"
        raise PareError(
            f"{run} was not judged for {target.id}, only for {known}. Add it: pare run {run} "
            f"--target {target.id}."
        )
    if not row["chosen"]:
        raise PareError(f"no file of {run} fits {target.id}. {row['why']}")
    fitting = [entry["file"] for entry in row["files"] if entry["fits"]]
    if file is not None and file not in fitting:
        raise PareError(
            f"{file} is no file of {run} that fits {target.id}. Those are: "
            f"{', '.join(fitting)}."
        )
    return RunDir(run).folder(number - 1, "export") / str(file or row["chosen"])


def golden_answers(run: Path, model: Path) -> dict[str, Any]:
    """Run a file here on images of the test split; what it answers is the golden truth.

    Raises:
        PareError: the file can't be run here.
    """
    from pipeline.data import load
    from pipeline.runtime.golden import make
    from pipeline.runtime.tensors import EngineError

    images = load(Recipe.load(run / "recipe.toml").data).test.images[:_GOLDEN]
    try:
        return make(model, [image.permute(1, 2, 0).numpy() for image in images])
    except EngineError as error:
        raise PareError(f"no golden answers of {model.name}: {error}") from error


def card_of(run: Path, model: Path, target: Target) -> dict[str, Any]:
    """Return what people and labels want to know of the file."""
    number = STAGES.index(named("export")) + 1
    files = read_json(RunDir(run).folder(number, "export") / "files.json")
    entry = next(entry for entry in files if entry["file"] == model.name)
    recipe = Recipe.load(run / "recipe.toml")
    return {
        "name": recipe.name,
        "file": model.name,
        "scheme": entry["scheme"],
        "sha256": sha256(model),
        "bytes": model.stat().st_size,
        "top1": entry["parity"]["top1"]["value"],
        "target": target.id,
        "recipe_hash": digest(recipe.model_dump(mode="json")),
        "licence": recipe.export.licence,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
