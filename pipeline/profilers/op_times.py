"""Operators by time: what each kernel of a file took, told by its own runtime."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.profilers.measurement import refuse_emulation
from pipeline.profilers.operator_table import by_kernel_ms
from pipeline.runtime.conditions import conditions
from pipeline.runtime.operators import operator_times
from pipeline.runtime.tensors import EngineError


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
        return by_kernel_ms((op.kernel, op.median_ms) for op in self.ops)


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
    before = conditions()
    with tempfile.TemporaryDirectory(prefix="pare-") as folder:
        try:
            found = operator_times(
                path, Path(folder), runs=runs, warmup=warmup, threads=threads
            )
        except EngineError as error:
            raise PareError(str(error)) from error
    medians = [(k["name"], k["kernel"], k["median_ms"]) for k in found["kernels"]]
    total = sum(ms for _, _, ms in medians)
    return OpTimes(
        ops=tuple(
            OpTime(name=name, kernel=kernel, median_ms=ms, share=ms / total if total else 0.0)
            for name, kernel, ms in sorted(medians, key=lambda found: -found[2])
        ),
        why=found["why"],
        runs=runs,
        threads=threads,
        total_ms=total,
        conditions=before,
    )
