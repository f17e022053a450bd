"""Weights in half a byte where there are kernels for it, activations in 1 byte."""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.plan import ANYTHING, Demand, SchemePlan
from pipeline.core.target import Format, Method
from pipeline.quantizers import refuse_format


class Int4:
    """Convolutions and dense layers with 15 values a weight; depthwise layers keep 255.

    Trained networks lose accuracy by it, narrow ones much: what is lost is measured.

    Source:
        LiteRT quantization: 4-bit weights of CONV_2D and FULLY_CONNECTED.
    """

    DTYPE: ClassVar[str] = "int4"
    FORMATS: ClassVar[tuple[Format, ...]] = ("tflite",)
    NEEDS_CALIBRATION: ClassVar[bool] = True

    @classmethod
    def plan(
        cls,
        file_format: Format,
        demand: Demand = ANYTHING,
        method: Method = "min-max",
    ) -> SchemePlan:
        """Plan a file of 4-bit weights with a scale for each output channel.

        Raises:
            PareError: the format cannot carry it.
        """
        refuse_format("int4", file_format, cls.FORMATS)
        border = demand.io_dtype or "int8"
        return SchemePlan(
            format=file_format,
            scheme="int4",
            variant="" if border == "int8" else f"{border}-io",
            dtype=cls.DTYPE,
            weights="int4",
            activations="int8",
            granularity="per-channel",
            input_dtype=border,
            output_dtype=border,
            method=method,
            why="an eighth of the bytes of the weights that take it",
        )
