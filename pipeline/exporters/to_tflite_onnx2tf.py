"""TFLite by onnx2tf and TensorFlow: PyTorch to ONNX to Keras to a file a scheme."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.core.signature import Signature
from pipeline.core.target import Method
from pipeline.exporters import Images
from pipeline.exporters.converting import TfliteExporter
from pipeline.exporters.to_onnx import export_float32

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ToTfliteOnnx2Tf(TfliteExporter):
    """Writes TFLite by TensorFlow's own converter, the reference of the format."""

    SCHEMES: ClassVar[frozenset[str]] = frozenset(
        {"float32", "float16", "dynamic_range", "int8", "int16x8"}
    )
    METHODS: ClassVar[tuple[Method, ...]] = ("min-max",)
    SPARSE: ClassVar[bool] = True
    MIXES: ClassVar[bool] = False
    WORKER: ClassVar[str] = "onnx2tf_worker"
    EXTRA: ClassVar[str] = "onnx2tf"
    MADE_BY: ClassVar[tuple[str, ...]] = ("onnx2tf", "tensorflow")

    def _source(
        self, model: nn.Module, signature: Signature, images: Images, room: Path
    ) -> Path:
        source = room / "source.onnx"
        export_float32(model, signature, source, self.opset, images)
        return source
