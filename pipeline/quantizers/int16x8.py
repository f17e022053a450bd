"""Activations in 2 bytes, weights in 1: accurate, and slow on most processors."""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.plan import ANYTHING, Demand, SchemePlan
from pipeline.core.target import Format, Method
from pipeline.quantizers import refuse_format


class Int16X8:
    """Integers throughout, finer where they travel between layers.

    For networks whose activations span too much for 256 steps and devices that take no
    float. Reference kernels run it on a CPU, tens of times slower than float32.

    Source:
        TensorFlow Lite, "16-bit activations with 8-bit weights", quantization spec 2020.
    """

    DTYPE: ClassVar[str] = "int16x8"
    FORMATS: ClassVar[tuple[Format, ...]] = ("tflite",)
    NEEDS_CALIBRATION: ClassVar[bool] = True

    @classmethod
    def plan(
        cls,
        file_format: Format,
        demand: Demand = ANYTHING,
        method: Method = "min-max",
    ) -> SchemePlan:
        """Plan a file with 16-bit activations, symmetric around zero.

        Raises:
            PareError: the format cannot carry it.
        """
        refuse_format("int16x8", file_format, cls.FORMATS)
        return SchemePlan(
            format=file_format,
            scheme="int16x8",
            dtype=cls.DTYPE,
            weights="int8",
            activations="int16",
            granularity=demand.granularity or "per-channel",
            input_dtype="int16",
            output_dtype="int16",
            method=method,
            why="256 times finer activations; slow wherever there are no kernels for it",
        )
