"""TFLite files for LiteRT: float32, float16, dynamic range and full int8."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.plan import SchemePlan
from pipeline.core.signature import Signature
from pipeline.exporters import ExportFailure, Images
from pipeline.exporters.landing import (
    UnfitFileError,
    check_request,
    fail,
    land,
    last_line,
    log_path,
    scratch,
)
from pipeline.exporters.tflite_worker import MISSING
from pipeline.exporters.to_onnx import ToOnnx
from pipeline.runtime.engines import EngineError, LiteRtEngine, open_model

if TYPE_CHECKING:
    from torch import nn

_ROOT = Path(__file__).parents[2]
_STEP = SchemePlan(
    format="onnx",
    scheme="float32",
    dtype="fp32",
    weights="float32",
    activations="float32",
    granularity=None,
    io_dtype="float32",
    why="the step between PyTorch and TensorFlow",
)
_WORKER = (sys.executable, "-m", "pipeline.exporters.tflite_worker")


@dataclass(frozen=True)
class ToTflite:
    """Writes TFLite in a child process, which may crash or hang without harm.

    The network goes to ONNX, by onnx2tf to Keras, and by TensorFlow's converter to one
    file a scheme. A file takes one image a call, whatever batch the signature allows:
    that is how devices use it, and several of their delegates take nothing else.

    Attributes:
        opset: version of the ONNX operators on the way.
        worker: the command that converts; it gets the path of the request.
    """

    opset: int = 18
    worker: tuple[str, ...] = _WORKER

    def write(
        self,
        model: nn.Module,
        plans: Sequence[SchemePlan],
        signature: Signature,
        calibration: Images,
        folder: Path,
        timeout_s: float,
    ) -> dict[str, Path | ExportFailure]:
        """Write one file a plan; see ``pipeline.exporters.Exporter``.

        Raises:
            PareError: the request itself is wrong.
        """
        check_request(model, plans, signature, calibration, "tflite")
        if not plans:
            return {}
        single = signature.model_copy(update={"batch": 1})
        log = log_path(folder, "tflite")
        with scratch(folder) as room:
            onnx = ToOnnx(self.opset)
            sources = onnx.write(
                model,
                [_STEP],
                single,
                calibration[:1],
                room / "onnx",
                timeout_s,
            )
            source = sources["float32"]
            if isinstance(source, ExportFailure):
                log.write_bytes(source.log.read_bytes())
                reason = f"the step to ONNX failed: {source.reason}"
                return dict(fail(plans, reason, log))
            request = _write_request(room, source, plans, single, calibration)
            ending = _run([*self.worker, str(request)], room, log, timeout_s)
            return {
                plan.scheme: _finish(room, plan, single, calibration, folder, log, ending)
                for plan in plans
            }


def _write_request(
    room: Path, source: Path, plans: Sequence[SchemePlan], signature: Signature, images: Images
) -> Path:
    """Write what the child needs as files and return the path of the request."""
    np.save(room / "calibration.npy", np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
    values = {
        "onnx": str(source),
        "calibration": "calibration.npy",
        "input_name": signature.input_name,
        "output_name": signature.output_name,
        "plans": [plan.model_dump(mode="json") for plan in plans],
    }
    request = room / "request.json"
    request.write_text(json.dumps(values), encoding="utf-8")
    return request


def _run(command: Sequence[str], room: Path, log: Path, timeout_s: float) -> str:
    """Run the child and return how it ended, as a reason for files that are missing."""
    with log.open("wb") as out:
        child = subprocess.Popen(
            command,
            cwd=room,
            env=_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return (
                f"the converter was stopped after {timeout_s:g} s. "
                f"Raise export.converter_timeout_s if the network is large."
            )
        finally:
            if child.poll() is None:
                # Its own children too: they share its group.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    said = last_line(log.read_text(encoding="utf-8", errors="replace"))
    if code == MISSING:
        return f'TFLite needs more packages ({said}). Run: pip install "pare[tflite]"'
    return f"the converter ended with code {code}: {said}"


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: ours, quiet, without accelerators."""
    path = [str(_ROOT), *filter(None, [own.get("PYTHONPATH")])]
    return {
        **own,
        "PYTHONPATH": os.pathsep.join(path),
        "CUDA_VISIBLE_DEVICES": "-1",
        "ORT_DISABLE_TELEMETRY": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "TF_USE_LEGACY_KERAS": "1",
    }


def _finish(
    room: Path,
    plan: SchemePlan,
    signature: Signature,
    images: Images,
    folder: Path,
    log: Path,
    ending: str,
) -> Path | ExportFailure:
    """Land one scheme's file if the child finished it, or say why there is none.

    A child that dies at one scheme has finished the schemes before it.
    """
    made = room / plan.file_name
    if not made.is_file():
        reason = _own_error(made) or ending
        return ExportFailure(scheme=plan.scheme, reason=reason, log=log)
    try:
        _check_weights(made, plan)
        return land(made, plan, signature, images, folder)
    except (UnfitFileError, EngineError) as error:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n{plan.file_name}:\n")
            file.write("".join(traceback.format_exception(error)))
        return ExportFailure(scheme=plan.scheme, reason=str(error), log=log)


def _own_error(made: Path) -> str | None:
    written = made.with_name(f"{made.name}.error")
    if not written.is_file():
        return None
    said = last_line(written.read_text(encoding="utf-8"))
    return f"TensorFlow cannot write it: {said}"


def _check_weights(made: Path, plan: SchemePlan) -> None:
    """Refuse a file that only claims to be quantized."""
    engine = open_model(made)
    if isinstance(engine, LiteRtEngine) and plan.weights not in engine.tensor_dtypes():
        raise UnfitFileError(
            f"the converter left every weight in float: no tensor is {plan.weights}. "
            f"Dynamic range leaves layers under 1024 weights alone; use float32 instead."
        )
