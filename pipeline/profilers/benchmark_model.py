"""TensorFlow Lite's own ``benchmark_model``, for machines without Python.

Source:
    google-ai-edge/LiteRT, ``tflite/tools/benchmark``: flags and the lines it prints. It knows
    no percentile beyond the 95th, and older versions print only the mean.
"""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.core.errors import PareError
from pipeline.profilers.transports import Tell
from pipeline.profilers.transports.payload import explain, packed, wrapped
from pipeline.profilers.transports.talk import Said, time_allowed_s
from pipeline.runtime.bench import supports
from pipeline.runtime.harness import SCHEMA, STABLE, Settings

_US = 1e-3
_NUMBER = r"([0-9.eE+-]+)"
_COUNT = re.compile(r"count=(\d+)(.*)")
_FIELD = re.compile(rf"(\w+)={_NUMBER}")
_TIMES = re.compile(
    rf"Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}, "
    rf"Inference \(avg\): {_NUMBER}"
)
_MEMORY = re.compile(rf"init=\s*{_NUMBER} overall=\s*{_NUMBER}")
_KIND = re.compile(
    rf"^\s*(\S[^\t]*?)\s+(\d+)\s+{_NUMBER}\s+{_NUMBER}%\s+{_NUMBER}%\s+{_NUMBER}\s+\d+"
)

_RUN = """\
exec 3<&0
echo "pare-machine: $(uname -m)"
echo "pare-governor: $(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)"
echo "pare-temperature: $(cat /sys/class/thermal/thermal_zone0/temp 2>/dev/null)"
grep -h 'CPU part\\|model name\\|vendor_id\\|CPU implementer' /proc/cpuinfo 2>/dev/null |
  sort -u | sed 's/^/pare-cpu: /'
[ -r /proc/thread-self/maps ] && echo "pare-maps: yes"
grep -ho 'qemu-[a-z0-9_-]*' /proc/thread-self/maps 2>/dev/null |
  sort -u | sed 's/^/pare-qemu: /'
for flags in {flags}; do
  echo "pare-begin"
  {taskset}./benchmark_model --graph=model.tflite {common} $flags 2>&1 </dev/null &
  pid=$!
  (cat <&3; kill "$pid") >/dev/null 2>&1 &
  watch=$!
  wait "$pid"
  code=$?
  kill "$watch"
  [ "$code" = 0 ] || fail "benchmark_model ended with $code" 77
done
"""
Say = Callable[[str, bytes, Tell, float], Said]


def from_benchmark_model(
    say: Say, path: Path, settings: Settings, binary: Path, folder: str | None
) -> dict[str, Any]:
    """Measure a TFLite file with ``benchmark_model`` on a machine that ``say`` reaches.

    Args:
        say: runs a script there with a payload on its standard input.
        path: a ``.tflite`` file.
        settings: how; each window is one run of the program.
        binary: the program, built for over there.
        folder: where the scratch folder is made.

    Returns:
        What the harness returns, as far as the program tells it; no outputs.

    Raises:
        PareError: another format, no such program, or it failed there.
    """
    if path.suffix != ".tflite":
        raise PareError(f"{path}: benchmark_model runs .tflite files only.")
    if not binary.is_file():
        raise PareError(f"no benchmark_model at {binary}. Give the path of the program.")
    payload = packed({"model.tflite": path, "benchmark_model": binary})
    text = wrapped(payload, _script(settings), folder)
    said = say(text, payload, lambda _event: None, time_allowed_s(settings))
    if said.code != 0:
        told = explain(said, str(path)) or said.stderr[-500:] or said.text[-500:]
        raise PareError(f"benchmark_model gave no figures for {path.name}: {told}")
    return parse(said.text, path, settings)


def parse(text: str, path: Path, settings: Settings) -> dict[str, Any]:
    """Turn what the program printed into the harness's form; what it left out is ``None``.

    Raises:
        PareError: it holds no timings.
    """
    facts = _facts(text)
    runs = [part for part in text.split("pare-begin")[1:] if _TIMES.search(part)]
    if not runs:
        raise PareError(
            f"benchmark_model printed no timings for {path.name}: {text[-500:].strip()}"
        )
    try:
        windows = [_window(part) for part in runs[: settings.repeats]]
        init, first, _, _ = (float(value) * _US for value in _times(runs[0]))
    except (ValueError, KeyError, IndexError) as error:
        raise PareError(
            f"benchmark_model printed what can't be read for {path.name} ({error}). Is it "
            f"TensorFlow Lite's own program?"
        ) from error
    medians = [window["median_ms"] or window["mean_ms"] for window in windows]
    spread = max(medians) / min(medians) - 1 if min(medians) > 0 else 0.0
    content = path.read_bytes()
    machine = {
        "machine": facts.get("machine"),
        "cpu": facts.get("cpu"),
        "cpu_parts": facts["parts"],
        "governor": facts.get("governor"),
        "temperature_c": facts["temperature_c"],
        "emulation": _emulation(facts),
    }
    return {
        "schema": SCHEMA,
        "file": {
            "name": path.name,
            "format": "tflite",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
        "runtime": "litert",
        "runtime_version": "benchmark_model",
        "settings": asdict(settings),
        "refused": _refused(machine["emulation"]),
        "outputs": None,
        "load": {"import_ms": None, "cold_ms": init, "warm_ms": None, "cache_dropped": False},
        "first_ms": first,
        "warmup": None,
        "timing": _pooled(windows),
        "repeats": {
            "spread": spread,
            "stable": spread <= STABLE if len(windows) > 1 else None,
        },
        "windows": windows,
        "memory": _memory(runs[0]),
        "energy": None,
        "around": {"why": "benchmark_model times the inference alone"},
        "operators": _operators(runs[-1]),
        "conditions": {"before": machine, "after": machine, "versions": {}, "pinned": None},
        "complete": True,
    }


def _emulation(facts: Mapping[str, Any]) -> str | None:
    """Say how the program was emulated: by its traces, as the harness looks for them."""
    if facts.get("qemu"):
        return f"user-mode emulation by {facts['qemu']}"
    machine, keys = str(facts.get("machine") or ""), facts["keys"]
    if not keys or not facts.get("maps"):
        return "unknown: /proc is not whole, so that emulation can't be ruled out"
    arm = machine.startswith(("arm", "aarch"))
    if ("vendor_id" in keys and arm) or ("CPU implementer" in keys and not arm):
        return f"a program for {machine} on a processor of another family"
    return None


def _refused(emulation: str | None) -> str | None:
    return emulation and f"{emulation}. Emulated time says nothing about a device"


def _script(settings: Settings) -> str:
    common = (
        f"--num_threads={settings.threads} --warmup_runs={max(settings.warmup_runs, 1)} "
        f"--warmup_min_secs={settings.warmup_s} --max_secs={settings.most_s}"
    )
    timed = f"'--num_runs={settings.runs} --min_secs={settings.seconds}'"
    flags = [timed] * settings.repeats
    flags += ["'--num_runs=30 --enable_op_profiling=true'"] if settings.operators else []
    mask = settings.affinity_mask
    taskset = f"taskset {int(mask, 16):x} " if mask else ""
    return _RUN.format(flags=" ".join(flags), common=common, taskset=taskset)


def _window(text: str) -> dict[str, Any]:
    """Return the last line of counts, which is that of the timed runs."""
    count, rest = _COUNT.findall(text)[-1]
    fields = {name: float(value) * _US for name, value in _FIELD.findall(rest)}
    return {
        "n": int(count),
        "median_ms": fields.get("median"),
        "mean_ms": fields["avg"],
        "min_ms": fields["min"],
        "p5_ms": fields.get("p5"),
        "p95_ms": fields.get("p95"),
        "std_ms": fields.get("std"),
        "joules": None,
        "samples_ms": [],
    }


def _pooled(windows: list[dict[str, Any]]) -> dict[str, Any]:
    """Pool the windows as far as summaries can be pooled: percentiles can't."""
    n = sum(window["n"] for window in windows)
    only = windows[0] if len(windows) == 1 else {}
    medians = [window["median_ms"] for window in windows]
    return {
        "n": n,
        "min_ms": min(window["min_ms"] for window in windows),
        "mean_ms": sum(window["mean_ms"] * window["n"] for window in windows) / n,
        "std_ms": only.get("std_ms"),
        "median_ms": None if None in medians else statistics.median(medians),
        "p5_ms": None,
        "p90_ms": None,
        "p95_ms": _largest(windows, "p95_ms"),
        "p99_ms": None,
        "p90_claim_ms": None,
        "median_interval_ms": None,
        "drift": None,
    }


def _largest(windows: list[dict[str, Any]], name: str) -> float | None:
    """Return the largest of the windows' percentiles, if each has runs enough for it."""
    found = [w[name] for w in windows if supports(0.95, w["n"]) and w[name] is not None]
    return max(found) if len(found) == len(windows) else None


def _times(text: str) -> tuple[str, ...]:
    found = _TIMES.search(text)
    assert found
    return found.groups()


def _memory(text: str) -> dict[str, Any] | None:
    found = _MEMORY.search(text)
    if not found:
        return None
    init, overall = (float(value) * 2**20 for value in found.groups())
    return {
        "start_bytes": None,
        "loaded_bytes": int(init),
        "steady_bytes": int(overall),
        "peak_bytes": None,
        "method": "benchmark_model's memory footprint delta from its start",
    }


def _operators(text: str) -> dict[str, Any]:
    """Read the table by type of operator; times are means of all operators of a type."""
    _, _, table = text.partition("Summary by node type")
    kernels = []
    for line in table.splitlines():
        found = _KIND.match(line)
        if found:
            kind, _, ms = found.groups()[:3]
            kernels.append({"name": kind, "kernel": kind, "median_ms": float(ms)})
    why = "" if kernels else "benchmark_model printed no times of operators"
    return {"kernels": kernels, "runs": 30, "why": why, "statistic": "mean, by type"}


def _facts(text: str) -> dict[str, Any]:
    pairs = re.findall(r"^pare-(\w+): (.*)$", text, re.MULTILINE)
    facts: dict[str, Any] = {name: value.strip() or None for name, value in pairs}
    cpu = [value.partition(":") for name, value in pairs if name == "cpu"]
    facts["keys"] = {key.strip() for key, _, _ in cpu}
    facts["parts"] = sorted({v.strip() for key, _, v in cpu if "part" in key})
    names = [v.strip() for key, _, v in cpu if "model name" in key]
    facts["cpu"] = names[0] if names else None
    heat = facts.get("temperature") or ""
    facts["temperature_c"] = int(heat) * 1e-3 if heat.isdecimal() else None
    return facts
