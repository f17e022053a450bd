"""A camera or a video stream, read by OpenCV where that is installed: one line a frame."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runtime.classifier import Classifier
from pipeline.runtime.delegates import Delegate
from pipeline.runtime.images import fitted
from pipeline.runtime.predicting import tell
from pipeline.runtime.stopping import asked_to_stop
from pipeline.runtime.tensors import EngineError

_DEVICE = re.compile(r"/dev/video(\d+)")
_STREAM = re.compile(r"(rtsp|rtsps)://\S+")


def run(
    path: Path,
    source: str,
    threads: int,
    every_s: float,
    once: bool,
    delegate: Delegate | None = None,
) -> int:
    """Classify frames until asked to stop.

    Args:
        path: the file.
        source: ``/dev/video0`` or ``rtsp://...``.
        threads: of the engine.
        every_s: at least so long between two frames; those between are dropped.
        once: stop after one frame.
        delegate: to hand operators to.

    Raises:
        EngineError: the file can't be loaded or run, OpenCV is missing, or the camera can't
            be opened or gives no more frames.
    """
    classifier = Classifier(path, threads, delegate=delegate)
    with asked_to_stop() as stop:
        for number, frame in enumerate(frames(source, every_s)):
            if stop.is_set():
                break
            pixels = shown(frame, classifier)
            found = classifier.classify_pixels(pixels).as_json()
            tell({"frame": number, **found, "delegate": classifier.engine.delegate})
            if once:
                break
    return 0


def frames(source: str, every_s: float) -> Iterator[Any]:
    """Yield frames as OpenCV has them, the newest each time.

    Frames that came meanwhile are taken and thrown away: a queue of old ones would make
    every answer later than the one before.

    Raises:
        EngineError: as :func:`run` does. A URL is never repeated, since it may hold a
            password.
    """
    device = _DEVICE.fullmatch(source)
    if not device and not _STREAM.fullmatch(source):
        raise EngineError("--source takes /dev/video0, another number, or rtsp://...")
    try:
        cv2 = import_module("cv2")
    except ModuleNotFoundError as error:
        raise EngineError(
            "--source needs OpenCV, which is not installed. Run: "
            "pip install opencv-python-headless"
        ) from error
    name = source if device else "the stream"
    capture = cv2.VideoCapture(int(device[1]) if device else source)
    try:
        if not capture.isOpened():
            raise EngineError(f"{name} cannot be opened. Check that it is there and free.")
        while True:
            yield _newest(capture, every_s, name)
    finally:
        capture.release()


def shown(frame: Any, classifier: Classifier) -> Any:
    """Return a frame (blue, green, red) as training saw images: resized and cut the same."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame[:, :, ::-1]))
    image = image if classifier.channels == 3 else image.convert("L")
    return fitted(image, classifier.height, classifier.width)


def _newest(capture: Any, every_s: float, name: str) -> Any:
    begin = time.monotonic()
    while True:
        if not capture.grab():
            raise EngineError(f"{name} gives no more frames. Start again when it is back.")
        if time.monotonic() - begin >= every_s:
            break
    taken, frame = capture.retrieve()
    if not taken or frame is None or frame.ndim != 3:
        raise EngineError(f"{name} gave a frame that is no colour image.")
    return frame
