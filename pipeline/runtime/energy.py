"""What an inference costs in energy, where the processor counts it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

_COUNTERS = Path("/sys/class/powercap")
_UJ = 1e-6


class Rapl:
    """The packages' energy counters, read when this is made and when it is asked.

    Source:
        Linux power capping framework, ``energy_uj`` and ``max_energy_range_uj``.
    """

    def __init__(self, root: Path = _COUNTERS) -> None:
        domains = sorted(root.glob("intel-rapl:[0-9]*"))
        # Parts of a package, and the platform that holds all of them, would count twice.
        self._counters = [path for path in domains if _name(path).startswith("package")]
        self._begin = [_number(path / "energy_uj") for path in self._counters]

    def joules(self) -> float | None:
        """Return the joules since this was made; ``None`` where nothing counts them."""
        if not self._counters:
            return None
        total = 0.0
        for path, begin in zip(self._counters, self._begin):
            end, around = _number(path / "energy_uj"), _number(path / "max_energy_range_uj")
            if begin is None or end is None:
                return None  # only root may read it
            total += end - begin if end >= begin else end - begin + (around or 0.0)
        return total * _UJ


def of(windows: list[dict[str, Any]], idle: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the energy of one inference, the median of the windows.

    Returns:
        ``gross_mj`` of everything the processor took, ``net_mj`` less what it took at rest,
        where that was measured; ``None`` where nothing is counted.

    Source:
        Windows of back-to-back inference and their median, as in MLPerf Tiny.
    """
    if any(window["joules"] is None for window in windows):
        return None
    gross = statistics.median(w["joules"] / w["n"] for w in windows) * 1e3
    found = {"method": "RAPL, packages", "windows": len(windows), "gross_mj": gross}
    if idle and idle["joules"] is not None:
        rest_w = idle["joules"] / idle["seconds"]
        net = statistics.median(
            (w["joules"] - rest_w * w["seconds"]) / w["n"] for w in windows
        )
        found |= {"idle_w": rest_w, "net_mj": net * 1e3}
    return found


def _name(domain: Path) -> str:
    try:
        return (domain / "name").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
