"""External delegates of LiteRT: a vendor's library that takes operators off the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.runtime.tensors import EngineError

#: What LiteRT asks a library for; one without them would end in a complaint of Python's own.
_WANTED = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")


@dataclass(frozen=True)
class Delegate:
    """A library to hand operators to.

    Attributes:
        library: its file.
        options: what it is told, by name; its vendor says which there are.
    """

    library: Path
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, library: str | None, options: str | None) -> Delegate | None:
        """Return the delegate that a command line or an environment names, if any.

        Args:
            library: path of the library; nothing or empty for none.
            options: ``key:value;key:value``, as benchmark_model takes them.

        Raises:
            EngineError: an option without a value, or options without a library.

        >>> Delegate.of("vx.so", "cache:true;path:/tmp/a:b").options
        {'cache': 'true', 'path': '/tmp/a:b'}
        """
        if not library:
            if options:
                raise EngineError(
                    "options of a delegate, and no delegate. Name its library with --delegate."
                )
            return None
        return cls(Path(library), _pairs(options or ""))

    def load(self, interpreters: str) -> Any:
        """Load the library for the interpreters of a module.

        Args:
            interpreters: such as ``ai_edge_litert.interpreter``.

        Raises:
            EngineError: the library is missing, can't be loaded, is no delegate, or refuses.
        """
        if not self.library.is_file():
            raise EngineError(
                f"no delegate at {self.library}. Install its library there, or run without it."
            )
        try:
            # Looked at first: LiteRT's own class complains a second time when it is deleted.
            library = ctypes.CDLL(str(self.library))
        except OSError as error:
            raise EngineError(
                f"the delegate {self.library} cannot be loaded ({error}). It has to be built "
                f"for this system, with its own libraries beside it or in LD_LIBRARY_PATH."
            ) from error
        missing = [name for name in _WANTED if not hasattr(library, name)]
        if missing:
            raise EngineError(
                f"{self.library} is no delegate: it has no {missing[0]}. Name a library made "
                f"for TFLite's external delegates."
            )
        try:
            return import_module(interpreters).load_delegate(
                str(self.library), dict(self.options)
            )
        except (ValueError, RuntimeError) as error:
            raise self.refused(error) from error

    def refused(self, error: Exception) -> EngineError:
        """Return the sentence on a delegate that does not take part."""
        return EngineError(
            f"the delegate {self.library} refuses ({' '.join(str(error).split())}). Check its "
            f"driver, its options and the file, or run without it."
        )


def _pairs(options: str) -> dict[str, str]:
    found = {}
    for one in filter(None, options.split(";")):
        key, colon, value = one.partition(":")
        if not (key and colon):
            raise EngineError(
                f"the option {one!r} of a delegate is not of the form key:value."
            )
        found[key] = value
    return found
