"""Compact network + calibration data -> a quantization plan."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.plan import SchemePlan
from pipeline.core.plugins import QUANTIZERS
from pipeline.core.rundir import write_json
from pipeline.core.wanted import Wanted, wanted
from pipeline.quantizers import Quantizer, describe
from pipeline.stages.context import Context


def run(context: Context) -> dict[str, Any]:
    """Decide every file's scheme and draw the calibration images from the training split."""
    data, options = context.data, context.recipe.quantize
    by_dtype: dict[str, type[Quantizer]] = {}
    for key in QUANTIZERS.plugins():
        quantizer = QUANTIZERS.load(key)[0]
        by_dtype[quantizer.DTYPE] = quantizer
    plans = [plan for want in wanted(context.targets) if (plan := _plan(want, by_dtype))]
    chosen = data.train.subset(options.calibration_images, options.calibration_seed)
    images = data.normalise(chosen.images).numpy()
    calibration = describe(
        images, chosen.labels.numpy(), data.classes, options.calibration_seed, "train"
    )
    np.save(context.out / "calibration.npy", images, allow_pickle=False)
    write_json(
        context.out / "plan.json",
        {
            "files": [plan.model_dump() for plan in plans],
            "calibration": calibration.model_dump(),
        },
    )
    return {
        "summary": f"{len(plans)} files planned; {calibration.count} calibration images "
        f"of the training split, sha256 {calibration.sha256[:12]}",
        "calibration": calibration.model_dump(),
        "files": [plan.model_dump() for plan in plans],
    }


def _plan(want: Wanted, by_dtype: dict[str, type[Quantizer]]) -> SchemePlan | None:
    """Return the plan of a wanted file, or nothing where the format cannot carry it."""
    quantizer = by_dtype[want.dtype]
    if want.format not in quantizer.FORMATS:
        return None
    return quantizer.plan(want.format, want.granularity)
