"""This machine as a target: what its system tells, and how fast its memory is found to be."""

from __future__ import annotations

import os
import platform
import sysconfig
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.core.own_targets import HOST
from pipeline.core.record import Record
from pipeline.profilers.processors import FAMILIES, PARTS
from pipeline.runtime.conditions import cpu_model, emulation

_PORTS = {"arm64": "linux/arm64", "amd64": "linux/amd64", "arm": "linux/arm/v7"}
# What matters to an engine, by the kernel's name for it.
_ISA = {
    "asimd": "neon", "neon": "neon", "asimddp": "dotprod", "asimdhp": "fp16", "i8mm": "i8mm",
    "avx2": "avx2", "avx512f": "avx512f", "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni", "amx_int8": "amx_int8",
}  # fmt: skip
_ENGINES = {"litert": ("ai-edge-litert", "tflite-runtime"), "onnxruntime": ("onnxruntime",)}
_FORMATS = {"litert": "tflite", "onnxruntime": "onnx"}

_LEAST_BYTES = 64 * 2**20  # of a buffer: caches of most machines are smaller
_BEYOND_CACHE = 4  # times the last cache: so little of the buffer is left in it
_SECONDS = 0.5  # of copying, at least
_RUNS = 8


class Probe(Record):
    """A machine as the tables of a target file, and what could not be found out."""

    values: dict[str, Any]
    notes: tuple[str, ...] = ()


def probe(root: Path = Path("/"), seconds: float = _SECONDS) -> Probe:
    """Describe this machine as a target.

    Under emulation the rates of the memory are left out: they would be those of the
    emulator.

    Args:
        root: where ``proc`` and ``sys`` are found.
        seconds: how long to copy and to fill, at least.
    """
    machine = platform.machine().lower()
    arch = FAMILIES.get(machine, machine)
    engines, notes = _engines(arch)
    clusters = list(_clusters(root))
    if not clusters:
        notes.append("the clock of the cores is not told, so that [cpu] is left out")
    memory, missing = _memory(root, seconds)
    values: dict[str, Any] = {
        "schema": "edge-target/1",
        "id": HOST,
        "name": f"This machine ({cpu_model(root) or machine})",
        "class": "sbc" if arch.startswith("arm") else "pc",
        "platform": _platform(arch),
        **({"cpu": _cpu(clusters)} if clusters else {}),
        "memory": memory,
        "constraints": {
            "basis": "assumed",
            "source": "formats are those of the engines found here; dtypes run on any CPU",
            "formats": [_FORMATS[engine["name"]] for engine in engines] or ["tflite"],
            "dtypes": ["fp32", "fp16", "dynamic", "int8"],
        },
        "runtimes": engines,
        "transport": {"kind": "local"},
    }
    return Probe(values=values, notes=(*notes, *missing))


def _platform(arch: str) -> dict[str, str]:
    system = platform.system().lower()
    name, number = platform.libc_ver()
    found = {
        "os": system,
        "arch": arch,
        "triple": sysconfig.get_config_var("MULTIARCH"),
        "docker_platform": _PORTS.get(arch) if system == "linux" else None,
        "libc": f"{name}>={number}" if name else None,
    }
    return {key: value for key, value in found.items() if value}


def _engines(arch: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the engines that are installed, and a note where there is none."""
    cores = _usable()
    found: list[dict[str, Any]] = []
    for name, packages in _ENGINES.items():
        installed = next((v for package in packages if (v := _version(package))), None)
        if installed and not (arch == "arm" and name == "onnxruntime"):
            threads = sorted({1, cores})
            found.append(
                {"name": name, "version": installed, "threads": threads}
                | {"default_threads": cores}
            )
    notes = [] if found else ["no engine is installed: pip install ai-edge-litert onnxruntime"]
    return found, notes


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _usable() -> int:
    """Count the cores this process may run on."""
    return len(_affinity()) or os.cpu_count() or 1


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _cpu(clusters: list[dict[str, Any]]) -> dict[str, Any]:
    used = _affinity()
    mask = {"affinity_mask": hex(sum(1 << core for core in used))} if used else {}
    return {**mask, "clusters": clusters}


def _clusters(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the cores of each kind and highest clock, the fastest first."""
    groups: dict[tuple[float, str], list[dict[str, str]]] = {}
    sources: dict[tuple[float, str], str] = {}
    for core in _cores(root):
        mhz, source = _clock(core, root)
        if mhz is not None:
            name = PARTS.get(core.get("CPU part", ""), "")
            kind = mhz, name or core.get("model name") or core.get("CPU part") or "unknown"
            groups.setdefault(kind, []).append(core)
            sources[kind] = source
    for kind in sorted(groups, reverse=True):
        cores = groups[kind]
        flags = (cores[0].get("flags") or cores[0].get("Features") or "").split()
        yield {
            "core": kind[1],
            "count": _figure(len(cores), "logical processors in /proc/cpuinfo"),
            "freq_mhz": _figure(round(kind[0]), sources[kind]),
            "isa": list(dict.fromkeys(_ISA[flag] for flag in flags if flag in _ISA)),
        }


def _cores(root: Path) -> list[dict[str, str]]:
    """Return what ``/proc/cpuinfo`` says of each logical processor."""
    blocks = _text(root / "proc/cpuinfo").split("\n\n")
    cores = []
    for block in blocks:
        pairs = (line.partition(":") for line in block.splitlines())
        core = {key.strip(): value.strip() for key, _, value in pairs}
        if "processor" in core:
            cores.append(core)
    return cores


def _clock(core: dict[str, str], root: Path) -> tuple[float | None, str]:
    """Return the highest clock of a core in MHz, or the present one where that is all."""
    folder = root / f"sys/devices/system/cpu/cpu{core['processor']}/cpufreq"
    if (khz := _text(folder / "cpuinfo_max_freq")).isdecimal():
        return int(khz) / 1000, "cpufreq/cpuinfo_max_freq in /sys"
    try:
        present = float(core["cpu MHz"])
    except (KeyError, ValueError):
        return None, ""
    return round(present, -1), "cpu MHz in /proc/cpuinfo at this moment, to 10 MHz"


def _memory(root: Path, seconds: float) -> tuple[dict[str, Any], list[str]]:
    """Return RAM, caches and rates, and notes on what is left out."""
    found: dict[str, Any] = {}
    ram = _ram(root)
    if ram is not None:
        mb, source = ram
        found["ram_mb"] = _figure(round(mb), source)
        found["budget_mb"] = _figure(round(mb / 4), "a quarter of the RAM", "assumed")
    caches = _caches(root)
    for level, kb in caches.items():
        found[f"cache_{level}_kb"] = _figure(kb, "cpu0/cache in /sys")
    if emulated := emulation(root):
        return found, [f"the rates of the memory are left out: {emulated}"]
    size = max(_LEAST_BYTES, _BEYOND_CACHE * max(caches.values(), default=0) * 1024)
    if ram is not None:
        size = min(size, int(ram[0] * 1e6) // 8)  # two buffers: a quarter of the RAM
    return found | _rates(size, seconds), []


def _ram(root: Path) -> tuple[float, str] | None:
    """Return the RAM in MB of 10^6 bytes: the machine's, or less if a container has less."""
    lines = _text(root / "proc/meminfo").splitlines()
    total = next((line.split()[1] for line in lines if line.startswith("MemTotal:")), "")
    if not total.isdecimal():
        return None
    mb, source = int(total) * 1024 / 1e6, "MemTotal in /proc/meminfo"
    limit = _text(root / "sys/fs/cgroup/memory.max")
    if limit.isdecimal() and int(limit) / 1e6 < mb:
        return int(limit) / 1e6, "memory.max of this container's cgroup"
    return mb, source


def _caches(root: Path) -> dict[str, int]:
    """Return the sizes of the caches of the first core, in KB of 1024 bytes, by level."""
    found: dict[str, int] = {}
    for folder in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind = _text(folder / "level"), _text(folder / "type")
        size = _text(folder / "size").removesuffix("K")
        name = {"1": "l1d", "2": "l2", "3": "l3"}.get(level)
        if name and kind in ("Data", "Unified") and size.isdecimal():
            found[name] = int(size)
    return found


def _rates(size: int, seconds: float) -> dict[str, Any]:
    """Measure how fast one thread copies and fills memory, as tinymembench counts it."""
    import numpy as np

    there, here = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    copied, copies = _best(lambda: np.copyto(here, there), seconds)
    filled, fills = _best(lambda: here.fill(1), seconds)
    how = f"by numpy, {size / 2**20:.0f} MiB by one thread, best of"
    return {
        "memcpy_mb_s": _figure(round(size / copied / 1e6), f"copyto {how} {copies}"),
        "memset_mb_s": _figure(round(size / filled / 1e6), f"fill {how} {fills}"),
    }


def _best(work: Callable[[], Any], seconds: float) -> tuple[float, int]:
    """Return the shortest of at least eight runs, and how many there were."""
    work()  # pages are mapped at first touch
    best, runs, began = float("inf"), 0, time.perf_counter()
    while runs < _RUNS or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best, runs


def _figure(value: float, source: str, basis: str = "measured") -> dict[str, Any]:
    return {"value": value, "basis": basis, "source": source}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
