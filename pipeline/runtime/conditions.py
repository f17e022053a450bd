"""What a latency was measured under: processor, frequency, load, and whether it is real."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

_ROOT = Path("/")

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
    temperature = _number(root / "sys/class/thermal/thermal_zone0/temp")
    return {
        "cpu": cpu_model(root),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "governor": _text(scaling / "scaling_governor"),
        "frequency_mhz": _scaled(_number(scaling / "scaling_cur_freq"), 1e-3),
        "temperature_c": _scaled(temperature, 1e-3),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "emulation": emulation(root),
        "machine": platform.machine(),
        "platform": platform.platform(),
        "python": platform.python_version(),
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

    Without ``/proc`` on Linux nothing can be ruled out, and that is said too.

    Args:
        root: where ``proc`` is found.
        machine: what the program runs on as it sees it, :func:`platform.machine`.
    """
    cpuinfo = _text(root / "proc/cpuinfo")
    if cpuinfo is None:
        linux = sys.platform == "linux"
        return "unknown: /proc is not there to rule emulation out" if linux else None
    mapped = _text(root / "proc/thread-self/maps") or ""
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
