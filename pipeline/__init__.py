"""pare: from a PyTorch image network and a list of devices to proved ONNX and TFLite files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.core.recipe import Recipe
    from pipeline.stages import run
    from pipeline.stages.standalone import compact_checkpoint

__all__ = ["Recipe", "compact_checkpoint", "run"]
__version__ = "0.1.0"

# Before anything can import onnxruntime, whose newer versions report to their maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that nothing loads early."""
    if name == "Recipe":
        from pipeline.core.recipe import Recipe

        return Recipe
    if name == "compact_checkpoint":
        from pipeline.stages.standalone import compact_checkpoint

        return compact_checkpoint
    if name == "run":
        from pipeline.stages import run

        return run
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
