"""One way to run a file, whichever inference engine it needs.

This room ships to devices: it imports numpy, the standard library and the one engine
that the file asks for, and nothing else of this package.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Enough to keep an engine busy, little enough for the memory of a small board.
_LARGEST_BATCH = 64

_LITERT = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
)


class EngineError(Exception):
    """A file that cannot be run: what is wrong, where, and what to do next."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a file.

    ``real = (stored - zero_point) * scale`` where ``dtype`` is an integer type. A ``None``
    in ``shape`` is chosen at each call.

    >>> TensorSpec("x", (1, 2), "int8", scale=0.5, zero_point=-1).encode(
    ...     np.float32([0.0, 0.5, 1000.0])
    ... ).tolist()
    [-1, 0, 127]
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    layout: str = ""

    def encode(self, values: Floats) -> npt.NDArray[Any]:
        """Return real values as this tensor stores them, clipped to what its type holds."""
        kind = np.dtype(self.dtype)
        if self.scale is None or self.zero_point is None:
            return values.astype(kind, copy=False)
        limits = np.iinfo(kind)
        stored = np.rint(values / np.float32(self.scale)) + self.zero_point
        clipped: npt.NDArray[Any] = np.clip(stored, limits.min, limits.max)
        return clipped.astype(kind)

    def decode(self, stored: npt.NDArray[Any]) -> Floats:
        """Return stored values as real numbers."""
        if self.scale is None or self.zero_point is None:
            return stored.astype(np.float32, copy=False)
        steps = stored.astype(np.int64) - self.zero_point
        return steps.astype(np.float32) * np.float32(self.scale)


class Engine(ABC):
    """A loaded file: one image tensor in, one row of logits out.

    Attributes:
        format: what the file is.
        runtime: what runs it.
        runtime_version: the version of that.
        input: the file's input as it is stored.
        output: the file's output as it is stored.
        output_step: smallest difference that a quantized output can show, where known.
    """

    format: ClassVar[str]
    runtime: ClassVar[str]
    runtime_version: str
    input: TensorSpec
    output: TensorSpec
    output_step: float | None

    def run(self, images: Floats) -> Floats:
        """Return the logits of any number of images.

        Args:
            images: normalised, float32, ``[n, c, h, w]`` whatever the file's own layout.

        Returns:
            float32 ``[n, classes]``.

        Raises:
            EngineError: the images don't have the file's shape, or the engine refuses them.
        """
        self._check(images)
        if not len(images):
            return np.zeros((0, self.output.shape[-1] or 0), np.float32)
        fixed = self.input.shape[0]
        size = fixed or _LARGEST_BATCH
        rows = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            try:
                logits = self._run_batch(_filled(part, fixed))
            except Exception as error:  # each engine has its own classes
                raise EngineError(
                    f"{self.runtime} {self.runtime_version} failed while it ran the file: "
                    f"{error}. Export the file again or use another version."
                ) from error
            rows.append(logits[: len(part)])
        return np.concatenate(rows)

    @abstractmethod
    def invoke(self) -> None:
        """Run once on the input that is already set (zeros at first), for timing."""

    @abstractmethod
    def _set(self, stored: npt.NDArray[Any]) -> None:
        """Hand the engine an input as it is stored."""

    @abstractmethod
    def _get(self) -> npt.NDArray[Any]:
        """Return the output of the last inference as it is stored."""

    def _run_batch(self, images: Floats) -> Floats:
        shown = images.transpose(0, 2, 3, 1) if self.input.layout == "NHWC" else images
        self._set(np.ascontiguousarray(self.input.encode(shown)))
        self.invoke()
        return self.output.decode(self._get())

    def _check(self, images: Floats) -> None:
        rest = list(self.input.shape[1:])
        if self.input.layout == "NHWC":
            height, width, channels = rest
            rest = [channels, height, width]
        if images.ndim != 4 or any(
            want not in (None, got) for want, got in zip(rest, images.shape[1:], strict=True)
        ):
            raise EngineError(
                f"the file takes images of shape {rest} (channels, height, width), got "
                f"an array of shape {list(images.shape)}. Resize the images to fit."
            )
        if images.dtype != np.float32:
            raise EngineError(f"images are {images.dtype}; give normalised float32.")

    def _set_zeros(self) -> None:
        shape = [size or 1 for size in self.input.shape]
        self._set(self.input.encode(np.zeros(shape, np.float32)))


class OnnxEngine(Engine):
    """ONNX files in onnxruntime, on the CPU.

    Raises:
        EngineError: onnxruntime is missing, or it refuses the file.
    """

    format = "onnx"
    runtime = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        onnxruntime = _import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the engine has a dozen unrelated classes for this
            raise _broken(path, "onnxruntime", error) from error
        self.runtime_version = str(onnxruntime.__version__)
        self.input = _onnx_spec(
            _only(self._session.get_inputs(), "input", path), layout="NCHW"
        )
        self.output = _onnx_spec(
            _only(self._session.get_outputs(), "output", path), layout="NC"
        )
        # A float output hides its last quantization; the exporter writes its step down.
        step = self._session.get_modelmeta().custom_metadata_map.get("output_step")
        self._stored: npt.NDArray[Any] = np.zeros(0)
        try:
            self.output_step = float(step) if step and step != "null" else None
            self._set_zeros()
        except Exception as error:  # a size, a type or a number that makes no sense
            raise _broken(path, "onnxruntime", error) from error

    def invoke(self) -> None:  # noqa: D102
        names = [self.output.name]
        (self._result,) = self._session.run(names, {self.input.name: self._stored})

    def _set(self, stored: npt.NDArray[Any]) -> None:
        self._stored = stored

    def _get(self) -> npt.NDArray[Any]:
        return np.asarray(self._result)


class LiteRtEngine(Engine):
    """TFLite files in LiteRT, on the CPU.

    Raises:
        EngineError: no LiteRT is installed, or it refuses the file.
    """

    format = "tflite"
    runtime = "litert"

    def __init__(self, path: Path, threads: int) -> None:
        interpreter, self.runtime_version = _import_litert()
        try:
            with _quiet_stderr():
                self._interpreter = interpreter(model_path=str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
        except Exception as error:  # ValueError or RuntimeError, by version
            raise _broken(path, "LiteRT", error) from error
        self._in = _only(self._interpreter.get_input_details(), "input", path)
        self._out = _only(self._interpreter.get_output_details(), "output", path)
        names = _signature_names(self._interpreter)
        self.input = _tflite_spec(self._in, names[0], layout="NHWC", path=path)
        self.output = _tflite_spec(self._out, names[1], layout="NC", path=path)
        self.output_step = self.output.scale
        self._set_zeros()

    def invoke(self) -> None:  # noqa: D102
        self._interpreter.invoke()

    def tensor_dtypes(self) -> frozenset[str]:
        """Return the types of all tensors of the file, its weights among them."""
        details = self._interpreter.get_tensor_details()
        return frozenset(np.dtype(tensor["dtype"]).name for tensor in details)

    def _set(self, stored: npt.NDArray[Any]) -> None:
        self._interpreter.set_tensor(self._in["index"], stored)

    def _get(self) -> npt.NDArray[Any]:
        return np.asarray(self._interpreter.get_tensor(self._out["index"]))


def open_model(path: Path, threads: int = 1) -> Engine:
    """Load a file into the engine that its ending names.

    Args:
        path: an ``.onnx`` or ``.tflite`` file.
        threads: of the engine, at least 1.

    Raises:
        EngineError: no such file, an ending no engine takes, a missing engine, or a
            file that its engine refuses.

    >>> open_model(Path("model.h5"))
    Traceback (most recent call last):
        ...
    pipeline.runtime.engines.EngineError: model.h5: no engine for '.h5'. Known: .onnx, .tflite.
    """
    engines: dict[str, type[OnnxEngine] | type[LiteRtEngine]] = {
        ".onnx": OnnxEngine,
        ".tflite": LiteRtEngine,
    }
    if path.suffix not in engines:
        known = ", ".join(engines)
        raise EngineError(f"{path}: no engine for {path.suffix!r}. Known: {known}.")
    if threads < 1:
        raise EngineError(f"threads = {threads}: an engine needs at least 1.")
    if not path.is_file():
        raise EngineError(f"no file at {path}. Check the path.")
    return engines[path.suffix](path, threads)


def _filled(images: Floats, size: int | None) -> Floats:
    """Return the images with zeros appended until a fixed batch is full."""
    missing = size - len(images) if size else 0
    if not missing:
        return images
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.float32)])


def _import_onnxruntime() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        onnxruntime = import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise EngineError(
            "ONNX files need onnxruntime, which is not installed. Run: pip install onnxruntime"
        ) from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def _import_litert() -> tuple[Any, str]:
    for module, package in _LITERT:
        try:
            interpreter = import_module(module).Interpreter
        except ModuleNotFoundError:
            continue
        try:
            return interpreter, version(package)
        except PackageNotFoundError:
            return interpreter, "unknown"
    raise EngineError(
        "TFLite files need LiteRT, which is not installed. Run: pip install ai-edge-litert"
    )


def _broken(path: Path, engine: str, error: Exception) -> EngineError:
    return EngineError(
        f"{path}: {engine} cannot load it ({error}). "
        f"The file is damaged or needs a newer engine; export it again."
    )


def _only(tensors: Any, kind: str, path: Path) -> Any:
    if len(tensors) != 1:
        raise EngineError(
            f"{path} has {len(tensors)} {kind}s; an image classifier has one. "
            f"Export the network with a single {kind}."
        )
    return tensors[0]


def _onnx_spec(tensor: Any, layout: str) -> TensorSpec:
    names = {"float": "float32", "float16": "float16"}
    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    return TensorSpec(tensor.name, shape, names.get(kind, kind), layout=layout)


def _tflite_spec(detail: Any, name: str | None, layout: str, path: Path) -> TensorSpec:
    kind = np.dtype(detail["dtype"])
    shape = tuple(int(size) for size in detail["shape"])
    own = name or str(detail["name"])
    if kind.kind not in "iu":
        return TensorSpec(own, shape, kind.name, layout=layout)
    scale, zero_point = detail["quantization"]
    if not scale > 0:
        raise EngineError(
            f"{path}: tensor {own!r} is {kind.name} without a scale, so its values mean "
            f"nothing. Export the file again."
        )
    return TensorSpec(own, shape, kind.name, float(scale), int(zero_point), layout)


def _signature_names(interpreter: Any) -> tuple[str | None, str | None]:
    """Return the names that callers know, where the file states them."""
    for signature in interpreter.get_signature_list().values():
        if len(signature["inputs"]) == len(signature["outputs"]) == 1:
            return signature["inputs"][0], signature["outputs"][0]
    return None, None


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
