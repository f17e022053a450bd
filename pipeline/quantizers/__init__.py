"""Quantization schemes: what a file's numbers are, planned before any file is made.

One file of this room is one scheme; its name is the scheme's key and part of the file
name that an exporter writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import PareError
from pipeline.core.plan import ANYTHING, Calibration, Demand, SchemePlan
from pipeline.core.target import Format, Method


class Quantizer(Protocol):
    """One scheme. The class stands in the file of its key and holds no state."""

    DTYPE: ClassVar[str]
    FORMATS: ClassVar[tuple[Format, ...]]
    NEEDS_CALIBRATION: ClassVar[bool]

    @classmethod
    def plan(
        cls, file_format: Format, demand: Demand = ANYTHING, method: Method = "min-max"
    ) -> SchemePlan:
        """Decide how a file stores its numbers.

        Args:
            file_format: what the file is.
            demand: what the target asks for; what it leaves open is the scheme's choice.
            method: how the ranges of activations are taken, where they are calibrated.

        Raises:
            PareError: no file of this format can carry the scheme.
        """
        ...


def describe(
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    seed: int,
    split: str = "train",
    method: Method = "min-max",
) -> Calibration:
    """Record which images calibrate a file.

    Args:
        images: normalised, ``[n, c, h, w]``.
        labels: ``[n]``, positions in ``classes``.
        classes: the names, in the order of the logits.
        seed: with which the images were drawn.
        split: they were drawn from.
        method: how ranges are taken from them.

    Raises:
        PareError: there are no images, or a value is not finite.
    """
    if not len(images):
        raise PareError("calibration: there are no images. Raise quantize.calibration_images.")
    if not np.isfinite(images).all():
        raise PareError(
            "calibration: an image holds a value that is not finite. "
            "Check mean and std of the data set."
        )
    counts = np.bincount(labels, minlength=len(classes))
    content = np.ascontiguousarray(images, np.float32)
    seen = hashlib.sha256(repr(content.shape).encode())
    seen.update(content.tobytes())
    return Calibration(
        count=len(images),
        seed=seed,
        split=split,
        method=method,
        class_histogram={n: int(c) for n, c in zip(classes, counts, strict=True)},
        minimum=float(images.min()),
        maximum=float(images.max()),
        sha256=seen.hexdigest(),
    )


def refuse_format(scheme: str, file_format: str, formats: Sequence[str]) -> None:
    """Refuse a format that cannot carry a scheme.

    Raises:
        PareError: ``file_format`` is not among ``formats``; names those that are.
    """
    if file_format not in formats:
        raise PareError(
            f"scheme {scheme!r} cannot be written as {file_format!r}. "
            f"Use {' or '.join(formats)}, or another scheme."
        )
