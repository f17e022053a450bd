"""An image classifier in whichever engine it needs: images in, rows of logits out.

This room ships to devices: it imports numpy, the standard library and the one engine
that the file asks for, and nothing else of this package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.runtime.delegates import Delegate
from pipeline.runtime.sessions import (
    LiteRtSession,
    OnnxSession,
    Session,
    broken,
    check_openable,
)
from pipeline.runtime.tensors import EngineError, Floats, TensorSpec

# Enough to keep an engine busy, little enough for the memory of a small board.
_LARGEST_BATCH = 64


class Engine(ABC):
    """A loaded file: one image tensor in, one row of logits out.

    Attributes:
        format: what the file is.
        runtime: what runs it.
        runtime_version: the version of that.
        delegate: file name of the library that operators are handed to, if any.
        input: the file's input as it is stored.
        output: the file's output as it is stored.
        output_step: smallest difference that a quantized output can show, where known.
    """

    format: ClassVar[str]
    runtime: str
    runtime_version: str
    delegate: str | None = None
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
            want not in (None, got) for want, got in zip(rest, images.shape[1:])
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


class _Classifier(Engine):
    """An engine on a session of one input and one output."""

    _session: Session

    def invoke(self) -> None:
        self._session.invoke()

    def _set(self, stored: npt.NDArray[Any]) -> None:
        self._session.set([stored])

    def _get(self) -> npt.NDArray[Any]:
        return self._session.get()[0]


class OnnxEngine(_Classifier):
    """ONNX files in onnxruntime, on the CPU.

    Raises:
        EngineError: onnxruntime is missing, or it refuses the file.
    """

    format = "onnx"
    runtime = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        self._session = session = OnnxSession(path, threads)
        self.runtime_version = session.runtime_version
        self.input = _only(session.inputs, "input", path)
        self.output = _only(session.outputs, "output", path)
        # A float output hides its last quantization; the exporter writes its step down.
        step = session.fact("output_step")
        try:
            self.output_step = float(step) if step and step != "null" else None
            self._set_zeros()
        except Exception as error:  # a size, a type or a number that makes no sense
            raise broken(path, "onnxruntime", error) from error


class LiteRtEngine(_Classifier):
    """TFLite files in LiteRT or its forerunner, on the CPU or with a delegate.

    Raises:
        EngineError: no LiteRT is installed, it refuses the file, or the delegate does.
    """

    format = "tflite"

    def __init__(self, path: Path, threads: int, delegate: Delegate | None = None) -> None:
        self._session = session = LiteRtSession(path, threads, delegate)
        self.runtime, self.runtime_version = session.runtime, session.runtime_version
        self.delegate = session.delegate
        names = session.signature()
        self.input = _scaled(_only(session.inputs, "input", path), names[0], path)
        self.output = _scaled(_only(session.outputs, "output", path), names[1], path)
        self.output_step = self.output.scale
        self.tensor_dtypes = session.tensor_dtypes
        self._set_zeros()


def open_model(path: Path, threads: int = 1, delegate: Delegate | None = None) -> Engine:
    """Load an image classifier into the engine that its ending names.

    Args:
        path: an ``.onnx`` or ``.tflite`` file.
        threads: of the engine, at least 1.
        delegate: to hand operators to, of a ``.tflite`` file.

    Raises:
        EngineError: no such file, an ending no engine takes, a missing engine, a file that
            its engine or the delegate refuses, or one that has more than one input or output.
    """
    check_openable(path, threads, delegate)
    if path.suffix == ".onnx":
        return OnnxEngine(path, threads)
    return LiteRtEngine(path, threads, delegate)


def _filled(images: Floats, size: int | None) -> Floats:
    """Return the images with zeros appended until a fixed batch is full."""
    missing = size - len(images) if size else 0
    if not missing:
        return images
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.float32)])


def _only(tensors: tuple[TensorSpec, ...], kind: str, path: Path) -> TensorSpec:
    if len(tensors) != 1:
        raise EngineError(
            f"{path} has {len(tensors)} {kind}s; an image classifier has one. "
            f"Export the network with a single {kind}."
        )
    return tensors[0]


def _scaled(spec: TensorSpec, name: str | None, path: Path) -> TensorSpec:
    """Return a tensor by the name that callers know; integers must say what they mean."""
    own = name or spec.name
    if np.dtype(spec.dtype).kind in "iu" and spec.scale is None:
        raise EngineError(
            f"{path}: tensor {own!r} is {spec.dtype} without a scale, so its values mean "
            f"nothing. Export the file again."
        )
    return replace(spec, name=own)
