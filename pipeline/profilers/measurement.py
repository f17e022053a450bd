"""What was measured of one file on one machine, every figure with its basis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import PareError
from pipeline.core.measure import Measure
from pipeline.core.record import Record
from pipeline.runtime.conditions import emulation


class Energy(Record):
    """The energy of one inference in mJ, and how it was measured.

    Attributes:
        gross_mj: of everything that was metered.
        net_mj: less what it takes at rest, where that was measured too.
        idle_w: what it takes at rest.
        windows: that the median is of.
    """

    method: str
    gross_mj: float
    net_mj: float | None = None
    idle_w: float | None = None
    windows: int


class Measurement(Record):
    """One file at one thread count; what was not measured, or n can't support, is ``None``.

    Attributes:
        median: with its 95 % bootstrap interval.
        p90_claim: what may be claimed as p90 with 99 % confidence, above the observed p90.
        drift: of the last tenth of the runs against the first, as a fraction.
        windows_ms: median of each repeat.
        spread: of the slowest repeat over the fastest, as a fraction.
        stable: whether the repeats are within 5 % of each other; ``None`` for one alone.
        first_ms: the first inference after loading.
        load: ``import_ms`` of the engine, ``cold_ms`` with the file out of the page cache
            where ``cache_dropped``, ``warm_ms`` the second time.
        memory: bytes resident at start, loaded, after the warm-up, and at most.
        around: decoding, preparing and interpreting, apart from inference, or why not.
        conditions: of the machine, before and after.
        samples_ms: timed runs, in order; of very many every k-th.
    """

    threads: int
    runtime: str
    runtime_version: str
    median: Measure | None
    mean: Measure
    minimum: Measure
    p5: Measure | None
    p90: Measure | None
    p95: Measure | None
    p99: Measure | None
    p90_claim: Measure | None
    std_ms: float | None
    drift: float | None
    windows_ms: tuple[float, ...]
    spread: float
    stable: bool | None
    first_ms: float
    load: dict[str, Any]
    warmup: dict[str, Any] | None
    memory: dict[str, Any] | None
    around: dict[str, Any]
    energy: Energy | None
    settings: dict[str, Any]
    conditions: dict[str, Any]
    samples_ms: tuple[float, ...]

    @property
    def typical(self) -> Measure:
        """The median, or the mean where the tool that measured knows none."""
        return self.median or self.mean

    @classmethod
    def of(cls, result: Mapping[str, Any], energy: Energy | None = None) -> Measurement:
        """Read the result of :func:`pipeline.runtime.harness.profile`.

        Args:
            result: of a machine whose time counts.
            energy: as a meter beside the machine found it, before the machine's own.

        Raises:
            PareError: the time was refused, or the result is not whole.
        """
        if not result.get("complete"):
            raise PareError("the measurement is not whole. Nothing of it is used; try again.")
        refuse(result.get("refused"))
        timing, threads = result["timing"], int(result["settings"]["threads"])
        how = {"runtime": result["runtime"], "threads": threads}
        own = Energy.model_validate(result["energy"]) if result["energy"] else None

        def measured(name: str, spread: tuple[float, float] | None = None) -> Measure | None:
            value = timing[name]
            return None if value is None else Measure(
                value=value, unit="ms", basis="measured", n=timing["n"], spread=spread,
                conditions=how,
            )  # fmt: skip

        def certain(name: str) -> Measure:
            found = measured(name)
            assert found
            return found

        interval = timing["median_interval_ms"]
        return cls(
            threads=threads,
            runtime=result["runtime"],
            runtime_version=result["runtime_version"],
            median=measured("median_ms", interval and (interval[0], interval[1])),
            mean=certain("mean_ms"),
            minimum=certain("min_ms"),
            p5=measured("p5_ms"),
            p90=measured("p90_ms"),
            p95=measured("p95_ms"),
            p99=measured("p99_ms"),
            p90_claim=measured("p90_claim_ms"),
            std_ms=timing["std_ms"],
            drift=timing["drift"],
            windows_ms=tuple(w["median_ms"] or w["mean_ms"] for w in result["windows"]),
            spread=result["repeats"]["spread"],
            stable=result["repeats"]["stable"],
            first_ms=result["first_ms"],
            load=result["load"],
            warmup=result["warmup"],
            memory=result["memory"],
            around=result["around"],
            energy=energy or own,
            settings=result["settings"],
            conditions=result["conditions"],
            samples_ms=tuple(ms for w in result["windows"] for ms in w["samples_ms"]),
        )


def refuse(reason: str | None) -> None:
    """Refuse a time that means nothing.

    Raises:
        PareError: says what gives the emulation away.
    """
    if reason:
        raise PareError(
            f"latency is not measured here: {reason}; measure on the device itself, or use "
            f"the prediction of its target."
        )


def refuse_emulation() -> None:
    """Refuse to time anything in this process where its processor is emulated.

    Raises:
        PareError: says what gives the emulation away.
    """
    found = emulation()
    refuse(found and f"{found}. Emulated time says nothing about a device")
