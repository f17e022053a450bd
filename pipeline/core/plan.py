"""The quantization plan: what each file's numbers will be, before any file is made."""

from __future__ import annotations

from typing import Literal

from pipeline.core.record import Record
from pipeline.core.target import Format, Granularity, Method

Stored = Literal["float32", "float16", "int16", "int8", "uint8", "int4"]
Border = Literal["int8", "uint8", "float32"]
Integer = Literal["int8", "uint8"]


class Demand(Record):
    """What a target asks of a file's integers; ``None`` leaves it to the scheme.

    Attributes:
        granularity: one scale for a whole weight, or one for each of its output channels.
        io_dtype: type of the file's input and output.
        activations: integer type that layers hand to each other. x86 multiplies unsigned by
            signed bytes, Arm signed by signed.
    """

    granularity: Granularity | None = None
    io_dtype: Border | None = None
    activations: Integer | None = None


#: Where nobody asks for anything.
ANYTHING = Demand()


class Kept(Record):
    """A layer that stays in float in a file of integers.

    Attributes:
        layer: its name in the network.
        why: the figure that decided.
    """

    layer: str
    why: str


class SchemePlan(Record):
    """How one file stores its numbers.

    Attributes:
        format: what the file is.
        scheme: key of the scheme, part of the file's name.
        variant: what sets the file apart from the scheme's plain one, part of its name.
        dtype: the word that targets use for it.
        weights: type of the stored weights.
        activations: type the layers hand to each other.
        granularity: one scale for a whole weight or one for each of its output channels;
            ``None`` where nothing is scaled.
        input_dtype: type of the file's input.
        output_dtype: type of the file's output.
        method: how the ranges of activations are taken; ``None`` without calibration.
        kept: layers that stay in float, whatever the scheme says.
        why: the reason, for the report.
    """

    format: Format
    scheme: str
    variant: str = ""
    dtype: str
    weights: Stored
    activations: Stored
    granularity: Granularity | None
    input_dtype: Stored
    output_dtype: Stored
    method: Method | None = None
    kept: tuple[Kept, ...] = ()
    why: str

    @property
    def name(self) -> str:
        """Scheme and variant, such as ``int8-per-tensor``: one file of a format."""
        return f"{self.scheme}-{self.variant}" if self.variant else self.scheme

    @property
    def file_name(self) -> str:
        """Name of the file that carries it, such as ``model.int8.tflite``."""
        return f"model.{self.name}.{self.format}"

    def for_pixels(self) -> SchemePlan:
        """Return the plan of the same file that takes raw pixels from 0 to 255.

        They come as bytes, except where a TFLite file computes its first layers in float.
        """
        takes_bytes = self.format == "onnx" or self.input_dtype in ("int8", "uint8")
        return self.model_copy(update={"input_dtype": "uint8"}) if takes_bytes else self

    @property
    def is_calibrated(self) -> bool:
        """True where the ranges of activations come from calibration images."""
        return self.activations in ("int8", "uint8", "int16")


class Calibration(Record):
    """What the ranges of an integer file were taken from.

    Attributes:
        count: images.
        seed: with which they were drawn.
        split: they were drawn from, never the one that accuracy is measured on; ``noise``
            where random data was asked for by name.
        method: how ranges are taken, where the converter offers it.
        class_histogram: images of each class, by its name; empty for noise.
        minimum: smallest value after normalisation.
        maximum: largest value after normalisation.
        sha256: of the shape and the values, float32.
    """

    count: int
    seed: int
    split: str
    method: Method = "min-max"
    class_histogram: dict[str, int]
    minimum: float
    maximum: float
    sha256: str

    @property
    def words(self) -> str:
        """Say what it is in a line, for the metadata of a file."""
        what = "random noise" if self.split == "noise" else f"images of the {self.split} split"
        return f"{self.count} {what}, sha256 {self.sha256}"
