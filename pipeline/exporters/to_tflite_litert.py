"""TFLite by litert-torch and ai-edge-quantizer: PyTorch straight to a file, no TensorFlow."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.core.signature import Signature
from pipeline.core.target import Method
from pipeline.exporters import Images
from pipeline.exporters.converting import TfliteExporter

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ToTfliteLitert(TfliteExporter):
    """Writes TFLite from ``torch.export``; single layers can stay in float."""

    SCHEMES: ClassVar[frozenset[str]] = frozenset(
        {"float32", "float16", "dynamic_range", "int8", "int16x8", "weight_only", "int4"}
    )
    METHODS: ClassVar[tuple[Method, ...]] = ("min-max", "mse")
    SPARSE: ClassVar[bool] = False
    MIXES: ClassVar[bool] = True
    WORKER: ClassVar[str] = "litert_worker"
    EXTRA: ClassVar[str] = "litert"
    MADE_BY: ClassVar[tuple[str, ...]] = ("litert-torch", "ai-edge-quantizer")

    def _source(
        self, model: nn.Module, signature: Signature, images: Images, room: Path
    ) -> Path:
        import torch

        del signature  # the child names what goes in and comes out
        source = room / "source.pt2"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own deprecations here
            program = torch.export.export(model, (torch.from_numpy(images[:1].copy()),))
            torch.export.save(program, source)
        return source
