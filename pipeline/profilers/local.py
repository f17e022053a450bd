"""Measure a file on this machine, with the conditions it was measured under."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.core.errors import PareError
from pipeline.core.measure import Measure
from pipeline.core.record import Record
from pipeline.runtime.bench import Timing, measure
from pipeline.runtime.conditions import conditions, emulation
from pipeline.runtime.engines import open_model
from pipeline.runtime.tensors import EngineError


class Latency(Record):
    """One file at one thread count. A percentile that n can't support is ``None``.

    Attributes:
        median: with its 95 % bootstrap interval.
        p90_claim: what may be claimed as p90 with 99 % confidence, above the observed p90.
        samples_ms: every timed run, in order.
    """

    threads: int
    median: Measure
    mean: Measure
    minimum: Measure
    p90: Measure | None
    p95: Measure | None
    p90_claim: Measure | None
    std_ms: float
    samples_ms: tuple[float, ...]


class Local(Record):
    """Times files on this host; transfers nothing.

    Attributes:
        warmup_runs: at least so many runs are thrown away.
        warmup_s: and at least so many seconds of them.
        runs: timed runs; a p90 needs 64, a p95 needs 130.
    """

    warmup_runs: int = Field(default=10, ge=1)
    warmup_s: float = Field(default=0.2, ge=0)
    runs: int = Field(default=100, ge=1)

    def measure(self, path: Path, threads: Sequence[int] = (1,)) -> list[Latency]:
        """Time one inference of a file, once for each thread count, in that order.

        Raises:
            PareError: this process is emulated, so its time means nothing; or the file
                can't be opened.
        """
        refuse_emulation()
        return [self._at(path, count) for count in threads]

    def _at(self, path: Path, threads: int) -> Latency:
        try:
            engine = open_model(path, threads=threads)
        except EngineError as error:
            raise PareError(str(error)) from error
        before = conditions()
        timing = measure(
            engine.invoke,
            warmup_runs=self.warmup_runs,
            warmup_s=self.warmup_s,
            runs=self.runs,
        )
        after = conditions()
        return _latency(
            timing,
            threads,
            before
            | {
                "file": path.name,
                "format": engine.format,
                "runtime": engine.runtime,
                "runtime_version": engine.runtime_version,
                "threads": threads,
                "warmup_runs": timing.warmup_runs,
                "frequency_after_mhz": after["frequency_mhz"],
                "temperature_after_c": after["temperature_c"],
                "load_average_after": after["load_average"],
            },
        )


def refuse_emulation() -> None:
    """Refuse to time anything where the processor is emulated.

    Raises:
        PareError: says what gives the emulation away.
    """
    found = emulation()
    if found:
        raise PareError(
            f"latency is not measured here: {found}. Emulated time says nothing about a "
            f"device; measure on the device itself, or use the prediction of its target."
        )


def _latency(timing: Timing, threads: int, found: dict[str, Any]) -> Latency:
    def of(ms: float, spread: tuple[float, float] | None = None) -> Measure:
        return Measure(
            value=ms, unit="ms", basis="measured", n=timing.n, spread=spread, conditions=found
        )

    def maybe(ms: float | None) -> Measure | None:
        return None if ms is None else of(ms)

    return Latency(
        threads=threads,
        median=of(timing.median_ms, timing.median_interval_ms),
        mean=of(timing.mean_ms),
        minimum=of(timing.min_ms),
        p90=maybe(timing.p90_ms),
        p95=maybe(timing.p95_ms),
        p90_claim=maybe(timing.p90_claim_ms),
        std_ms=timing.std_ms,
        samples_ms=timing.samples_ms,
    )
