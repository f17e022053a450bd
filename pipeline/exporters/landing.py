"""The last steps of every export: prove that a file runs, then move it to where it counts."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import PareError
from pipeline.core.plan import SchemePlan
from pipeline.core.signature import Layout, Signature
from pipeline.exporters import Exporter, ExportFailure, Images, offered
from pipeline.exporters.tflite_metadata import embed
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
    exporter: Exporter,
) -> None:
    """Refuse what no converter could do right.

    Raises:
        PareError: the network is in training mode, a plan is of another format, not offered
            or asked for twice, or the calibration images don't have the signature's shape.
    """
    if model.training:
        raise PareError("export: the network is in training mode. Call model.eval() first.")
    for plan in plans:
        if plan.format != exporter.FORMAT:
            raise PareError(
                f"export: a plan is for {plan.format!r}, this exporter writes "
                f"{exporter.FORMAT!r}."
            )
        if why := offered(type(exporter), plan):
            raise PareError(f"export: {plan.file_name} cannot be made: {why}.")
    names = [plan.name for plan in plans]
    if len(set(names)) != len(names):
        raise PareError(f"export: a file is planned twice in {', '.join(names)}.")
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


def weights_of(model: nn.Module, layers: Collection[str]) -> dict[str, Images]:
    """Return the weights of some layers of the network, by the layer's name."""
    return {name: _weight(model, name) for name in sorted(layers)}


def _weight(model: nn.Module, layer: str) -> Images:
    # A network with its preprocessing in front holds the layers one level deeper.
    wanted = (f"{layer}.weight", f"network.{layer}.weight")
    for name, parameter in model.named_parameters():
        if name in wanted:
            return np.asarray(parameter.detach().cpu().numpy(), np.float32)
    raise PareError(f"export: {layer!r} is to stay in float, but no layer has that name.")


def metadata(
    plan: SchemePlan,
    signature: Signature,
    output_step: float | None,
    made_by: Sequence[str] = (),
) -> dict[str, Any]:
    """Return all that a reader of the file must know, as plain data.

    What a file does not have has no key: as text, ``null`` would be a value like another.

    Args:
        plan: what the file is.
        signature: what goes in and comes out.
        output_step: smallest difference that a quantized output shows.
        made_by: the packages that made the file; they are written with their versions.
    """
    facts = {
        **signature.metadata(_LAYOUTS[plan.format]),
        "format": plan.format,
        "scheme": plan.scheme,
        "variant": plan.variant or None,
        "dtype": plan.dtype,
        "weights": plan.weights,
        "activations": plan.activations,
        "granularity": plan.granularity,
        "calibration": plan.method,
        "calibrated_on": signature.calibrated_on if plan.is_calibrated else None,
        "layers_in_float": [one.layer for one in plan.kept] or None,
        "input_dtype": plan.input_dtype,
        "output_dtype": plan.output_dtype,
        "output_step": output_step,
        "made_by": [_with_version(name) for name in made_by] or None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _with_version(name: str) -> str:
    package, _, part = name.partition(" ")
    try:
        return f"{package} {version(package)} {part}".strip()
    except PackageNotFoundError:
        return name


def land(
    made: Path,
    plan: SchemePlan,
    signature: Signature,
    images: Images,
    folder: Path,
    made_by: Sequence[str] = (),
) -> Path:
    """Run a file in its runtime and move it, with its side-car, to where it is believed.

    The file comes last: where it stands, its side-car stands too.

    Args:
        made: the file in the scratch folder.
        plan: what it should be.
        signature: what should go in and come out.
        images: to run it on, ``[n, c, h, w]``.
        folder: where it lands.
        made_by: the packages that made it.

    Raises:
        UnfitFileError: it is not what the plan says, or its outputs are not finite.
        EngineError: its runtime is missing or refuses it.
    """
    engine = open_model(made)
    _check_tensors(engine, plan, signature)
    facts = metadata(plan, signature, engine.output_step, made_by)
    if plan.format == "tflite":
        made.write_bytes(embed(made.read_bytes(), facts))
        engine = open_model(made)
    _check_batches(engine, signature, images)
    name = plan.file_name
    side_car = made.with_name(f"{name}.json")
    side_car.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for beside in (side_car, made.with_name(f"{made.name}.data")):
        if beside.is_file():
            beside.replace(folder / beside.name)
    return made.replace(folder / name)


def fail(plans: Sequence[SchemePlan], reason: str, log: Path) -> Mapping[str, ExportFailure]:
    """Return the same failure for each plan."""
    return {plan.name: ExportFailure(name=plan.name, reason=reason, log=log) for plan in plans}


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
        "input type": (engine.input.dtype, plan.input_dtype),
        "output type": (engine.output.dtype, plan.output_dtype),
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
