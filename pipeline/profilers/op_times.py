"""Operators by time: what each kernel of a file took, told by its own runtime."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.profilers.local import refuse_emulation
from pipeline.runtime.conditions import conditions

_US = 1e-3  # microseconds to milliseconds
_NO_TIMER = (
    "LiteRT's Python package has no timer for single operators. Its benchmark_model has: run "
    "it on the device with --enable_op_profiling=true."
)
_NUMPY = {"float": "float32", "double": "float64"}


class OpTime(Record):
    """One kernel as the runtime ran it, after it fused what it could.

    Attributes:
        name: the runtime's own name for it.
        kernel: operator that ran, such as ``QLinearConv`` where the file has ``Conv``
            between quantize and dequantize.
        median_ms: of all timed runs, measured while the profiler watched.
        share: of the sum of all medians, 0 to 1.
    """

    name: str
    kernel: str
    median_ms: float
    share: float


class OpTimes(Record):
    """All kernels of a file, the slowest first; none where they can't be told apart.

    Attributes:
        why: the reason there is none; empty where there are.
        runs: timed runs, those of the warm-up not counted.
        total_ms: sum of the medians. The profiler's own cost is in it, so it is an upper
            estimate of an inference's time.
        conditions: under which the runs were made.
    """

    ops: tuple[OpTime, ...] = ()
    why: str = ""
    runs: int = 0
    threads: int = 1
    total_ms: float = 0.0
    conditions: dict[str, Any] = Field(default_factory=dict)

    def kernels(self) -> dict[str, int]:
        """Return how often each kernel is in one inference, the most frequent first."""
        return dict(Counter(op.kernel for op in self.ops).most_common())

    def by_kernel(self) -> dict[str, float]:
        """Return the milliseconds of each kernel, all of its calls, the slowest first."""
        found: dict[str, float] = {}
        for op in self.ops:
            found[op.kernel] = found.get(op.kernel, 0.0) + op.median_ms
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def op_times(path: Path, *, runs: int = 30, warmup: int = 5, threads: int = 1) -> OpTimes:
    """Time every kernel of a file on this host, on an input of zeros.

    Args:
        path: an ``.onnx`` or ``.tflite`` file.
        runs: timed inferences, at least 1.
        warmup: inferences before them, thrown away.
        threads: of the engine.

    Raises:
        PareError: this process is emulated, so its time means nothing; the engine is
            missing or refuses the file; or ``runs`` is not at least 1.
    """
    refuse_emulation()
    if runs < 1 or warmup < 0:
        raise PareError(f"runs = {runs}, warmup = {warmup}: at least one run is timed.")
    if path.suffix != ".onnx":
        return OpTimes(why=_NO_TIMER, threads=threads)
    before = conditions()
    events = _traced(path, runs + warmup, threads)
    medians = _medians(events, runs)
    total = sum(ms for _, _, ms in medians)
    return OpTimes(
        ops=tuple(
            OpTime(name=name, kernel=kernel, median_ms=ms, share=ms / total if total else 0.0)
            for name, kernel, ms in sorted(medians, key=lambda found: -found[2])
        ),
        why="" if medians else "onnxruntime ran no kernel: all of it follows from constants.",
        runs=runs,
        threads=threads,
        total_ms=total,
        conditions=before,
    )


def _traced(path: Path, runs: int, threads: int) -> list[Mapping[str, Any]]:
    """Run a file with onnxruntime's own profiler on and return what it wrote down."""
    onnxruntime = _import_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="pare-") as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "trace")
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            feed = {tensor.name: _zeros(tensor) for tensor in session.get_inputs()}
            for _ in range(runs):
                session.run(None, feed)
            trace = Path(session.end_profiling())
        except Exception as error:  # the engine has a dozen unrelated classes for this
            raise PareError(
                f"{path}: onnxruntime can't run it ({error}). Export it again."
            ) from error
        events = json.loads(trace.read_text(encoding="utf-8"))
    return [event for event in events if event.get("cat") == "Node" and "dur" in event]


def _import_onnxruntime() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise PareError(
            "timing ONNX files needs onnxruntime, which is not installed. "
            "Run: pip install onnxruntime"
        ) from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def _zeros(tensor: Any) -> Any:
    import numpy as np

    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    shape = [size if isinstance(size, int) else 1 for size in tensor.shape]
    return np.zeros(shape, _NUMPY.get(kind, kind))


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
