"""How much memory this process takes, by the kernel's own account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


def resident(status: Path = _STATUS) -> int | None:
    """Return the bytes of this process that are in memory now."""
    return _field("VmRSS", status)


def peak(status: Path = _STATUS) -> int | None:
    """Return the most bytes that this process ever had in memory."""
    return _field("VmHWM", status)


def report(start: int | None, loaded: int | None) -> dict[str, Any]:
    """Return the memory at each step in bytes; call it right after the runs that count.

    Args:
        start: before the engine was imported.
        loaded: when the file was loaded.
    """
    return {
        "start_bytes": start,
        "loaded_bytes": loaded,
        "steady_bytes": resident(),
        "peak_bytes": peak(),
        "method": "VmRSS and VmHWM of /proc/self/status, engine and Python included",
    }


def _field(name: str, status: Path) -> int | None:
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(f"{name}:")), None)
    return int(found.split()[1]) * 1024 if found else None
