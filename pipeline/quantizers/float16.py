"""Weights in 2 bytes, computed in float32 where the processor has no half precision."""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.plan import ANYTHING, Demand, SchemePlan
from pipeline.core.target import Format, Method
from pipeline.quantizers import refuse_format


class Float16:
    """Half the bytes at almost no loss.

    TFLite widens the weights once, when it loads the file. onnxruntime lacks most kernels of
    half precision on a CPU and converts back and forth: its file is smaller, not faster.
    """

    DTYPE: ClassVar[str] = "fp16"
    FORMATS: ClassVar[tuple[Format, ...]] = ("onnx", "tflite")
    NEEDS_CALIBRATION: ClassVar[bool] = False

    @classmethod
    def plan(
        cls,
        file_format: Format,
        demand: Demand = ANYTHING,  # noqa: ARG003
        method: Method = "min-max",  # noqa: ARG003
    ) -> SchemePlan:
        """Plan a file with half-precision weights; there is nothing to ask of integers.

        Raises:
            PareError: the format cannot carry it.
        """
        refuse_format("float16", file_format, cls.FORMATS)
        return SchemePlan(
            format=file_format,
            scheme="float16",
            dtype=cls.DTYPE,
            weights="float16",
            activations="float32" if file_format == "tflite" else "float16",
            granularity=None,
            input_dtype="float32",
            output_dtype="float32",
            why=_WHY[file_format],
        )


_WHY: dict[Format, str] = {
    "onnx": "half the bytes; where kernels are missing onnxruntime computes in float32",
    "tflite": "half the bytes; processors without half precision widen once at load",
}
