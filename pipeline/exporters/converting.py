"""TFLite made in a child process, which may crash or hang without harm."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.core.errors import PareError
from pipeline.core.plan import SchemePlan
from pipeline.core.signature import Signature
from pipeline.core.target import Format, Method
from pipeline.exporters import ExportFailure, Images
from pipeline.exporters.child import MISSING
from pipeline.exporters.flatbuffer import stored_types
from pipeline.exporters.landing import (
    UnfitFileError,
    check_request,
    fail,
    land,
    last_line,
    log_path,
    scratch,
    weights_of,
)
from pipeline.runtime.engines import open_model
from pipeline.runtime.tensors import EngineError

if TYPE_CHECKING:
    from torch import nn

_ROOT = Path(__file__).parents[2]


class SourceError(Exception):
    """The network cannot be written in the form that the converter reads."""


@dataclass(frozen=True)
class TfliteExporter(ABC):
    """Base of the TFLite exporters: a source file, a child process, files that are proved.

    A file takes one image a call, whatever batch the signature allows: that is how devices
    use it, and several of their delegates take nothing else. Its layout is NHWC.

    Attributes:
        opset: version of the ONNX operators, where ONNX is on the way.
        worker: the command that converts; it gets the path of the request. Empty for the
            exporter's own.
    """

    FORMAT: ClassVar[Format] = "tflite"
    SCHEMES: ClassVar[frozenset[str]]
    METHODS: ClassVar[tuple[Method, ...]]
    SPARSE: ClassVar[bool]
    MIXES: ClassVar[bool]
    WORKER: ClassVar[str]
    EXTRA: ClassVar[str]
    MADE_BY: ClassVar[tuple[str, ...]]

    opset: int = 18
    worker: tuple[str, ...] = ()

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
        check_request(model, plans, signature, calibration, self)
        if not plans:
            return {}
        single = signature.model_copy(update={"batch": 1})
        log = log_path(folder, self.WORKER)
        with scratch(folder) as room:
            try:
                source = self._source(model, single, calibration, room)
            except Exception as error:  # torch's exporters raise anything
                log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
                return dict(fail(plans, f"the network cannot be read: {_first(error)}", log))
            request = _write_request(room, source, model, plans, single, calibration)
            own = (sys.executable, "-m", f"pipeline.exporters.{self.WORKER}")
            command = [*(self.worker or own), str(request)]
            ending = _run(command, room, log, timeout_s, self.EXTRA)
            return {
                plan.name: self._finish(room, plan, single, calibration, folder, log, ending)
                for plan in plans
            }

    @abstractmethod
    def _source(
        self, model: nn.Module, signature: Signature, images: Images, room: Path
    ) -> Path:
        """Write the network as the converter reads it."""

    def _finish(
        self,
        room: Path,
        plan: SchemePlan,
        signature: Signature,
        images: Images,
        folder: Path,
        log: Path,
        ending: str,
    ) -> Path | ExportFailure:
        """Land one plan's file if the child finished it, or say why there is none.

        A child that dies at one plan has finished those before it.
        """
        made = room / plan.file_name
        if not made.is_file():
            reason = _own_error(made) or ending
            return ExportFailure(name=plan.name, reason=reason, log=log)
        try:
            _check_weights(made, plan)
            return land(made, plan, signature, images, folder, self.MADE_BY)
        except (UnfitFileError, EngineError, PareError) as error:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"\n{plan.file_name}:\n")
                file.write("".join(traceback.format_exception(error)))
            reason = str(error).replace(f"{room}/", "")
            return ExportFailure(name=plan.name, reason=reason, log=log)


def _write_request(
    room: Path,
    source: Path,
    model: nn.Module,
    plans: Sequence[SchemePlan],
    signature: Signature,
    images: Images,
) -> Path:
    """Write what the child needs as files and return the path of the request."""
    np.save(room / "calibration.npy", np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
    kept = {one.layer for plan in plans for one in plan.kept}
    np.savez(room / "kept.npz", allow_pickle=False, **weights_of(model, kept))
    values = {
        "source": str(source),
        "calibration": "calibration.npy",
        "kept": "kept.npz",
        "input_name": signature.input_name,
        "output_name": signature.output_name,
        "plans": [plan.model_dump(mode="json") for plan in plans],
        "parent": os.getpid(),
    }
    request = room / "request.json"
    request.write_text(json.dumps(values), encoding="utf-8")
    return request


def _run(command: Sequence[str], room: Path, log: Path, timeout_s: float, extra: str) -> str:
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
        return f'it needs more packages ({said}). Run: pip install "pare[{extra}]"'
    return f"the converter ended with code {code}: {said}"


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: ours, quiet, without accelerators."""
    path = [str(_ROOT), *filter(None, [own.get("PYTHONPATH")])]
    return {
        **own,
        "PYTHONPATH": os.pathsep.join(path),
        "CUDA_VISIBLE_DEVICES": "-1",
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
        "ORT_DISABLE_TELEMETRY": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "TF_USE_LEGACY_KERAS": "1",
    }


def _own_error(made: Path) -> str | None:
    written = made.with_name(f"{made.name}.error")
    if not written.is_file():
        return None
    said = last_line(written.read_text(encoding="utf-8", errors="replace"))
    return f"the converter cannot write it: {said}"


def _check_weights(made: Path, plan: SchemePlan) -> None:
    """Refuse a file that only claims to be quantized."""
    open_model(made)  # what the runtime refuses is refused in its own words
    if plan.weights not in stored_types(made.read_bytes()):
        raise UnfitFileError(
            f"the converter left every weight in float: no tensor is {plan.weights}. "
            f"TensorFlow leaves layers under 1024 weights alone; use float32 instead."
        )


def _first(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"
