"""Weights and activations in 1 byte, their ranges taken from calibration images."""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.plan import ANYTHING, Demand, SchemePlan
from pipeline.core.target import Format, Granularity, Method
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
    def plan(
        cls, file_format: Format, demand: Demand = ANYTHING, method: Method = "min-max"
    ) -> SchemePlan:
        """Plan an integer file.

        A TFLite file takes and gives integers, as accelerators and microcontrollers want,
        unless float or unsigned bytes are asked for. An ONNX file keeps float input and
        output and quantizes inside.

        Raises:
            PareError: the format is unknown.
        """
        refuse_format("int8", file_format, cls.FORMATS)
        granularity = demand.granularity or "per-channel"
        border = "float32" if file_format == "onnx" else demand.io_dtype or "int8"
        activations = demand.activations or "int8"
        return SchemePlan(
            format=file_format,
            scheme="int8",
            variant=_variant(file_format, granularity, border, activations),
            dtype=cls.DTYPE,
            weights="int8",
            activations=activations,
            granularity=granularity,
            input_dtype=border,
            output_dtype=border,
            method=method,
            why=_WHY[granularity],
        )


def _variant(
    file_format: Format, granularity: Granularity, border: str, activations: str
) -> str:
    """Name what differs from a signed file with a scale a channel."""
    parts = {
        "per-tensor": granularity == "per-tensor",
        "u8s8": activations == "uint8",
        f"{border}-io": file_format == "tflite" and border != "int8",
    }
    return "-".join(name for name, differs in parts.items() if differs)


_WHY: dict[Granularity, str] = {
    "per-channel": "a scale for each output channel keeps narrow channels accurate",
    "per-tensor": "one scale a weight, as the target asks; costs some accuracy",
}
