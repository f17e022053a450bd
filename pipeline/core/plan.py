"""The quantization plan: what each file's numbers will be, before any file is made."""

from __future__ import annotations

from typing import Literal

from pipeline.core.record import Record
from pipeline.core.target import Format, Granularity

Stored = Literal["float32", "float16", "int8"]


class SchemePlan(Record):
    """How one file stores its numbers.

    Attributes:
        format: what the file is.
        scheme: key of the scheme, part of the file's name.
        dtype: the word that targets use for it.
        weights: type of the stored weights.
        activations: type the layers hand to each other.
        granularity: one scale for a whole weight or one for each of its output channels;
            ``None`` where nothing is scaled.
        io_dtype: type of the file's input and output.
        why: the reason, for the report.
    """

    format: Format
    scheme: str
    dtype: str
    weights: Stored
    activations: Stored
    granularity: Granularity | None
    io_dtype: Stored
    why: str

    @property
    def file_name(self) -> str:
        """Name of the file that carries it, such as ``model.int8.tflite``."""
        return f"model.{self.scheme}.{self.format}"


class Calibration(Record):
    """What the ranges of an integer file were taken from.

    Attributes:
        count: images.
        seed: with which they were drawn.
        split: they were drawn from; never the one that accuracy is measured on.
        class_histogram: images of each class, by its name.
        minimum: smallest value after normalisation.
        maximum: largest value after normalisation.
        sha256: of the shape and the values, float32.
    """

    count: int
    seed: int
    split: str
    class_histogram: dict[str, int]
    minimum: float
    maximum: float
    sha256: str
