"""What surrounds an inference: loading from disk, the image before it, the class after it."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runtime import bench
from pipeline.runtime.metadata import read_metadata
from pipeline.runtime.sessions import Session
from pipeline.runtime.tensors import EngineError

CAMERA = (640, 480)  # width and height of the JPEG that is decoded
_RUNS = 30


def drop_from_cache(path: Path) -> bool:
    """Ask the kernel to forget a file's pages, so that the next load reads the disk.

    Returns:
        Whether the kernel took the advice; it needs no privilege.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    try:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        return False
    return True


def around(path: Path, session: Session) -> dict[str, Any]:
    """Time what is done before and after an inference, apart from it.

    Returns:
        Medians in ms of ``decode`` (a 640 x 480 JPEG to the file's size), ``prepare``
        (normalised, as the file stores it) and ``interpret`` (the class with the highest
        probability), or ``why`` there are none.
    """
    try:
        steps = _steps(path, session)
    except (EngineError, ImportError, ValueError) as error:
        return {"why": str(error)}
    medians = {
        name: bench.measure(step, warmup_runs=3, warmup_s=0, runs=_RUNS).median_ms
        for name, step in steps.items()
    }
    return {"jpeg": "x".join(map(str, CAMERA)), "runs": _RUNS, "median_ms": medians}


def _steps(path: Path, session: Session) -> dict[str, Callable[[], object]]:
    if len(session.inputs) != 1 or len(session.outputs) != 1:
        raise EngineError("only one image in and one row of logits out can be prepared")
    into, out = session.inputs[0], session.outputs[0]
    facts = read_metadata(path)
    shape = [size or 1 for size in into.shape]
    if len(shape) != 4 or len(out.shape) != 2:
        raise EngineError("its tensors are not those of an image classifier")
    height, width, channels = shape[1:] if into.layout == "NHWC" else [*shape[2:], shape[1]]
    from pipeline.runtime.images import ImageError, decode, prepare

    jpeg = _jpeg()
    try:
        pixels = decode(BytesIO(jpeg), height, width, channels)
        images = prepare(pixels, facts)
    except ImageError as error:
        raise EngineError(str(error)) from error

    def prepared() -> object:
        shown = prepare(pixels, facts)
        laid = shown.transpose(0, 2, 3, 1) if into.layout == "NHWC" else shown
        return np.ascontiguousarray(into.encode(laid))

    def interpreted() -> object:
        logits = out.decode(session.get()[0])
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (odds / odds.sum(axis=1, keepdims=True)).argmax(axis=1)

    assert images.ndim == 4
    return {
        "decode": lambda: decode(BytesIO(jpeg), height, width, channels),
        "prepare": prepared,
        "interpret": interpreted,
    }


def _jpeg() -> bytes:
    """Return a photograph-like JPEG: smooth, with some noise, the same every time."""
    from PIL import Image

    width, height = CAMERA
    across = np.linspace(0, 255, width)[None, :, None]
    down = np.linspace(0, 255, height)[:, None, None]
    noise = np.random.RandomState(0).normal(0, 12, (height, width, 3))
    pixels = np.clip((across + down) / 2 + noise, 0, 255).astype(np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=90)
    return content.getvalue()
