"""Weights and activations as trained, 4 bytes a weight: the reference of all others."""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.plan import ANYTHING, Demand, SchemePlan
from pipeline.core.target import Format, Method
from pipeline.quantizers import refuse_format


class Float32:
    """Nothing is quantized."""

    DTYPE: ClassVar[str] = "fp32"
    FORMATS: ClassVar[tuple[Format, ...]] = ("onnx", "tflite")
    NEEDS_CALIBRATION: ClassVar[bool] = False

    @classmethod
    def plan(
        cls,
        file_format: Format,
        demand: Demand = ANYTHING,  # noqa: ARG003
        method: Method = "min-max",  # noqa: ARG003
    ) -> SchemePlan:
        """Plan a float file; there is nothing to ask of integers.

        Raises:
            PareError: the format is unknown.
        """
        refuse_format("float32", file_format, cls.FORMATS)
        return SchemePlan(
            format=file_format,
            scheme="float32",
            dtype=cls.DTYPE,
            weights="float32",
            activations="float32",
            granularity=None,
            input_dtype="float32",
            output_dtype="float32",
            why="nothing is quantized, so the outputs are those of the network",
        )
