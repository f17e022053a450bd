"""pare: from a PyTorch image network and a list of devices to proved ONNX and TFLite files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.core.recipe import Recipe
    from pipeline.stages import run

__all__ = ["Recipe", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the two public names when they are asked for, so that nothing loads early."""
    if name == "Recipe":
        from pipeline.core.recipe import Recipe

        return Recipe
    if name == "run":
        from pipeline.stages import run

        return run
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
