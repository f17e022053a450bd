"""Weights in 1 byte, activations in float32 between the layers; needs no calibration."""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.plan import ANYTHING, Demand, SchemePlan
from pipeline.core.target import Format, Method
from pipeline.quantizers import refuse_format


class DynamicRange:
    """A quarter of the bytes without a calibration set.

    Each layer quantizes its input by the range of that very input. TFLite only: the same
    idea in ONNX runs convolutional networks about twenty times slower than float32.
    """

    DTYPE: ClassVar[str] = "dynamic"
    FORMATS: ClassVar[tuple[Format, ...]] = ("tflite",)
    NEEDS_CALIBRATION: ClassVar[bool] = False

    @classmethod
    def plan(
        cls,
        file_format: Format,
        demand: Demand = ANYTHING,
        method: Method = "min-max",  # noqa: ARG003
    ) -> SchemePlan:
        """Plan a file with integer weights and float activations.

        Raises:
            PareError: the format cannot carry it.
        """
        refuse_format("dynamic_range", file_format, cls.FORMATS)
        return SchemePlan(
            format=file_format,
            scheme="dynamic_range",
            dtype=cls.DTYPE,
            weights="int8",
            activations="float32",
            granularity=demand.granularity or "per-channel",
            input_dtype="float32",
            output_dtype="float32",
            why="a quarter of the bytes uncalibrated; layers under 1024 weights stay float",
        )
