"""The whole measurement of one file: load, first run, windows of runs, memory, operators.

The same code runs on this machine, on a board and in a container, always in a process of its
own: what was loaded before would show in the memory and in the first load.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runtime import bench, energy, memory, surroundings
from pipeline.runtime.conditions import conditions, emulation, temperature_c
from pipeline.runtime.delegates import Delegate
from pipeline.runtime.operators import operator_times
from pipeline.runtime.sessions import (
    Session,
    check_openable,
    import_litert,
    import_onnxruntime,
    open_session,
)
from pipeline.runtime.tensors import EngineError, Stored, TensorSpec

SCHEMA = "pare-bench/1"
AGREEMENT_INPUTS = 4  # inferences whose outputs are compared between machines
_LARGEST_OUTPUT = 1 << 20  # bytes of outputs that travel; of more only the digest does
_KEPT_SAMPLES = 1000  # of each window; the rest of a million tells no more
STABLE = 0.05  # of MLPerf Mobile's rule: repeats agree within 5 %
_MS = 1e-6

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """How to measure; a window is one repeat.

    Attributes:
        threads: of the engine.
        warmup_runs: before the first window, at least so many.
        warmup_s: and at least so long.
        runs: timed runs of a window, at least so many.
        seconds: and at least so long.
        most_s: no run of a window begins after so long.
        repeats: windows.
        cooldown_s: pause between two windows.
        max_temp_c: a window waits, up to ten pauses, until the processor is below it.
        affinity_mask: of the cores to run on, as a hexadecimal number.
        operators: whether the time of each operator is asked for.
        idle_s: rest before the windows, so that a power meter sees the board without work.
        seed: of the numbers that are fed.
    """

    threads: int = 1
    warmup_runs: int = 10
    warmup_s: float = 0.5
    runs: int = 100
    seconds: float = 10.0
    most_s: float = 120.0
    repeats: int = 5
    cooldown_s: float = 0.0
    max_temp_c: float | None = None
    affinity_mask: str | None = None
    operators: bool = True
    idle_s: float = 0.0
    seed: int = 0

    @classmethod
    def of(cls, written: str) -> Settings:
        """Read settings from JSON.

        Raises:
            EngineError: it is not JSON, or names what there is not.
        """
        try:
            values = json.loads(written)
            strange = set(values) - {field.name for field in fields(cls)}
        except (ValueError, TypeError) as error:
            raise EngineError(f"the settings are not a JSON object: {error}.") from error
        if strange:
            raise EngineError(f"unknown settings: {', '.join(sorted(strange))}.")
        return cls(**values)


def profile(
    path: Path, settings: Settings, tell: Tell, delegate: Delegate | None = None
) -> dict[str, Any]:
    """Measure one file and return plain data.

    Where the processor is emulated nothing is timed: ``refused`` says why, and the outputs
    are there all the same, since they are what an emulator is good for.

    Args:
        path: an ``.onnx`` or ``.tflite`` file with any number of inputs and outputs.
        settings: how.
        tell: is given an event at the begin and end of each window.
        delegate: to hand operators to, of a ``.tflite`` file.

    Raises:
        EngineError: the file can't be loaded or run, or an engine is missing.
    """
    check_openable(path, settings.threads, delegate)
    refused = emulation()
    pinned = _pin(settings.affinity_mask)
    before, start = conditions(), memory.resident()
    import_ms = _timed(lambda: _import_engine(path))
    dropped = surroundings.drop_from_cache(path)
    session, cold_ms = _opened(path, settings.threads, delegate)
    loaded = memory.resident()
    feeds = seeded_inputs(session, settings.seed)
    first_ms = _timed(lambda: _run(session, feeds[0]))
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "file": _identity(path, session.format),
        "runtime": session.runtime,
        "runtime_version": session.runtime_version,
        "delegate": session.delegate,
        "settings": asdict(settings),
        "refused": refused and f"{refused}. Emulated time says nothing about a device",
        "outputs": answers(session, feeds),
    }
    if not refused:
        warmed = _warm_up(session, settings)
        taken = memory.report(start, loaded)  # before samples are kept, which weigh too
        windows, idle = _windows(session, settings, tell)
        found |= {
            "load": {"import_ms": import_ms, "cold_ms": cold_ms, "cache_dropped": dropped},
            "first_ms": first_ms,
            "warmup": warmed,
            **_summary(windows),
            "memory": taken,
            "energy": energy.of(windows, idle),
            "around": surroundings.around(path, session),
        }
        found["load"]["warm_ms"] = _opened(path, settings.threads, delegate)[1]
        found |= _operators(path, settings) if settings.operators else {}
    versions = {"numpy": np.__version__, "python": platform.python_version()}
    found["conditions"] = {"before": before, "after": conditions(), "versions": versions}
    found["conditions"]["pinned"] = pinned
    return found | {"complete": True}


def seeded_inputs(session: Session, seed: int) -> list[list[Stored]]:
    """Return inputs that are the same on every machine, one list an inference.

    Floats are normal with unit variance, integers of a scale fill their type; other
    integers (sizes, indices) are zero. A size that the file leaves open is one.

    Raises:
        EngineError: an input is of a type that no numbers are made for.
    """
    # The legacy generator: its stream is frozen, so every version of numpy makes the same.
    random = np.random.RandomState(seed)
    return [[_drawn(spec, random) for spec in session.inputs] for _ in range(AGREEMENT_INPUTS)]


def _drawn(spec: TensorSpec, random: np.random.RandomState) -> Stored:
    shape = [size or 1 for size in spec.shape]
    try:
        kind = np.dtype(spec.dtype)
    except TypeError as error:
        raise EngineError(
            f"input {spec.name!r} is of type {spec.dtype}, which is no array of numbers. "
            f"Only networks on numbers are profiled."
        ) from error
    if kind.kind == "f":
        return random.standard_normal(shape).astype(kind)
    if kind.kind in "iu" and (spec.scale is not None or kind.itemsize == 1):
        limits = np.iinfo(kind)
        drawn = random.randint(limits.min, int(limits.max) + 1, size=shape, dtype=np.int64)
        return drawn.astype(kind)
    return np.zeros(shape, kind)


def _import_engine(path: Path) -> None:
    if path.suffix == ".onnx":
        import_onnxruntime()
    else:
        import_litert()


def _opened(path: Path, threads: int, delegate: Delegate | None) -> tuple[Session, float]:
    start = time.perf_counter_ns()
    session = open_session(path, threads, delegate)
    return session, (time.perf_counter_ns() - start) * _MS


def _timed(action: Callable[[], None]) -> float:
    start = time.perf_counter_ns()
    action()
    return (time.perf_counter_ns() - start) * _MS


def _run(session: Session, feed: list[Stored]) -> None:
    try:
        session.set(feed)
        session.invoke()
    except Exception as error:  # each engine has its own classes
        raise EngineError(
            f"{session.runtime} {session.runtime_version} failed while it ran the file: "
            f"{error}. Export the file again or use another version."
        ) from error


def _warm_up(session: Session, settings: Settings) -> dict[str, Any]:
    warm = bench.measure(
        session.invoke, warmup_runs=0, warmup_s=0, most_s=settings.most_s,
        runs=max(settings.warmup_runs, 1), seconds=settings.warmup_s,
    )  # fmt: skip
    return {"runs": warm.n, "mean_ms": warm.mean_ms, "seconds": sum(warm.samples_ms) / 1e3}


def _windows(
    session: Session, settings: Settings, tell: Tell
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Rest, and time the windows one after the other."""
    idle = _rest(settings.idle_s, tell)
    windows = []
    for number in range(settings.repeats):
        waited = _cool(settings, first=number == 0)
        windows.append({**_window(session, settings, tell, number), "waited_s": waited})
    return windows, idle


def _rest(seconds: float, tell: Tell) -> dict[str, Any] | None:
    if not seconds:
        return None
    tell({"event": "idle", "state": "begin"})
    meter = energy.Rapl()
    time.sleep(seconds)
    tell({"event": "idle", "state": "end"})
    return {"seconds": seconds, "joules": meter.joules()}


def _cool(settings: Settings, *, first: bool) -> float:
    """Pause before a window, longer while the processor is too hot; return the seconds."""
    pause, waited = settings.cooldown_s, 0.0
    if pause and not first:
        time.sleep(pause)
        waited += pause
    for _ in range(10):
        if not _is_hot(settings.max_temp_c):
            break
        time.sleep(max(pause, 1.0))
        waited += max(pause, 1.0)
    return waited


def _is_hot(limit: float | None) -> bool:
    found = temperature_c() if limit is not None else None
    return found is not None and limit is not None and found > limit


def _window(session: Session, settings: Settings, tell: Tell, number: int) -> dict[str, Any]:
    tell({"event": "window", "state": "begin", "number": number})
    meter, begin = energy.Rapl(), time.perf_counter()
    timing = bench.measure(
        session.invoke, warmup_runs=0, warmup_s=0, runs=settings.runs,
        seconds=settings.seconds, most_s=settings.most_s,
    )  # fmt: skip
    joules, seconds = meter.joules(), time.perf_counter() - begin
    tell({"event": "window", "state": "end", "number": number, "n": timing.n})
    return {
        "n": timing.n,
        "seconds": seconds,
        "median_ms": timing.median_ms,
        "mean_ms": timing.mean_ms,
        "joules": joules,
        "temperature_c": temperature_c(),
        "samples_ms": timing.samples_ms,
    }


def _summary(windows: list[dict[str, Any]]) -> dict[str, Any]:
    """Pool the windows, and tell whether they agree."""
    samples = np.concatenate([np.asarray(w["samples_ms"], np.float64) for w in windows])
    timing = bench.summarize(samples.tolist(), made=sum(window["n"] for window in windows))
    medians = [window["median_ms"] for window in windows]
    spread = max(medians) / min(medians) - 1 if min(medians) > 0 else 0.0
    pooled = asdict(timing)
    del pooled["samples_ms"], pooled["warmup_runs"]
    return {
        "timing": pooled,
        "repeats": {
            "spread": spread,
            "stable": spread <= STABLE if len(windows) > 1 else None,
        },
        "windows": [w | {"samples_ms": _thinned(w["samples_ms"])} for w in windows],
    }


def _thinned(samples: list[float]) -> list[float]:
    """Return at most so many samples, evenly spaced, in their order."""
    step = max(1, -(-len(samples) // _KEPT_SAMPLES))
    return samples[::step]


def _operators(path: Path, settings: Settings) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pare-") as folder:
        return {"operators": operator_times(path, Path(folder), threads=settings.threads)}


def answers(session: Session, feeds: list[list[Stored]]) -> dict[str, Any]:
    """Return what the file answers to the seeded inputs, as it is stored."""
    answers = []
    for feed in feeds:
        _run(session, feed)
        answers.append([np.array(value) for value in session.get()])  # copies
    tensors = []
    for position, spec in enumerate(session.outputs):
        stacked = np.stack([answer[position] for answer in answers])
        content = np.ascontiguousarray(stacked).tobytes()
        tensors.append(
            {
                "name": spec.name,
                "dtype": str(stacked.dtype),
                "shape": list(stacked.shape),
                "sha256": hashlib.sha256(content).hexdigest(),
                "scale": spec.scale,
                "base64": base64.b64encode(content).decode()
                if len(content) <= _LARGEST_OUTPUT
                else None,
            }
        )
    return {"inputs": len(feeds), "tensors": tensors}


def _identity(path: Path, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    size = path.stat().st_size
    return {"name": path.name, "format": kind, "bytes": size, "sha256": digest.hexdigest()}


def _pin(mask: str | None) -> dict[str, Any] | None:
    """Keep this process on the cores of a mask; say so where that is not granted."""
    if mask is None or not hasattr(os, "sched_setaffinity"):
        return None
    number = int(mask, 16)
    wanted = {core for core in range(number.bit_length()) if number >> core & 1}
    cores = wanted & set(range(os.cpu_count() or 1))
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        return {"mask": mask, "granted": False, "why": str(error)}
    return {"mask": mask, "granted": cores == wanted, "cores": sorted(cores)}
