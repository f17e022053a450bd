"""Compact network + calibration data -> a quantization plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.core.errors import PareError
from pipeline.core.plan import SchemePlan
from pipeline.core.plugins import QUANTIZERS
from pipeline.core.rundir import write_json
from pipeline.core.wanted import Wanted, wanted
from pipeline.exporters import SPARSE
from pipeline.graph.fold import fold_batch_norm
from pipeline.graph.sparse_inference import why_dense
from pipeline.quantizers import Quantizer, describe
from pipeline.stages.context import Context
from pipeline.stages.preparing import corrected, equalised, findings, ranking, trained

if TYPE_CHECKING:
    from torch import Tensor, fx

    from pipeline.core.plan import Calibration


def run(context: Context) -> dict[str, Any]:
    """Decide every file's scheme, draw the calibration images, prepare the weights.

    What changes no output (equalisation) is in the float files too; what does (bias
    correction, training with rounding) is in the integer files only.
    """
    plans = _plans(context)
    images, calibration = _calibration(context)
    context.save_array("calibration.npy", images.numpy())
    network = fold_batch_norm(context.compacted())
    moved, network = equalised(context, network, images)
    plans, dense = _with_sparse(plans, network)
    facts = {
        "files": [plan.model_dump(mode="json") for plan in plans],
        "calibration": calibration.model_dump(mode="json"),
        "dense_because": dense,
        "findings": findings(context, network, plans, images),
        "equalised": moved,
        "corrected": corrected(context, network, plans, images),
        "ranking": ranking(context, network, plans, images),
        "qat": trained(context, network, plans, images),
    }
    write_json(context.out / "plan.json", facts)
    return {
        "summary": f"{len(plans)} files planned; {calibration.count} calibration images "
        f"({calibration.split}), sha256 {calibration.sha256[:12]}",
        **facts,
    }


def _with_sparse(
    plans: list[SchemePlan], network: fx.GraphModule
) -> tuple[list[SchemePlan], str | None]:
    """Add a float file that stores no zeros, where a runtime would use it; or say why not."""
    why = why_dense(network)
    sparse = [
        plan.model_copy(
            update={
                "variant": SPARSE,
                "why": "no zeros stored; on Arm, XNNPACK computes with the other weights only",
            }
        )
        for plan in plans
        if not why and plan.name == "float32" and plan.format == "tflite"
    ]
    return [*plans, *sparse], why


def _plans(context: Context) -> list[SchemePlan]:
    options = context.recipe.quantize
    by_dtype: dict[str, type[Quantizer]] = {}
    for key in QUANTIZERS.plugins():
        quantizer = QUANTIZERS.load(key)[0]
        by_dtype[quantizer.DTYPE] = quantizer
    extra = [QUANTIZERS.load(key)[0].DTYPE for key in options.schemes]
    plans = [
        by_dtype[want.dtype].plan(want.format, want.demand, options.method)
        for want in wanted(context.targets, extra)
        if _is_possible(want, by_dtype)
    ]
    for key, dtype in zip(options.schemes, extra, strict=True):
        if not any(plan.dtype == dtype for plan in plans):
            known = " or ".join(by_dtype[dtype].FORMATS)
            context.reporter.warn(
                f"quantize.schemes: {key} is written as {known} only, which no target takes; "
                "no file of it is made."
            )
    if not plans:
        forms = "; ".join(
            f"{t.id} takes {', '.join(t.constraints.dtypes)} as "
            f"{' or '.join(t.constraints.formats)}"
            for t in context.targets
        )
        raise PareError(
            f"no target takes a file that can be made: {forms}. `pare list quantizers` says "
            "what there is; add a format or a dtype to the target."
        )
    return plans


def _is_possible(want: Wanted, by_dtype: dict[str, type[Quantizer]]) -> bool:
    """Tell whether a format can carry what is wanted in it."""
    return want.format in by_dtype[want.dtype].FORMATS


def _calibration(context: Context) -> tuple[Tensor, Calibration]:
    """Draw the calibration images, normalised as for validation; noise only if asked for."""
    data, options = context.data, context.recipe.quantize
    count, seed = options.calibration_images, options.calibration_seed
    if options.calibration_data == "random":
        context.reporter.warn(
            "calibrating on random noise, as quantize.calibration_data asks: integer files "
            "are good for their size and time only."
        )
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (count, *data.shape), generator=generator)
        images, labels, split = (
            data.normalise(pixels),
            torch.zeros(0, dtype=torch.int64),
            "noise",
        )
        classes: list[str] = []
    else:
        chosen = data.train.subset(count, seed)
        images, labels, split = data.normalise(chosen.images), chosen.labels, "train"
        classes = data.classes
    found = describe(images.numpy(), labels.numpy(), classes, seed, split, options.method)
    return images, found
