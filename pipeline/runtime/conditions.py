"""What a latency was measured under: processor, frequency, load, and whether it is real."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path("/")

_NO_LIMIT = 1e15  # bytes; a control group of the older kind writes a huge number for none

_THROTTLED = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}

# What a processor calls itself in /proc/cpuinfo, by the key only its family has.
_FAMILIES = {
    "vendor_id": ("x86_64", "amd64", "i386", "i686"),
    "CPU implementer": ("aarch64", "arm64", "armv8l", "armv7l", "armv6l"),
    "isa": ("riscv64", "riscv32"),
}
# Processors that exist only inside a translator; a virtual machine on real ones is fine.
_TRANSLATED = ("QEMU Virtual CPU", "QEMU TCG", "VirtualApple")


def conditions(root: Path = _ROOT) -> dict[str, Any]:
    """Describe this machine as it is now; what it doesn't tell is ``None``.

    Args:
        root: where ``proc`` and ``sys`` are found.
    """
    scaling = root / "sys/devices/system/cpu/cpu0/cpufreq"
    return {
        "cpu": cpu_model(root),
        "cpu_parts": cpu_parts(root),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "affinity": affinity(),
        "governor": _text(scaling / "scaling_governor"),
        "frequency_mhz": _scaled(_number(scaling / "scaling_cur_freq"), 1e-3),
        "frequencies_mhz": _frequencies(root),
        "temperature_c": temperature_c(root),
        "throttled": throttled() if root == _ROOT else None,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "limits": _limits(root),
        "memory_mb": _memory(root),
        "battery": _battery(root),
        "emulation": emulation(root),
        "machine": platform.machine(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def affinity() -> list[int] | None:
    """Return the numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def cpu_parts(root: Path = _ROOT) -> list[str]:
    """Return the part numbers of an Arm processor's cores, such as ``0xd08``, each once."""
    text = _text(root / "proc/cpuinfo") or ""
    lines = (line.partition(":") for line in text.splitlines())
    return sorted({value.strip() for key, _, value in lines if key.strip() == "CPU part"})


def temperature_c(root: Path = _ROOT) -> float | None:
    """Return the temperature of the hottest zone, in degrees Celsius."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*/temp"))
    found = [value for zone in zones if (value := _number(zone)) is not None]
    return _scaled(max(found), 1e-3) if found else None


def throttled(command: Sequence[str] = ("vcgencmd", "get_throttled")) -> dict[str, Any] | None:
    """Return what a Raspberry Pi's firmware says of its voltage and heat.

    Returns:
        ``flags`` as a number, ``now`` and ``since_boot`` in words; ``None`` where there is
        no such firmware.

    Source:
        Raspberry Pi documentation, ``vcgencmd get_throttled``: bits 0 to 3 are of now, 16
        to 19 the same since the board was started.
    """
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=5, check=True
        )
        flags = int(done.stdout.partition("=")[2], 16)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return {
        "flags": flags,
        "now": [text for bit, text in _THROTTLED.items() if flags >> bit & 1],
        "since_boot": [text for bit, text in _THROTTLED.items() if flags >> (bit + 16) & 1],
    }


def cpu_model(root: Path = _ROOT) -> str | None:
    """Return the processor's name; on Arm boards, which have none there, the board's."""
    names = _cpuinfo(_text(root / "proc/cpuinfo") or "")
    board = _text(root / "proc/device-tree/model")
    found = names.get("model name") or names.get("Model") or names.get("Hardware") or board
    return found.rstrip("\0") if found else platform.processor() or None


def emulation(root: Path = _ROOT, machine: str | None = None) -> str | None:
    """Say how this process is emulated, or ``None`` where it runs on real cores.

    Three traces are looked for. User-mode QEMU answers for ``/proc/self`` with what the
    guest would see, but not for ``/proc/thread-self``: the emulator itself is in that
    list of mapped files. It also leaves the host's ``/proc/cpuinfo`` in place, which then
    names another family of processor than the program was built for. And a translator of
    whole machines names its processor after itself.

    Without ``/proc`` on Linux nothing can be ruled out, and that is said too; newer QEMU
    makes up a ``/proc/cpuinfo`` where none is mounted, but no list of mapped files.

    Args:
        root: where ``proc`` is found.
        machine: what the program runs on as it sees it, :func:`platform.machine`.
    """
    cpuinfo = _text(root / "proc/cpuinfo")
    if cpuinfo is None:
        linux = sys.platform == "linux"
        return "unknown: /proc is not there to rule emulation out" if linux else None
    mapped = _text(root / "proc/thread-self/maps")
    if mapped is None and sys.platform == "linux":
        return "unknown: /proc/thread-self is not there to rule emulation out"
    mapped = mapped or ""
    emulators = {Path(line.split()[-1]).name for line in mapped.splitlines() if line.split()}
    found = sorted(name for name in emulators if name.startswith("qemu-"))
    if found:
        return f"user-mode emulation by {found[0]}"
    return _translated(cpuinfo) or _foreign(cpuinfo, machine or platform.machine())


def _translated(cpuinfo: str) -> str | None:
    name = next((name for name in _TRANSLATED if name in cpuinfo), None)
    return f"the processor is a translator: {name}" if name else None


def _foreign(cpuinfo: str, machine: str) -> str | None:
    """Compare the family of the processor with what the program was built for."""
    keys = _cpuinfo(cpuinfo)
    for key, machines in _FAMILIES.items():
        if key in keys and machine.lower() not in machines:
            return f"a program for {machine} on a processor with {key} {keys[key]}"
    return None


def _cpuinfo(text: str) -> dict[str, str]:
    """Return the keys of ``/proc/cpuinfo``, each with its first value."""
    pairs = (line.partition(":") for line in reversed(text.splitlines()))
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _usable_cores() -> int | None:
    """Count the cores this process may run on, which a container may have narrowed."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _frequencies(root: Path) -> list[float]:
    """Return the frequency of each core in MHz, as the governor set it, or as it is told."""
    cores = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    by_core = {int(path.parts[-3][3:]): _number(path) for path in cores}
    found = [by_core[core] for core in sorted(by_core)]
    if found:
        return [value * 1e-3 for value in found if value is not None]
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    told = (line.partition(":")[2] for line in lines if line.startswith("cpu MHz"))
    return [float(value) for value in told if value.strip()]


def _limits(root: Path) -> dict[str, float]:
    """Return what a control group grants this process: cores, and memory in MB of 10^6."""
    group = root / "sys/fs/cgroup"
    found: dict[str, float] = {}
    quota, _, period = (_text(group / "cpu.max") or "").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        found["cores"] = int(quota) / int(period)
    old_quota = _number(group / "cpu/cpu.cfs_quota_us")
    old_period = _number(group / "cpu/cpu.cfs_period_us")
    if old_quota and old_period and old_quota > 0:
        found["cores"] = old_quota / old_period
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        granted = _number(group / name)
        if granted is not None and granted < _NO_LIMIT:
            found["memory_mb"] = granted * 1e-6
    return found


def _memory(root: Path) -> dict[str, float]:
    """Return how much memory the machine has and how much is free, in MB of 10^6 bytes."""
    names = {"MemTotal": "total", "MemAvailable": "available"}
    lines = (_text(root / "proc/meminfo") or "").splitlines()
    pairs = (line.partition(":") for line in lines)
    return {
        names[key]: int(value.split()[0]) * 1024e-6
        for key, _, value in pairs
        if key in names and value.split()
    }


def _battery(root: Path) -> dict[str, Any] | None:
    """Return charge in percent and state of the battery, or of a charger, if there is one."""
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        charge = _number(supply / "capacity")
        if charge is not None:
            return {"charge_pct": charge, "state": _text(supply / "status")}
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path) or "")
    except ValueError:
        return None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
