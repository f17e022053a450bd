"""Compact network + plan -> .onnx and .tflite files, parity and accuracy of each."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import pipeline
from pipeline.core.errors import PareError
from pipeline.core.plan import SchemePlan
from pipeline.core.plugins import EXPORTERS
from pipeline.core.record import digest
from pipeline.core.rundir import read_json, write_json
from pipeline.core.signature import Signature
from pipeline.core.wanted import batch
from pipeline.exporters import ExportFailure
from pipeline.exporters.parity import compare
from pipeline.graph.fold import fold_batch_norm
from pipeline.runtime.engines import open_model
from pipeline.stages.context import Context
from pipeline.training.evaluation import logits

Logits = npt.NDArray[np.float32]


def run(context: Context) -> dict[str, Any]:
    """Write every planned file, run it in its own runtime, and keep those that are faithful.

    A file that fails parity is kept aside with the suffix ``.rejected`` and never offered.

    Raises:
        PareError: not one file could be made.
    """
    plans = [
        SchemePlan(**p) for p in read_json(context.inputs["quantize"] / "plan.json")["files"]
    ]
    calibration = np.load(context.inputs["quantize"] / "calibration.npy", allow_pickle=False)
    made: dict[str, Path | ExportFailure] = {}
    compact = context.compacted()
    network = fold_batch_norm(compact)
    options = context.recipe.export
    for file_format in sorted({plan.format for plan in plans}):
        exporter = EXPORTERS.load(file_format)[0](opset=options.opset)
        own = [plan for plan in plans if plan.format == file_format]
        written = exporter.write(
            network,
            own,
            _signature(context),
            calibration,
            context.out,
            options.converter_timeout_s,
        )
        made |= {plan.file_name: written[plan.scheme] for plan in own}
    reference = logits(compact, context.data.test.images, context.data)
    files = [
        _examine(context, plan, made[plan.file_name], reference.numpy()) for plan in plans
    ]
    for entry in files:
        if entry["state"] != "made":
            context.reporter.warn(f"{entry['file']}: {entry['state']}. {entry['why']}")
    good = [entry for entry in files if entry["state"] == "made"]
    write_json(context.out / "files.json", files)
    if not good:
        raise PareError(
            "no file could be made. " + " ".join(str(entry["why"]) for entry in files)
        )
    return {
        "summary": f"{len(good)} of {len(files)} files made and faithful to PyTorch "
        f"on {len(context.data.test)} test images",
        "files": files,
    }


def _signature(context: Context) -> Signature:
    data = context.data
    channels, height, width = data.shape
    return Signature(
        channels=channels,
        height=height,
        width=width,
        mean=data.mean,
        std=data.std,
        classes=data.classes,
        batch=batch(context.targets),
        producer=f"pare {pipeline.__version__}",
        recipe_hash=digest(context.recipe.model_dump(mode="json")),
    )


def _examine(
    context: Context, plan: SchemePlan, made: Path | ExportFailure, reference: Logits
) -> dict[str, Any]:
    """Return what is known of one file: made, refused (no file) or rejected (unfaithful)."""
    entry: dict[str, Any] = {
        "file": plan.file_name,
        "format": plan.format,
        "scheme": plan.scheme,
        "dtype": plan.dtype,
        "why": plan.why,
    }
    if isinstance(made, ExportFailure):
        return {**entry, "state": "refused", "why": made.reason}
    data, options = context.data, context.recipe.export
    parity = compare(
        open_model(made),
        (batch.numpy() for batch in data.batches(data.test.images)),
        data.test.labels.numpy(),
        reference,
        dtype=plan.dtype,
        max_float_difference=options.max_float_difference,
        min_agreement=options.min_agreement,
    )
    content = made.read_bytes()
    entry |= {
        "bytes": len(content),
        "gzip_bytes": len(gzip.compress(content, 9, mtime=0)),
        "parity": parity.model_dump(mode="json"),
    }
    if parity.passed:
        return {**entry, "state": "made"}
    shutil.move(made, made.with_name(made.name + ".rejected"))
    return {**entry, "state": "rejected", "why": parity.why}
