"""Ways to a machine that measures: this one, a board by ssh, a phone by adb, a container.

Each is one file with a class that takes a file and settings, has ``pipeline.runtime``
measure there, and leaves nothing behind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.runtime.harness import Settings

Tell = Callable[[Mapping[str, Any]], None]


class Transport(ABC):
    """One machine that measures.

    Attributes:
        name: as the user gave it, such as ``ssh://pi@kitchen``.
    """

    name: str

    @abstractmethod
    def measure(self, path: Path, settings: Settings, tell: Tell) -> dict[str, Any]:
        """Measure a file there and return what :func:`pipeline.runtime.harness.profile` does.

        Args:
            path: an ``.onnx`` or ``.tflite`` file here.
            settings: how to measure.
            tell: is given each event when it arrives.

        Raises:
            PareError: the machine can't be reached or can't measure; it says what to do.
        """
