"""Weights in 1 byte, widened to float before they are used: small, as fast as float."""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.plan import ANYTHING, Demand, SchemePlan
from pipeline.core.target import Format, Method
from pipeline.quantizers import refuse_format


class WeightOnly:
    """A quarter of the bytes; computed in float32, so that only weights are rounded."""

    DTYPE: ClassVar[str] = "w8"
    FORMATS: ClassVar[tuple[Format, ...]] = ("tflite",)
    NEEDS_CALIBRATION: ClassVar[bool] = False

    @classmethod
    def plan(
        cls,
        file_format: Format,
        demand: Demand = ANYTHING,
        method: Method = "min-max",  # noqa: ARG003
    ) -> SchemePlan:
        """Plan a file of integer weights that are dequantized when they are used.

        Raises:
            PareError: the format cannot carry it.
        """
        refuse_format("weight_only", file_format, cls.FORMATS)
        return SchemePlan(
            format=file_format,
            scheme="weight_only",
            dtype=cls.DTYPE,
            weights="int8",
            activations="float32",
            granularity=demand.granularity or "per-channel",
            input_dtype="float32",
            output_dtype="float32",
            why="a quarter of the bytes, and activations as exact as in float32",
        )
