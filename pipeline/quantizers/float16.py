"""Weights in 2 bytes, computed in float32 where the processor has no half precision."""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.plan import SchemePlan
from pipeline.core.target import Format, Granularity
from pipeline.quantizers import refuse_format


class Float16:
    """Half the bytes at almost no loss.

    TFLite only: a half-precision ONNX file asks onnxruntime's CPU for kernels that it
    mostly lacks, and it would convert back and forth at every layer.
    """

    DTYPE: ClassVar[str] = "fp16"
    FORMATS: ClassVar[tuple[Format, ...]] = ("tflite",)
    NEEDS_CALIBRATION: ClassVar[bool] = False

    @classmethod
    def plan(
        cls,
        file_format: Format,
        granularity: Granularity | None = None,  # noqa: ARG003
    ) -> SchemePlan:
        """Plan a file with half-precision weights; a granularity has nothing to say here.

        Raises:
            PareError: the format cannot carry it.
        """
        refuse_format("float16", file_format, cls.FORMATS)
        return SchemePlan(
            format=file_format,
            scheme="float16",
            dtype=cls.DTYPE,
            weights="float16",
            activations="float32",
            granularity=None,
            io_dtype="float32",
            why="half the bytes; processors without half precision widen once at load",
        )
