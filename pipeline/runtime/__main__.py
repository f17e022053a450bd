"""The program that measures a file: ``python -m pipeline.runtime bench FILE``.

It prints one JSON object a line: events while it measures, and at the very end the result
(``"event": "result"``) or one sentence on what went wrong (``"event": "error"``). Without
that last line nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_REFUSED = 2


def main(arguments: list[str] | None = None) -> int:
    """Measure one file and print what was found; return the exit code."""
    parser = argparse.ArgumentParser(prog="pare-runtime", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench", help="measure a file on this machine")
    bench.add_argument("file", type=Path, help="an .onnx or .tflite file")
    bench.add_argument("--settings", default="{}", help="how to measure, as JSON")
    bench.add_argument(
        "--lifeline", action="store_true", help="stop when the standard input is closed"
    )
    chosen = parser.parse_args(arguments)
    if chosen.lifeline:
        _hold_on_to_stdin()
    return _bench(chosen.file, chosen.settings)


def _bench(path: Path, settings: str) -> int:
    try:
        from pipeline.runtime.harness import Settings, profile
        from pipeline.runtime.tensors import EngineError
    except ModuleNotFoundError as error:
        needed = f"{error.name} is not installed; the runtime needs it. Install {error.name}."
        _tell({"event": "error", "message": needed})
        return _REFUSED
    try:
        result = profile(path, Settings.of(settings), _tell)
    except EngineError as error:
        _tell({"event": "error", "message": str(error)})
        return _REFUSED
    _tell({"event": "result", "result": result})
    return 0


def _tell(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _hold_on_to_stdin() -> None:
    """End this process when whoever started it is gone, so that no board works on alone."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)  # from a thread: sys.exit would end only this one

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
