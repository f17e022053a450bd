"""This machine, in a process of its own."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.core.errors import PareError
from pipeline.profilers.transports import Tell, Transport
from pipeline.profilers.transports.talk import talk, time_allowed_s
from pipeline.runtime import __main__ as program
from pipeline.runtime.harness import Settings

_ROOT = Path(__file__).resolve().parents[3]


class Local(Transport):
    """Measures on this machine; transfers nothing."""

    name = "local"

    def measure(self, path: Path, settings: Settings, tell: Tell) -> dict[str, Any]:
        """Measure a file in a child process, which ends if this one does.

        Raises:
            PareError: the file can't be run, or the child died.
        """
        # -P: what lies in the current folder must not stand in for numpy. An empty delegate:
        # figures are the CPU's, whatever PARE_DELEGATE says.
        argv = [
            sys.executable, "-P", "-m", str(program.__package__), "bench", "--lifeline",
            "--delegate=", "--settings", json.dumps(asdict(settings)), "--",
            str(path.resolve()),
        ]  # fmt: skip
        said = talk(argv, tell=tell, timeout_s=time_allowed_s(settings), env=_environment())
        if said.error:
            raise PareError(said.error)
        if said.result is None:
            raise PareError(
                f"measuring {path} ended without a result (exit code {said.code}): "
                f"{said.stderr[-500:] or 'it said nothing'}. The engine may have crashed on "
                f"the file; `pare inspect --no-time {path}` looks into it without running it."
            )
        return said.result


def _environment() -> dict[str, str]:
    """Return this process's environment, and where this package is found."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
