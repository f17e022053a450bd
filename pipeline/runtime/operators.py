"""What each operator of a file takes, told by the engine's own profiler."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runtime.sessions import OnnxSession
from pipeline.runtime.tensors import EngineError

NO_TIMER = (
    "LiteRT's Python package has no timer for single operators. Its benchmark_model has: run "
    "it on the device with --enable_op_profiling=true."
)
_US = 1e-3  # microseconds to milliseconds


def operator_times(
    path: Path, folder: Path, *, runs: int = 30, warmup: int = 5, threads: int = 1
) -> dict[str, Any]:
    """Time every kernel of a file on an input of zeros.

    Args:
        path: an ``.onnx`` or ``.tflite`` file.
        folder: an empty one for the engine's own record.
        runs: timed inferences, at least 1.
        warmup: inferences before them, thrown away.
        threads: of the engine.

    Returns:
        ``kernels`` (name, kernel and median ms of each, in the order they ran) and ``why``
        there are none, where there are none.

    Raises:
        EngineError: the engine is missing or refuses the file.
    """
    if path.suffix != ".onnx":
        return {"kernels": [], "why": NO_TIMER}
    medians = _medians(_traced(path, folder, runs + warmup, threads), runs)
    nothing = "onnxruntime ran no kernel: all of it follows from constants."
    return {
        "kernels": [
            {"name": name, "kernel": kernel, "median_ms": ms} for name, kernel, ms in medians
        ],
        "runs": runs,
        "why": "" if medians else nothing,
    }


def _traced(path: Path, folder: Path, runs: int, threads: int) -> list[Mapping[str, Any]]:
    """Run a file with onnxruntime's profiler on and return what it wrote down."""
    session = OnnxSession(path, threads, profile_to=folder / "trace")
    try:
        session.set(
            [
                np.zeros([size or 1 for size in spec.shape], spec.dtype)
                for spec in session.inputs
            ]
        )
        for _ in range(runs):
            session.invoke()
        trace = session.end_trace()
    except Exception as error:  # the engine has a dozen unrelated classes for this
        raise EngineError(
            f"{path}: onnxruntime can't run it ({error}). Export it again."
        ) from error
    events = json.loads(trace.read_text(encoding="utf-8"))
    return [event for event in events if event.get("cat") == "Node" and "dur" in event]


def _medians(events: Iterable[Mapping[str, Any]], runs: int) -> list[tuple[str, str, float]]:
    """Return name, kernel and median milliseconds of each node over the last ``runs``."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        own = event["args"]
        name = str(event["name"]).removesuffix("_kernel_time")
        key = name, str(own["op_name"]), str(own.get("node_index"))  # names may repeat
        found.setdefault(key, []).append(event["dur"] * _US)
    return [
        (name, kernel, statistics.median(times[-runs:]))
        for (name, kernel, _), times in found.items()
    ]
