"""What ssh, adb and containers have in common: one command that runs a POSIX script there."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.core.artifact import sha256
from pipeline.core.errors import PareError
from pipeline.profilers.benchmark_model import from_benchmark_model
from pipeline.profilers.transports import Tell, Transport
from pipeline.profilers.transports.payload import archive, explain, script
from pipeline.profilers.transports.talk import Said, talk, time_allowed_s
from pipeline.profilers.transports.wire import checked, plain
from pipeline.runtime.harness import Settings


class Remote(Transport):
    """A machine on which a POSIX shell can be given a script.

    Attributes:
        python: the interpreter over there.
        folder: where the scratch folder is made; ``$TMPDIR`` or ``/tmp`` where it is absent.
        binary: TensorFlow Lite's own ``benchmark_model`` here, built for over there, where
            there is no Python.
    """

    python: str = "python3"
    folder: str | None = None
    binary: Path | None = None

    @abstractmethod
    def command(self, script: str) -> list[str]:
        """Return the program that runs a script there with its own standard input."""

    @abstractmethod
    def blame(self, said: Said) -> str | None:
        """Say why the machine was not reached; ``None`` if that was not the trouble."""

    def measure(self, path: Path, settings: Settings, tell: Tell) -> dict[str, Any]:
        """Send a file and the runtime, measure, and leave nothing there.

        Raises:
            PareError: says whether the way there, the machine or the file is at fault.
        """
        digest = sha256(path)
        if self.binary is not None:
            found = from_benchmark_model(self._say, path, settings, self.binary, self.folder)
            return _named(checked(found, sha256=digest, where=self.name), path)
        payload, name = archive(path)
        text = script(payload, name, settings, python=self.python, folder=self.folder)
        said = self._say(text, payload, tell, time_allowed_s(settings))
        if said.result is None:
            raise PareError(self._trouble(said, path))
        return _named(checked(said.result, sha256=digest, where=self.name), path)

    def _say(self, text: str, payload: bytes, tell: Tell, timeout_s: float) -> Said:
        said = talk(self.command(text), tell=tell, timeout_s=timeout_s, payload=payload)
        error = None if said.error is None else plain(said.error)
        return replace(said, error=error, text=plain(said.text), stderr=plain(said.stderr))

    def _trouble(self, said: Said, path: Path) -> str:
        known = explain(said, self.name) or self.blame(said)
        if known:
            return known
        when = "while it measured" if said.events else "before it measured"
        return (
            f"{self.name}: ended {when} {path.name} (exit code {said.code}): "
            f"{said.stderr[-500:] or 'it said nothing'}. Nothing was kept; try again, or run "
            f"the file there by hand."
        )


def _named(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a result under the name that the file has here."""
    return {**result, "file": {**result["file"], "name": path.name}}
