"""Compact network + plan -> .onnx and .tflite files, parity and accuracy of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import pipeline
from pipeline.core.errors import OverBudget, PareError
from pipeline.core.plan import Calibration, Kept, SchemePlan
from pipeline.core.record import digest
from pipeline.core.rundir import read_json, write_json, write_text
from pipeline.core.signature import Signature
from pipeline.core.wanted import batch, opset
from pipeline.exporters.accuracy_control import Control
from pipeline.stages.candidates import Made, Workshop, as_taken, choose
from pipeline.stages.context import Context
from pipeline.stages.examining import Examiner

if TYPE_CHECKING:
    from torch import nn


def run(context: Context) -> dict[str, Any]:
    """Write every planned file by every exporter, judge each, and offer the best of each.

    A file that is not faithful or too inaccurate is kept aside with the suffix ``.rejected``
    and never offered. What was not elected stays in ``candidates/``.

    Raises:
        PareError: not one file could be made; ``OverBudget`` where a target needs one.
    """
    planned = read_json(context.inputs["quantize"] / "plan.json")
    plans = [_planned(context, SchemePlan(**values)) for values in planned["files"]]
    ranking = [Kept(**one) for one in planned["ranking"]]
    workshop = _workshop(context, ranking, Calibration(**planned["calibration"]).words)
    made = workshop.make(plans)
    held = _hold_accuracy(workshop, plans, made)
    plans += [plan for _, plan in held if plan.kept]
    files = [choose(plan, made[plan.file_name], context.out) for plan in plans]
    _tidy(workshop)
    _warn(context, files)
    write_json(context.out / "files.json", files)
    if held:
        write_text(context.out / "mixed-precision.txt", _told(held, planned["ranking"]))
    good = [entry for entry in files if entry["state"] == "made"]
    if not good:
        kind = OverBudget if context.targets else PareError
        raise kind("no file could be made. " + " ".join(str(entry["why"]) for entry in files))
    return {
        "summary": f"{len(good)} of {len(files)} files made and faithful to PyTorch "
        f"on {len(context.data.test)} test images",
        "files": files,
        "accuracy_control": [found.model_dump(mode="json") for found, _ in held],
    }


def _planned(context: Context, plan: SchemePlan) -> SchemePlan:
    return plan.for_pixels() if context.recipe.export.preprocessing == "baked" else plan


def _workshop(context: Context, ranking: Sequence[Kept], calibrated_on: str) -> Workshop:
    data, options = context.data, context.recipe.export
    calibration = np.load(context.inputs["quantize"] / "calibration.npy", allow_pickle=False)
    pixels = options.preprocessing == "baked"
    found = {
        name: context.folded(name) for name in ("float", "per-channel", "per-tensor", "qat")
    }
    networks: dict[str, nn.Module] = {name: net for name, net in found.items() if net}
    return Workshop(
        context=context,
        examiner=Examiner(data, context.compacted(), found["qat"], context.recipe, pixels),
        networks=networks,
        signature=_signature(context, calibrated_on),
        calibration=as_taken(calibration, data.mean, data.std) if pixels else calibration,
        ranking=ranking,
        room=context.out / "candidates",
        opset=opset(context.targets, options.opset),
    )


def _signature(context: Context, calibrated_on: str) -> Signature:
    data, options = context.data, context.recipe.export
    channels, height, width = data.shape
    return Signature(
        channels=channels,
        height=height,
        width=width,
        mean=data.mean,
        std=data.std,
        classes=data.classes,
        preprocessing=options.preprocessing,
        batch=batch(context.targets),
        producer=f"pare {pipeline.__version__}",
        recipe_hash=digest(context.recipe.model_dump(mode="json")),
        licence=options.licence,
        calibrated_on=calibrated_on,
    )


def _hold_accuracy(
    workshop: Workshop, plans: Sequence[SchemePlan], made: dict[str, list[Made]]
) -> list[tuple[Control, SchemePlan]]:
    """Find the layers of each int8 file that must stay in float; add what came of it."""
    if workshop.context.recipe.quantize.max_accuracy_drop is None:
        return []
    held = []
    for plan in (plan for plan in plans if plan.scheme == "int8"):
        found, chosen, files = workshop.hold(plan, made[plan.file_name])
        if chosen:
            made[chosen.file_name] = files
        held.append((found, chosen or plan))
    return held


def _tidy(workshop: Workshop) -> None:
    """Remove what was made on the way, but not its logs; candidates that lost stay."""
    for folder in workshop.room.glob("*-in-float"):
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()


def _warn(context: Context, files: Sequence[dict[str, Any]]) -> None:
    """Say which files are missing, and which exporter failed though another did not."""
    for entry in files:
        if entry["state"] != "made":
            context.reporter.warn(f"{entry['file']}: {entry['state']}. {entry['why']}")
            continue
        for other in entry["candidates"]:
            if other["state"] != "made" and "offers no" not in other["why"]:
                context.reporter.warn(
                    f"{entry['file']}: {other['exporter']} {other['state']}: {other['why']} "
                    f"The file is {entry['exporter']}'s."
                )


def _told(
    held: Sequence[tuple[Control, SchemePlan]], ranking: Sequence[dict[str, Any]]
) -> str:
    """Write what stays in float, and why, for people."""
    lines = []
    for found, plan in held:
        kept = {one.layer for one in found.kept or ()}
        lines += [plan.file_name, f"  {found.why}", ""]
        width = max((len(one["layer"]) for one in ranking), default=0)
        lines += [
            f"  {one['layer']:<{width}}  {'float32' if one['layer'] in kept else 'int8   '}  "
            f"{one['why']}"
            for one in ranking
        ]
        lines.append("")
    return "\n".join(lines)
