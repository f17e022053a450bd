"""Timing one inference so that every number says what it can support."""

from __future__ import annotations

import gc
import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.99  # of every percentile claimed, as in MLPerf's early stopping
MOST_SAMPLES = 100_000  # kept of one window
_RESAMPLES = 1000
_FEWEST_A_TENTH = 5  # runs; the median of fewer says little
_MS = 1e-6  # nanoseconds to milliseconds


@dataclass(frozen=True)
class Timing:
    """Latencies of ``n`` runs in ms; a percentile that ``n`` can't support is ``None``.

    Attributes:
        std_ms: sample standard deviation, zero for one run.
        p5_ms: observed percentile, from 130 runs on.
        p90_ms: observed percentile, from 64 runs on.
        p95_ms: observed percentile, from 130 runs on.
        p99_ms: observed percentile, from 662 runs on.
        p90_claim_ms: what may be claimed as p90 with 99 % confidence; above ``p90_ms``.
        median_interval_ms: 95 % bootstrap interval of the median.
        drift: median of the last tenth of the runs over that of the first, less one; from
            50 runs on. Heat and other work show in it.
        samples_ms: the runs in the order they were made; of very many every k-th, so that
            what times does not fill the memory of a small board.
        warmup_runs: runs made and thrown away before.
    """

    n: int
    min_ms: float
    mean_ms: float
    std_ms: float
    median_ms: float
    p5_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p90_claim_ms: float | None
    median_interval_ms: tuple[float, float]
    drift: float | None
    samples_ms: tuple[float, ...]
    warmup_runs: int


def measure(
    invoke: Callable[[], object],
    *,
    warmup_runs: int = 10,
    warmup_s: float = 0.5,
    runs: int = 100,
    seconds: float = 0.0,
    most_s: float = math.inf,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Timing:
    """Time calls one after the other, after a warm-up; both go on until both limits are met.

    The garbage collector pauses while runs are timed, as in :mod:`timeit`.

    Args:
        invoke: one inference on inputs already set; pre- and post-processing stay outside.
        warmup_runs: at least so many runs are thrown away first.
        warmup_s: and at least so many seconds of them.
        runs: at least so many runs are timed.
        seconds: for at least so long.
        most_s: and no new run begins after so long, whatever is missing.
        clock: a monotonic clock in nanoseconds.

    Raises:
        ValueError: there is nothing to time, or the clock runs backwards.
    """
    if runs < 1 or min(warmup_runs, warmup_s, seconds) < 0 or most_s <= 0:
        raise ValueError(
            f"runs = {runs}, seconds = {seconds}, most_s = {most_s}, warmup_runs = "
            f"{warmup_runs}, warmup_s = {warmup_s}: at least one run is timed, and a warm-up "
            f"is not negative."
        )
    warmed = _warm_up(invoke, warmup_runs, warmup_s, clock)
    collecting = gc.isenabled()
    gc.disable()
    try:
        samples, made = _time_many(invoke, runs, seconds, most_s, clock)
    finally:
        if collecting:
            gc.enable()
    return summarize(samples, warmup_runs=warmed, made=made)


def measure_in_turns(
    invokes: Sequence[Callable[[], object]],
    *,
    warmup_runs: int,
    runs: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[Timing]:
    """Time several inferences, one run of each in turn, so that they can be compared.

    What else the machine does then slows all of them down alike.

    Args:
        invokes: one inference each, on inputs already set.
        warmup_runs: turns that are thrown away first.
        runs: timed turns.
        clock: a monotonic clock in nanoseconds.
    """
    turns = [
        [_time_once(invoke, clock) for invoke in invokes] for _ in range(warmup_runs + runs)
    ]
    return [
        summarize(list(samples), warmup_runs=warmup_runs)
        for samples in zip(*turns[warmup_runs:])
    ]


def summarize(
    samples_ms: Sequence[float], warmup_runs: int = 0, seed: int = 0, made: int | None = None
) -> Timing:
    """Turn raw latencies into a :class:`Timing`, by the rules stated there.

    Args:
        samples_ms: latencies in the order they were made.
        warmup_runs: runs before them.
        seed: of the bootstrap.
        made: runs that were timed, where not each of them was kept.

    Raises:
        ValueError: no sample, or one that is negative or not a number.
    """
    values = np.asarray(samples_ms, dtype=np.float64)
    if values.size == 0 or not np.all(np.isfinite(values)) or values.min() < 0:
        raise ValueError("latencies must be finite and not negative, and at least one.")
    n = int(values.size)
    return Timing(
        n=n if made is None else made,
        min_ms=float(values.min()),
        mean_ms=float(values.mean()),
        std_ms=float(values.std(ddof=1)) if n > 1 else 0.0,
        median_ms=float(np.median(values)),
        p5_ms=_percentile(values, 0.05),
        p90_ms=_percentile(values, 0.90),
        p95_ms=_percentile(values, 0.95),
        p99_ms=_percentile(values, 0.99),
        p90_claim_ms=claimable_ms(samples_ms, 0.90),
        median_interval_ms=bootstrap_median(samples_ms, seed=seed),
        drift=_drift(values),
        samples_ms=tuple(float(value) for value in values),
        warmup_runs=warmup_runs,
    )


def supports(fraction: float, n: int) -> bool:
    """Tell whether ``n`` runs can say anything about the latency ``fraction`` stay under.

    They can when seeing at most one run above it would be rarer than 1 % if more than
    ``1 - fraction`` of all runs were above it.

    Source:
        Early stopping of MLPerf Inference, ``inference_rules.adoc``: confidence 0.99,
        tolerance 0; 64 runs for p90, 130 for p95, 662 for p99.

    >>> [next(n for n in range(2, 999) if supports(p, n)) for p in (0.90, 0.95, 0.99)]
    [64, 130, 662]
    """
    return _chance_of_at_most(1, n, 1 - fraction) <= 1 - CONFIDENCE


def claimable_ms(samples_ms: Sequence[float], fraction: float) -> float | None:
    """Return the latency that may be claimed as a percentile with 99 % confidence.

    With the largest number t of runs that may lie above it, the t - 1 slowest runs are
    dropped and the slowest of the rest is the claim: an upper estimate, which comes down
    to the observed percentile as runs are added.

    Source:
        Early stopping of MLPerf Inference, ``inference_rules.adoc``.
    """
    n = len(samples_ms)
    if not supports(fraction, n):
        return None
    above = int(np.searchsorted(_chances(n, 1 - fraction), 1 - CONFIDENCE, side="right")) - 1
    return sorted(samples_ms)[n - above]


def bootstrap_median(samples_ms: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median, the same for the same seed.

    Resampling is not carried out: the rank of the median of n draws with replacement is
    that of the median of n uniform numbers, which is Beta distributed, so that a million
    samples cost no more than a hundred.

    Source:
        Percentile bootstrap, Efron & Tibshirani 1993, section 13.3; distribution of a
        median, David & Nagaraja, Order Statistics, 2003, section 2.1.
    """
    ordered = np.sort(np.asarray(samples_ms, dtype=np.float64))
    n = ordered.size
    ranks = np.random.default_rng(seed).beta((n + 1) / 2, (n + 1) / 2, _RESAMPLES)
    medians = ordered[np.minimum((ranks * n).astype(int), n - 1)]
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def _warm_up(
    invoke: Callable[[], object], runs: int, seconds: float, clock: Callable[[], int]
) -> int:
    """Run until both limits are met; return how many runs that took."""
    start, done = clock(), 0
    while done < runs or (clock() - start) < seconds * 1e9:
        invoke()
        done += 1
    return done


def _time_once(invoke: Callable[[], object], clock: Callable[[], int]) -> float:
    start = clock()
    invoke()
    return (clock() - start) * _MS


def _time_many(
    invoke: Callable[[], object],
    runs: int,
    seconds: float,
    most_s: float,
    clock: Callable[[], int],
) -> tuple[array[float], int]:
    """Return the samples that are kept, evenly spaced, and how many runs were timed."""
    samples, made, step = array("d"), 0, 1
    start, spent = clock(), 0.0
    while not made or (spent < most_s and (made < runs or spent < seconds)):
        taken = _time_once(invoke, clock)
        if made % step == 0:
            samples.append(taken)
        made += 1
        if len(samples) >= MOST_SAMPLES:
            samples, step = samples[::2], 2 * step
        spent = (clock() - start) * 1e-9
    return samples, made


def _drift(values: np.ndarray) -> float | None:
    tenth = values.size // 10
    if tenth < _FEWEST_A_TENTH:
        return None
    first, last = np.median(values[:tenth]), np.median(values[-tenth:])
    return float(last / first - 1) if first > 0 else None


def _percentile(values: np.ndarray, fraction: float) -> float | None:
    if not supports(max(fraction, 1 - fraction), values.size):
        return None
    return float(np.quantile(values, fraction))


def _chances(n: int, rate: float) -> np.ndarray:
    """Return the binomial chance of at most k hits in n, for k from 0 to n."""
    hits = np.arange(1, n + 1)
    steps = np.log((n - hits + 1) / hits) + (math.log(rate) - math.log1p(-rate))
    logs = n * math.log1p(-rate) + np.concatenate([[0.0], np.cumsum(steps)])
    return np.exp(np.logaddexp.accumulate(logs))


def _chance_of_at_most(above: int, n: int, rate: float) -> float:
    """Return the binomial chance of at most ``above`` hits in ``n``, at ``rate`` each."""
    return 1.0 if n <= above else float(_chances(n, rate)[above])
