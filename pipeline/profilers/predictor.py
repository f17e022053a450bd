"""What a file will take on a device nobody has at hand: a prediction, or only a bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pipeline.core.measure import Measure
from pipeline.core.target import Calibration, Cluster, Target
from pipeline.profilers.file_graph import FileGraph, OpInfo

_NO_LOO_FACTOR = 2.0  # the interval is x/÷ this where no leave-one-out error is known
_TWO_SIDED_90 = 1.64  # standard deviations
RUNTIMES = {"tflite": "xnnpack", "onnx": "onnxruntime"}


def predict(graph: FileGraph, target: Target, threads: int | None = None) -> Measure | None:
    """Predict the latency of a file on the target's CPU from rates fitted to timed networks.

    Args:
        graph: the file.
        target: the device.
        threads: as many as the runtime uses by default where not given.

    Returns:
        Milliseconds as :func:`predict_counts` makes them, or ``None`` without a calibration
        for the file's runtime, dtype and threads: then only :func:`bound` is to be had.
    """
    threads = threads or _default_threads(graph, target)
    rates = calibration_for(graph, target, threads)
    if rates is None:
        return None
    installed = target.runtime_for(graph.format)
    more: dict[str, Any] = {"target": target.id, "threads": threads}
    other = _other_version(rates, installed.version if installed else None)
    return predict_counts(
        graph.macs, graph.activation_bytes, rates, more | ({"why": other} if other else {})
    )


def predict_counts(
    macs: int,
    activation_bytes: int,
    rates: Calibration,
    conditions: Mapping[str, Any] | None = None,
) -> Measure:
    """Predict a latency from what a file or a network computes and moves.

    t = MACs / R + activation bytes / B + overhead. The interval is :func:`interval`'s;
    outside the range of sizes of the calibrating models it is at least half to twice the
    prediction.

    Args:
        macs: multiply-accumulates of one inference.
        activation_bytes: read and written by all operations, weights not counted.
        rates: of the runtime, number format and threads it will run with.
        conditions: what else is known, such as the target; recorded with the figure.
    """
    ms = rates.ms(macs, activation_bytes)
    low, high = interval(ms, rates.loo_mape_pct)
    extrapolated = _is_outside(macs, rates)
    if extrapolated:
        low, high = min(low, ms / _NO_LOO_FACTOR), max(high, ms * _NO_LOO_FACTOR)
    return Measure(
        value=ms,
        unit="ms",
        basis="predicted",
        spread=(low, high),
        conditions={
            "unit": rates.unit,
            "runtime": rates.runtime,
            "runtime_version": rates.version,
            "dtype": rates.dtype,
            "macs": macs,
            "activation_bytes": activation_bytes,
            "calibration": rates.source,
            "calibration_basis": rates.basis,
            "calibration_models": rates.n_models,
            "loo_mape_pct": rates.loo_mape_pct,
            "extrapolated": extrapolated,
            **(conditions or {}),
        },
    )


def interval(ms: float, loo_mape_pct: float | None) -> tuple[float, float]:
    """Return what a prediction's true value should lie in nine times in ten.

    Errors relative to the measured time are taken as normal, so their deviation is the
    leave-one-out error times sqrt(pi / 2) and the limit h is 1.64 of them; a time t' that
    is predicted as t then lies within t / (1 + h) and t / (1 - h). Without a leave-one-out
    error it is half to twice the prediction.

    Args:
        ms: the prediction.
        loo_mape_pct: beyond 48 there is no finite upper end.

    >>> interval(10.0, None), interval(10.0, 60.0)[1]
    ((5.0, 20.0), inf)
    """
    if loo_mape_pct is None:
        return ms / _NO_LOO_FACTOR, ms * _NO_LOO_FACTOR
    limit = _TWO_SIDED_90 * loo_mape_pct / 100 * math.sqrt(math.pi / 2)
    return ms / (1 + limit), ms / (1 - limit) if limit < 1 else math.inf


def calibration_for(
    graph: FileGraph, target: Target, threads: int | None
) -> Calibration | None:
    """Return the rates of the runtime, dtype and threads a file would run with, if known.

    A calibration that doesn't say its threads stands for the runtime's default. Of several,
    the one of the version that the target runs goes first, then one that names no version.
    """
    installed = target.runtime_for(graph.format)
    version = installed.version if installed else None
    fitting = sorted(
        (
            row
            for row in target.calibration
            if (row.runtime, row.dtype) == (RUNTIMES[graph.format], graph.dtype)
        ),
        key=lambda row: (row.version != version, row.version is not None),
    )
    exact = next((row for row in fitting if row.threads == threads), None)
    if exact or threads != _default_threads(graph, target):
        return exact
    return next((row for row in fitting if row.threads is None), None)


def _other_version(rates: Calibration, installed: str | None) -> str:
    """Say that the rates are of another version than the target runs, where they are."""
    if rates.version is None or installed is None or rates.version == installed:
        return ""
    return (
        f"the rates were measured with {rates.runtime} {rates.version}, the target runs "
        f"{installed}: rates of another version can be far off"
    )


def bound(
    graph: FileGraph,
    target: Target,
    threads: int | None = None,
    unit: Literal["cpu", "accelerator"] = "cpu",
) -> Measure | None:
    """Return a latency no run can beat, operation by operation: a roofline.

    Each operation takes at least the time of its MACs at the nominal peak, and at least
    that of the bytes that can't all be in the cache over the memory bus. The bus is taken
    as twice memcpy, which counts one direction, or memset if that is faster. Without a
    cache size in the target file no byte can be shown to cross the bus.

    It says nothing about how far above it the latency lies: on accelerators it is three to
    thirty times. Runtimes that save multiplications (Winograd) can go below it; XNNPACK
    doesn't.

    Returns:
        Milliseconds, or ``None`` where the target states nothing that bounds this file.
    """
    threads = threads or _default_threads(graph, target)
    if unit == "accelerator":
        peak, bus, cache = _accelerator_peak(graph, target), None, None
    else:
        peak, bus, cache = _cpu_peak(graph, target, threads), _bus(target), _cache(target)
    if peak is None and (bus is None or cache is None):
        return None
    sizes = {tensor.name: tensor.bytes for tensor in graph.tensors}
    seconds = math.fsum(
        max(_compute_s(op, peak), _transfer_s(op, sizes, bus, cache)) for op in graph.ops
    )
    if not seconds:
        return None  # all fits into the cache, and no peak is known: nothing is bounded
    conditions: dict[str, Any] = {
        "target": target.id,
        "unit": unit,
        "dtype": graph.dtype,
        "threads": threads if unit == "cpu" else None,
        "peak_gmac_s": None if peak is None else peak * 1e-9,
        "memory_term": bus is not None and cache is not None,
    }
    return Measure(value=seconds * 1e3, unit="ms", basis="bound", conditions=conditions)


def peak_rates(
    graph: FileGraph, target: Target, threads: int | None = None
) -> tuple[float | None, float | None]:
    """Return the MACs and the bytes a second that the target's CPU can't exceed, if known."""
    return _cpu_peak(graph, target, threads), _bus(target)


def _default_threads(graph: FileGraph, target: Target) -> int | None:
    runtime = target.runtime_for(graph.format)
    return runtime.default_threads if runtime else None


def _is_outside(macs: int, rates: Calibration) -> bool:
    below = rates.macs_min is not None and macs < rates.macs_min
    above = rates.macs_max is not None and macs > rates.macs_max
    return below or above


def _cpu_peak(graph: FileGraph, target: Target, threads: int | None) -> float | None:
    """Return the MACs a second of the fastest cores, or ``None`` if one isn't known."""
    if target.cpu is None:
        return None
    cores = [
        _core_peak(cluster, graph.dtype)
        for cluster in target.cpu.clusters
        for _ in range(int(cluster.count.value))
    ]
    known = [core for core in cores if core is not None]
    if len(known) < len(cores):
        return None
    return sum(sorted(known, reverse=True)[: threads or len(known)])


def _core_peak(cluster: Cluster, dtype: str) -> float | None:
    """Return the MACs a second of one core in the arithmetic of the file.

    Half precision packs twice as many where the core computes in it. A file of mixed
    arithmetic is granted the fastest, so that the bound stays one. Integer weights that
    are made float first multiply as floats.
    """
    integer, single = cluster.int8_macs_per_cycle, cluster.fp32_macs_per_cycle
    if dtype == "mixed" and (integer is None or single is None):
        return None
    figure = single if dtype in ("fp32", "fp16", "w8") else integer
    if figure is None:
        return None
    packed = 2 if dtype == "fp16" and "fp16" in cluster.isa else 1
    cycle = figure.value * packed
    if dtype == "mixed" and single is not None:
        cycle = max(cycle, single.value * (2 if "fp16" in cluster.isa else 1))
    return cycle * cluster.freq_mhz.value * 1e6


def _accelerator_peak(graph: FileGraph, target: Target) -> float | None:
    if target.accelerator is None or graph.dtype == "mixed":
        return None
    peaks = target.accelerator.peak_gops.items()
    figure = next((figure for dtype, figure in peaks if dtype == graph.dtype), None)
    return figure.value * 1e9 / 2 if figure else None  # a MAC is two operations


def _bus(target: Target) -> float | None:
    """Return the bytes a second the memory has been seen to move, both ways together."""
    copied, filled = target.memory.memcpy_mb_s, target.memory.memset_mb_s
    rates = [2 * copied.value] if copied else []
    rates += [filled.value] if filled else []
    return max(rates) * 1e6 if rates else None


def _cache(target: Target) -> float | None:
    """Return the bytes of the last cache: what stays in it does not cross the bus."""
    cache = target.memory.last_cache_kb
    return cache.value * 1024 if cache else None


def _compute_s(op: OpInfo, peak: float | None) -> float:
    return op.macs / peak if peak else 0.0


def _transfer_s(
    op: OpInfo, sizes: dict[str, int], bus: float | None, cache: float | None
) -> float:
    """Return the time for what one operation touches beyond a full cache."""
    if bus is None or cache is None:
        return 0.0
    touched = sum(sizes[name] for name in {*op.inputs, *op.outputs})
    return max(0.0, touched - cache) / bus
