"""The last steps of every export: prove that a file runs, then move it to where it counts."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import PareError
from pipeline.core.plan import SchemePlan
from pipeline.core.signature import Layout, Signature
from pipeline.exporters import ExportFailure, Images
from pipeline.runtime.engines import Engine, open_model

if TYPE_CHECKING:
    from torch import nn

_LAYOUTS: dict[str, Layout] = {"onnx": "NCHW", "tflite": "NHWC"}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class UnfitFileError(Exception):
    """A finished-looking file that is not what the plan says."""


def check_request(
    model: nn.Module,
    plans: Sequence[SchemePlan],
    signature: Signature,
    calibration: Images,
    file_format: str,
) -> None:
    """Refuse what no converter could do right.

    Raises:
        PareError: the network is in training mode, a plan is of another format or asked
            for twice, or the calibration images don't have the signature's shape.
    """
    if model.training:
        raise PareError("export: the network is in training mode. Call model.eval() first.")
    wrong = [plan.format for plan in plans if plan.format != file_format]
    if wrong:
        raise PareError(
            f"export: a plan is for {wrong[0]!r}, this exporter writes {file_format!r}."
        )
    schemes = [plan.scheme for plan in plans]
    if len(set(schemes)) != len(schemes):
        raise PareError(f"export: a scheme is planned twice in {', '.join(schemes)}.")
    want = (signature.channels, signature.height, signature.width)
    if calibration.ndim != 4 or not len(calibration) or calibration.shape[1:] != want:
        raise PareError(
            f"export: calibration images have shape {list(calibration.shape)}, the "
            f"signature wants [n, {want[0]}, {want[1]}, {want[2]}] with n of at least 1."
        )
    if calibration.dtype != np.float32:
        raise PareError(f"export: calibration images are {calibration.dtype}; give float32.")


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Give a folder on the same disk as ``folder`` that vanishes with all it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder) as name:
        yield Path(name).resolve()


def log_path(folder: Path, name: str) -> Path:
    """Return where the log of that name is kept, its folder made."""
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    return logs / f"{name}.log"


def metadata(
    plan: SchemePlan, signature: Signature, output_step: float | None
) -> dict[str, Any]:
    """Return all that a reader of the file must know, as plain data.

    What a file does not have has no key: as text, ``null`` would be a value like another.
    """
    facts = {
        **signature.metadata(_LAYOUTS[plan.format]),
        "format": plan.format,
        "scheme": plan.scheme,
        "dtype": plan.dtype,
        "weights": plan.weights,
        "activations": plan.activations,
        "granularity": plan.granularity,
        "io_dtype": plan.io_dtype,
        "output_step": output_step,
    }
    return {key: value for key, value in facts.items() if value is not None}


def land(
    made: Path, plan: SchemePlan, signature: Signature, images: Images, folder: Path
) -> Path:
    """Run a file in its runtime and move it, with its side-car, to where it is believed.

    The file comes last: where it stands, its side-car stands too.

    Args:
        made: the file in the scratch folder.
        plan: what it should be.
        signature: what should go in and come out.
        images: to run it on, ``[n, c, h, w]``.
        folder: where it lands.

    Raises:
        UnfitFileError: it is not what the plan says, or its outputs are not finite.
        EngineError: its runtime is missing or refuses it.
    """
    engine = open_model(made)
    _check_tensors(engine, plan, signature)
    _check_batches(engine, signature, images)
    facts = metadata(plan, signature, engine.output_step)
    name = plan.file_name
    side_car = made.with_name(f"{name}.json")
    side_car.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    side_car.replace(folder / side_car.name)
    return made.replace(folder / name)


def fail(plans: Sequence[SchemePlan], reason: str, log: Path) -> Mapping[str, ExportFailure]:
    """Return the same failure for each plan."""
    return {
        plan.scheme: ExportFailure(scheme=plan.scheme, reason=reason, log=log)
        for plan in plans
    }


def last_line(text: str) -> str:
    r"""Return the last line that says something, without terminal colours.

    >>> last_line("first\n\x1b[31mlast\x1b[0m\n\n")
    'last'
    """
    lines = [line.strip() for line in _COLOURS.sub("", text).splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")


def _check_tensors(engine: Engine, plan: SchemePlan, signature: Signature) -> None:
    layout = _LAYOUTS[plan.format]
    facts = {
        "input name": (engine.input.name, signature.input_name),
        "output name": (engine.output.name, signature.output_name),
        "input shape": (list(engine.input.shape), signature.input_shape(layout)),
        "output shape": (list(engine.output.shape), [signature.batch, len(signature.classes)]),
        "input type": (engine.input.dtype, plan.io_dtype),
        "output type": (engine.output.dtype, plan.io_dtype),
    }
    for what, (got, want) in facts.items():
        if got != want:
            raise UnfitFileError(f"the {what} is {got}, it should be {want}")


def _check_batches(engine: Engine, signature: Signature, images: Images) -> None:
    """Run the file; where the caller chooses the batch, at several sizes with equal rows."""
    sizes = (1,) if signature.batch is not None else (1, 2, 5)
    rows = [engine.run(np.resize(images, (size, *images.shape[1:]))) for size in sizes]
    for size, row in zip(sizes, rows, strict=True):
        if row.shape != (size, len(signature.classes)):
            raise UnfitFileError(f"{size} images gave an output of shape {list(row.shape)}")
        if not np.isfinite(row).all():
            raise UnfitFileError("an output is not finite")
        # Blocking may differ with the batch, so equal up to rounding.
        if np.abs(row[0] - rows[0][0]).max() > 1e-3 * max(np.abs(rows[0]).max(), 1e-6):
            raise UnfitFileError(f"the first image of {size} has other outputs than alone")
