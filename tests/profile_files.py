"""Profiles as `pare profile` writes them, of one small file, with some figures changed."""

from __future__ import annotations

import copy
import functools
import tempfile
from pathlib import Path
from typing import Any

from tiny_files import tflite_file

from pipeline.core.target import Target
from pipeline.profilers.profile import profile
from pipeline.profilers.transports import Tell, Transport
from pipeline.runtime import harness
from pipeline.runtime.harness import Settings

QUICK = Settings(
    threads=4, warmup_runs=1, warmup_s=0, runs=100, seconds=0, repeats=2, operators=False
)


class Here(Transport):
    """This very process, said to be a Raspberry Pi 4."""

    name = "ssh://pi@kitchen"

    def measure(self, path: Path, settings: Settings, tell: Tell) -> dict[str, Any]:
        found = harness.profile(path, settings, tell)
        for moment in ("before", "after"):
            found["conditions"][moment] |= {"machine": "aarch64", "cpu_parts": ["0xd08"]}
        return found


def profile_json(**changes: Any) -> dict[str, Any]:
    """Return a profile as plain data; ``a__b`` changes the key b of the table a."""
    found = copy.deepcopy(_base())
    for key, value in changes.items():
        *tables, last = key.split("__")
        table = found
        for name in tables:
            table = table[name]
        table[last] = value
    return found


@functools.cache
def _base() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = tflite_file(Path(folder) / "a.tflite")
        return profile(path, Target.load("raspberry-pi-4b"), Here(), QUICK).plain()
