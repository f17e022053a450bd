"""The tensors of a file as it stores them, and the error of this room.

This room ships to devices: it imports numpy, the standard library and the one engine that
the file asks for, and nothing else of this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]


class EngineError(Exception):
    """What keeps this program from its work: what is wrong, where, and what to do next."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a file.

    ``real = (stored - zero_point) * scale`` where ``dtype`` is an integer type. A ``None``
    in ``shape`` is chosen at each call.

    >>> TensorSpec("x", (1, 2), "int8", scale=0.5, zero_point=-1).encode(
    ...     np.float32([0.0, 0.5, 1000.0])
    ... ).tolist()
    [-1, 0, 127]
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    layout: str = ""

    def encode(self, values: Floats) -> npt.NDArray[Any]:
        """Return real values as this tensor stores them, clipped to what its type holds."""
        kind = np.dtype(self.dtype)
        if self.scale is None or self.zero_point is None:
            return values.astype(kind, copy=False)
        limits = np.iinfo(kind)
        stored = np.rint(values / np.float32(self.scale)) + self.zero_point
        clipped: npt.NDArray[Any] = np.clip(stored, limits.min, limits.max)
        return clipped.astype(kind)

    def decode(self, stored: npt.NDArray[Any]) -> Floats:
        """Return stored values as real numbers."""
        if self.scale is None or self.zero_point is None:
            return stored.astype(np.float32, copy=False)
        steps = stored.astype(np.int64) - self.zero_point
        return steps.astype(np.float32) * np.float32(self.scale)
