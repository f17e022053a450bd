"""Any file in the engine that its ending names: its tensors in, its tensors out."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.runtime.delegates import Delegate
from pipeline.runtime.tensors import EngineError, Stored, TensorSpec

# Module, package and the name by which answers tell it: they differ, and so may their answers.
_LITERT = (
    ("ai_edge_litert.interpreter", "ai-edge-litert", "litert"),
    ("tflite_runtime.interpreter", "tflite-runtime", "tflite-runtime"),
)
_ONNX_NAMES = {"float": "float32", "double": "float64"}


class Session(ABC):
    """A loaded file with any number of inputs and outputs.

    Attributes:
        format: what the file is.
        runtime: what runs it.
        runtime_version: the version of that.
        inputs: as they are stored; a ``None`` in a shape is chosen at each call.
        outputs: as they are stored.
        delegate: file name of the library that operators are handed to, if any.
    """

    format: ClassVar[str]
    runtime: str
    runtime_version: str
    delegate: str | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def set(self, values: Sequence[Stored]) -> None:
        """Hand the engine its inputs, one array each, in their order."""

    @abstractmethod
    def invoke(self) -> None:
        """Run once on the inputs that are set."""

    @abstractmethod
    def get(self) -> list[Stored]:
        """Return the outputs of the last inference."""


class OnnxSession(Session):
    """ONNX files in onnxruntime, on the CPU.

    Raises:
        EngineError: onnxruntime is missing, or it refuses the file.
    """

    format = "onnx"
    runtime = "onnxruntime"

    def __init__(self, path: Path, threads: int, profile_to: Path | None = None) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if profile_to is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_to)
        # A session that fails with its profiler on complains of that as well.
        silence = _quiet_stderr() if profile_to is not None else nullcontext()
        try:
            with silence:
                self._session = onnxruntime.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"]
                )
        except Exception as error:  # the engine has a dozen unrelated classes for this
            raise broken(path, "onnxruntime", error) from error
        self.runtime_version = str(onnxruntime.__version__)
        self.inputs = tuple(_onnx_spec(t, "NCHW") for t in self._session.get_inputs())
        self.outputs = tuple(_onnx_spec(t, "NC") for t in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._feed: dict[str, Stored] = {}
        self._result: list[Any] = []

    def set(self, values: Sequence[Stored]) -> None:  # noqa: D102
        self._feed = {spec.name: values[place] for place, spec in enumerate(self.inputs)}

    def invoke(self) -> None:  # noqa: D102
        self._result = self._session.run(self._names, self._feed)

    def get(self) -> list[Stored]:  # noqa: D102
        return [np.asarray(value) for value in self._result]

    def fact(self, key: str) -> str | None:
        """Return one of the facts that the file's exporter wrote into it."""
        found = self._session.get_modelmeta().custom_metadata_map.get(key)
        return str(found) if found else None

    def end_trace(self) -> Path:
        """Stop the engine's own profiler and return the file it wrote."""
        return Path(self._session.end_profiling())


class LiteRtSession(Session):
    """TFLite files in LiteRT or its forerunner, on the CPU or with a delegate.

    Raises:
        EngineError: no LiteRT is installed, it refuses the file, or the delegate does.
    """

    format = "tflite"

    def __init__(self, path: Path, threads: int, delegate: Delegate | None = None) -> None:
        found = import_litert()
        self.runtime, self.runtime_version = found.name, found.version
        how: dict[str, Any] = {"model_path": str(path), "num_threads": threads}
        if delegate:
            how["experimental_delegates"] = [delegate.load(found.module)]
            self.delegate = delegate.library.name
        try:
            with _quiet_stderr():
                self._interpreter = found.interpreter(**how)
                self._interpreter.allocate_tensors()
        except Exception as error:  # ValueError or RuntimeError, by version
            if delegate:
                raise delegate.refused(error) from error
            raise broken(path, "LiteRT", error) from error
        self._in = self._interpreter.get_input_details()
        self._out = self._interpreter.get_output_details()
        self.inputs = tuple(_tflite_spec(detail, "NHWC") for detail in self._in)
        self.outputs = tuple(_tflite_spec(detail, "NC") for detail in self._out)

    def set(self, values: Sequence[Stored]) -> None:  # noqa: D102
        for place, detail in enumerate(self._in):
            self._interpreter.set_tensor(detail["index"], values[place])

    def invoke(self) -> None:  # noqa: D102
        self._interpreter.invoke()

    def get(self) -> list[Stored]:  # noqa: D102
        return [np.asarray(self._interpreter.get_tensor(d["index"])) for d in self._out]

    def signature(self) -> tuple[str | None, str | None]:
        """Return the names of input and output that callers know, where the file has them."""
        for signature in self._interpreter.get_signature_list().values():
            if len(signature["inputs"]) == len(signature["outputs"]) == 1:
                return signature["inputs"][0], signature["outputs"][0]
        return None, None

    def tensor_dtypes(self) -> frozenset[str]:
        """Return the types of all tensors of the file, its weights among them."""
        details = self._interpreter.get_tensor_details()
        return frozenset(np.dtype(tensor["dtype"]).name for tensor in details)


def open_session(path: Path, threads: int = 1, delegate: Delegate | None = None) -> Session:
    """Load a file into the engine that its ending names.

    Args:
        path: an ``.onnx`` or ``.tflite`` file.
        threads: of the engine, at least 1.
        delegate: to hand operators to, of a ``.tflite`` file.

    Raises:
        EngineError: no such file, an ending no engine takes, a missing engine, or a
            file that its engine or the delegate refuses.

    >>> open_session(Path("model.h5"))
    Traceback (most recent call last):
        ...
    pipeline.runtime.tensors.EngineError: model.h5: no engine for '.h5'. Known: .onnx, .tflite.
    """
    check_openable(path, threads, delegate)
    if path.suffix == ".onnx":
        return OnnxSession(path, threads)
    return LiteRtSession(path, threads, delegate)


def check_openable(path: Path, threads: int, delegate: Delegate | None = None) -> None:
    """Refuse what no engine takes, before any is loaded.

    Raises:
        EngineError: an ending no engine takes, no thread, no such file, or a delegate for an
            engine that has none.
    """
    if path.suffix not in (".onnx", ".tflite"):
        raise EngineError(f"{path}: no engine for {path.suffix!r}. Known: .onnx, .tflite.")
    if threads < 1:
        raise EngineError(f"threads = {threads}: an engine needs at least 1.")
    if not path.is_file():
        raise EngineError(f"no file at {path}. Check the path.")
    if delegate and path.suffix != ".tflite":
        raise EngineError(
            f"{path}: delegates are for .tflite files. Leave out --delegate and PARE_DELEGATE."
        )


def import_onnxruntime() -> Any:
    """Return onnxruntime, its telemetry off and its warnings silent.

    Raises:
        EngineError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        onnxruntime = import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise EngineError(
            "ONNX files need onnxruntime, which is not installed. Run: pip install onnxruntime"
        ) from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


@dataclass(frozen=True)
class LiteRt:
    """LiteRT or its forerunner, as it is installed.

    Attributes:
        interpreter: its class.
        module: that it is in.
        name: of the runtime.
        version: of it, or ``unknown``.
    """

    interpreter: Any
    module: str
    name: str
    version: str


def import_litert() -> LiteRt:
    """Return LiteRT, or its forerunner where that is what is installed.

    Raises:
        EngineError: neither is installed.
    """
    for module, package, name in _LITERT:
        try:
            interpreter = import_module(module).Interpreter
        except ModuleNotFoundError:
            continue
        try:
            return LiteRt(interpreter, module, name, version(package))
        except PackageNotFoundError:
            return LiteRt(interpreter, module, name, "unknown")
    raise EngineError(
        "TFLite files need LiteRT, which is not installed. Run: pip install ai-edge-litert"
    )


def broken(path: Path, engine: str, error: Exception) -> EngineError:
    """Return the sentence on a file that its engine refuses."""
    return EngineError(
        f"{path}: {engine} cannot load it ({error}). "
        f"The file is damaged or needs a newer engine; export it again."
    )


def _onnx_spec(tensor: Any, layout: str) -> TensorSpec:
    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    return TensorSpec(tensor.name, shape, _ONNX_NAMES.get(kind, kind), layout=layout)


def _tflite_spec(detail: Any, layout: str) -> TensorSpec:
    kind = np.dtype(detail["dtype"])
    shape = tuple(int(size) for size in detail["shape"])
    name = str(detail["name"])
    scale, zero_point = detail["quantization"]
    if kind.kind not in "iu" or not scale > 0:
        return TensorSpec(name, shape, kind.name, layout=layout)
    return TensorSpec(name, shape, kind.name, float(scale), int(zero_point), layout)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what native code prints; LiteRT greets on every load and has no switch."""
    if sys.stderr is not None:
        sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
