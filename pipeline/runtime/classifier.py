"""A file and what it says about itself, as one thing: an encoded image in, a class out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.runtime.delegates import Delegate
from pipeline.runtime.engines import open_model
from pipeline.runtime.images import MOST_PIXELS, ImageError, decode, prepare
from pipeline.runtime.metadata import read_metadata
from pipeline.runtime.tensors import EngineError, Floats

FORMATS = ("JPEG", "PNG")  # of Pillow's forty decoders the two that cameras need
LARGEST = 8_000_000  # bytes of an encoded image; 12 megapixels of a camera are 3 to 6 MB
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_SCAN = b"\xff\xda"  # begins a pass over a JPEG's picture; no coded data contains it
_MOST_SCANS = 40  # a progressive JPEG has about ten; each costs a pass over all pixels
_SHOWN = 5  # classes of an answer
_MS = 1e3  # seconds to milliseconds


@dataclass(frozen=True)
class Answer:
    """What a file says of one image.

    Attributes:
        logits: real values, one a class.
        classes: their names.
        seconds: for everything from the encoded image to the logits.
        inference_seconds: of it, what the engine took.
    """

    logits: Floats
    classes: Sequence[str]
    seconds: float
    inference_seconds: float

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Return the softmax of the logits."""
        odds = np.exp(self.logits.astype(np.float64) - float(self.logits.max()))
        shares: npt.NDArray[np.float64] = odds / odds.sum()
        return shares

    def as_json(self) -> dict[str, Any]:
        """Return class, probability, milliseconds and the most probable classes."""
        shares = self.probabilities()
        best = np.argsort(-shares, kind="stable")[:_SHOWN]
        top = [
            {
                "class": self.classes[index],
                "index": int(index),
                "probability": round(float(shares[index]), 6),
            }
            for index in best
        ]
        return {
            **top[0],
            "milliseconds": round(self.seconds * _MS, 3),
            "inference_milliseconds": round(self.inference_seconds * _MS, 3),
            "top": top,
        }


class Classifier:
    """An image classifier that prepares images as its file's metadata says.

    One image at a time: engines are not re-entrant, so that each thread needs its own.

    Args:
        path: an ``.onnx`` or ``.tflite`` file.
        threads: of the engine, at least 1.
        most_pixels: that an image may have.
        delegate: to hand operators to, of a ``.tflite`` file.

    Attributes:
        facts: what the file says about itself.
        classes: their names, or their numbers where the file has no names.
        height: of the images that the file takes, in pixels.
        width: the same.
        channels: 3 or 1.

    Raises:
        EngineError: the file can't be loaded, is no image classifier, or does not say how
            its images are prepared.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        most_pixels: int = MOST_PIXELS,
        delegate: Delegate | None = None,
    ) -> None:
        self.path = path
        self.engine = open_model(path, threads, delegate)
        self.facts = read_metadata(path)
        self.channels, self.height, self.width = _image_shape(path, self)
        self.classes = _classes(path, self)
        self._most_pixels = most_pixels
        try:
            self.logits(np.zeros((self.height, self.width, self.channels), np.uint8))
        except ImageError as error:
            raise EngineError(f"{path}: {error}") from error

    def classify(self, content: bytes) -> Answer:
        """Return what the file says of an encoded image.

        Args:
            content: a JPEG or PNG.

        Raises:
            ImageError: it is something else, broken, or larger than is taken.
            EngineError: the engine fails, or its output is not finite.
        """
        start = time.perf_counter()
        pixels = self.decode(content)
        return self._answer(pixels, start)

    def classify_pixels(self, pixels: npt.NDArray[np.uint8]) -> Answer:
        """Return what the file says of a decoded image ``[height, width, channels]``."""
        return self._answer(pixels, time.perf_counter())

    def decode(self, content: bytes) -> npt.NDArray[np.uint8]:
        """Return an encoded image as ``[height, width, channels]``.

        Raises:
            ImageError: as :meth:`classify` does.
        """
        refuse_strange(content)
        pixels: npt.NDArray[np.uint8] = decode(
            BytesIO(content),
            self.height,
            self.width,
            self.channels,
            formats=FORMATS,
            most_pixels=self._most_pixels,
        )
        return pixels

    def logits(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """Return the real-valued outputs for ``[height, width, channels]``, one a class."""
        found: Floats = self.engine.run(prepare(pixels, self.facts))[0]
        if not np.isfinite(found).all():
            raise EngineError(f"{self.path}: an output is not finite. Export the file again.")
        return found

    def card(self) -> dict[str, Any]:
        """Return what is known of the file and of what runs it."""
        return {
            "file": self.path.name,
            "bytes": self.path.stat().st_size,
            "sha256": digest(self.path),
            "runtime": self.engine.runtime,
            "runtime_version": self.engine.runtime_version,
            "delegate": self.engine.delegate,
            "image": {"height": self.height, "width": self.width, "channels": self.channels},
            "classes": list(self.classes),
            "facts": self.facts,
        }

    def _answer(self, pixels: npt.NDArray[np.uint8], start: float) -> Answer:
        begin = time.perf_counter()
        logits = self.logits(pixels)
        end = time.perf_counter()
        return Answer(logits, self.classes, end - start, end - begin)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, read piece by piece."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def is_image(content: bytes) -> bool:
    """Tell whether bytes begin as a JPEG or PNG does, whatever they were called."""
    return content.startswith((_JPEG, _PNG))


def refuse_strange(content: bytes) -> None:
    """Refuse bytes that no decoder should see.

    A hundred bytes can make a progressive JPEG pass over all its pixels once more.

    Raises:
        ImageError: empty, more than ``LARGEST`` bytes, no JPEG or PNG, or a JPEG of more
            passes than any camera or program writes.
    """
    if not content:
        raise ImageError("the image is empty.")
    if len(content) > LARGEST:
        raise ImageError(
            f"the image has more than {LARGEST:,} bytes, which is not read. Make it smaller."
        )
    if not is_image(content):
        raise ImageError("the image is neither a JPEG nor a PNG.")
    if content.startswith(_JPEG) and content.count(_SCAN) > _MOST_SCANS:
        raise ImageError(f"the image has more than {_MOST_SCANS} scans, as no camera writes.")


def _image_shape(path: Path, classifier: Classifier) -> tuple[int, int, int]:
    """Return channels, height and width, from the file or else from what it says."""
    spec = classifier.engine.input
    said = classifier.facts.get("input_shape")
    shape = list(spec.shape)
    if isinstance(said, list) and len(said) == len(shape):
        shape = [size or told for size, told in zip(shape, said)]
    if len(shape) != 4 or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        raise EngineError(
            f"{path} takes tensors of shape {list(spec.shape)}, which are no images of a "
            f"known size. Export it with a fixed height and width."
        )
    order = (3, 1, 2) if spec.layout == "NHWC" else (1, 2, 3)
    channels, height, width = (int(shape[place] or 0) for place in order)
    if channels not in (1, 3):
        raise EngineError(f"{path} takes {channels} channels; an image has 3 or 1.")
    return channels, height, width


def _classes(path: Path, classifier: Classifier) -> list[str]:
    shape = classifier.engine.output.shape
    if len(shape) != 2 or not shape[1]:
        raise EngineError(f"{path} gives {list(shape)}, which is not one row of classes.")
    named = classifier.facts.get("classes")
    if not isinstance(named, list):
        return [str(number) for number in range(shape[1])]
    if len(named) != shape[1]:
        raise EngineError(
            f"{path} names {len(named)} classes and tells {shape[1]} apart. Export it again."
        )
    return [str(name) for name in named]
