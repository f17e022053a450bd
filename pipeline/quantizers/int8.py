"""Weights and activations in 1 byte, their ranges taken from calibration images."""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.plan import SchemePlan
from pipeline.core.target import Format, Granularity
from pipeline.quantizers import refuse_format


class Int8:
    """Integers throughout: weights symmetric, activations with a zero point.

    Source:
        Jacob et al., CVPR 2018 (arXiv:1712.05877), with a scale for each output channel
        of a weight as in Krishnamoorthi 2018 (arXiv:1806.08342).
    """

    DTYPE: ClassVar[str] = "int8"
    FORMATS: ClassVar[tuple[Format, ...]] = ("onnx", "tflite")
    NEEDS_CALIBRATION: ClassVar[bool] = True

    @classmethod
    def plan(cls, file_format: Format, granularity: Granularity | None = None) -> SchemePlan:
        """Plan an integer file.

        A TFLite file takes and gives integers, as accelerators and microcontrollers want.
        An ONNX file keeps float input and output and quantizes inside.

        Raises:
            PareError: the format is unknown.
        """
        refuse_format("int8", file_format, cls.FORMATS)
        return SchemePlan(
            format=file_format,
            scheme="int8",
            dtype=cls.DTYPE,
            weights="int8",
            activations="int8",
            granularity=granularity or "per-channel",
            io_dtype="int8" if file_format == "tflite" else "float32",
            why=_WHY[granularity or "per-channel"],
        )


_WHY: dict[Granularity, str] = {
    "per-channel": "a scale for each output channel keeps narrow channels accurate",
    "per-tensor": "one scale a weight, as the target asks; costs some accuracy",
}
