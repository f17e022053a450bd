"""Weights and activations as trained, 4 bytes a weight: the reference of all others."""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.plan import SchemePlan
from pipeline.core.target import Format, Granularity
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
        granularity: Granularity | None = None,  # noqa: ARG003
    ) -> SchemePlan:
        """Plan a float file; a granularity has nothing to say here.

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
            io_dtype="float32",
            why="nothing is quantized, so the outputs are those of the network",
        )
