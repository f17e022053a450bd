"""What the host took for each file, in full, and under what conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.tables import OPEN, Cell, Column, Table
from pipeline.report.wording import (
    DASH,
    interval,
    milliseconds,
    number,
    percent,
    plural,
    signed,
    whole,
)

Timing = Mapping[str, Any]


def details(report: Mapping[str, Any]) -> Table:
    """Return one row a file and number of threads, with all that was measured of it."""
    columns = [
        Column("File", "and threads"),
        Column("Median", "ms, 95 % interval", numeric=True),
        Column("p90", "ms; claimed", numeric=True),
        Column("p95", "ms", numeric=True),
        Column("p99", "ms", numeric=True),
        Column("Least", "ms", numeric=True),
        Column("Repeats", "and apart"),
        Column("Drift", "last tenth", numeric=True),
        Column("First", "ms", numeric=True),
        Column("Load, cold", "ms; warm, engine", numeric=True),
        Column("Resident", "MB; at most", numeric=True),
        Column("Before and after", "ms, not in the latency"),
    ]
    rows = [
        _row(entry["file"], timing)
        for entry in report["files"]
        for timing in entry.get("latency") or []
    ]
    return Table(columns, rows)


def _row(file: str, timing: Timing) -> list[Cell]:
    median, claim = timing["median"], timing.get("p90_claim")
    threads = plural(timing["threads"], "thread")
    memory = timing.get("memory") or {}
    return [
        Cell(file, f"{threads}, n = {whole(median['n'])}", "code"),
        Cell(milliseconds(median), interval(median)),
        Cell(milliseconds(timing.get("p90")), f"claimed {milliseconds(claim)}"),
        Cell(milliseconds(timing.get("p95"))),
        Cell(milliseconds(timing.get("p99"))),
        Cell(milliseconds(timing.get("minimum"))),
        _repeats(timing),
        Cell(DASH if timing.get("drift") is None else signed(timing["drift"])),
        Cell(number(timing.get("first_ms"))),
        _load(timing.get("load") or {}),
        Cell(_megabytes(memory.get("steady_bytes")), _most(memory)),
        _around(timing.get("around") or {}),
    ]


def _load(load: Mapping[str, Any]) -> Cell:
    cold = number(load.get("cold_ms"))
    note = f"warm {number(load.get('warm_ms'))}, engine {number(load.get('import_ms'))}"
    if load.get("cold_ms") is not None and not load.get("cache_dropped"):
        note += "; the page cache could not be emptied"
    return Cell(cold, note)


def _most(memory: Mapping[str, Any]) -> str:
    return f"at most {_megabytes(memory.get('peak_bytes'))}"


def _megabytes(count: float | None) -> str:
    return DASH if count is None else number(count / 1e6)


def _around(around: Mapping[str, Any]) -> Cell:
    """Say how long the image takes before and the class after, or why that is not known."""
    found = around.get("median_ms")
    if not found:
        return Cell(DASH, around.get("why", ""))
    steps = ", ".join(f"{step} {number(ms)}" for step, ms in found.items())
    return Cell(steps, f"JPEG of {around['jpeg']}" if around.get("jpeg") else "")


def _repeats(timing: Timing) -> Cell:
    windows = timing.get("windows_ms") or ()
    if timing.get("stable") is None:
        text = "one" if len(windows) == 1 else DASH
        return Cell(text, "so nothing is known of its repeatability" if windows else "")
    said = f"{len(windows)}, {percent(timing['spread'], 1)}"
    return Cell(said) if timing["stable"] else Cell(said, "UNSTABLE: over 5 %", OPEN)


def unstable(report: Mapping[str, Any]) -> str:
    """Return a sentence on the timings that can't be believed to repeat, or nothing."""
    found = [
        f"{entry['file']} with {plural(timing['threads'], 'thread')} "
        f"({percent(timing['spread'], 1)} apart)"
        for entry in report["files"]
        for timing in entry.get("latency") or []
        if timing.get("stable") is False
    ]
    if not found:
        return ""
    return (
        "Unstable: repeats of the same measurement are more than 5 % apart, so these times "
        f"say little: {', '.join(found)}. Measure again on an idle machine."
    )


def conditions(report: Mapping[str, Any]) -> Table:
    """Return under what conditions the latencies were measured."""
    found = report["environment"]["conditions"] or {}
    before, after = found.get("before") or {}, found.get("after") or {}
    rows = [
        ("Processor", _text(before.get("cpu"))),
        ("Cores", _text(before.get("cores"))),
        ("Cores usable", _text(before.get("usable_cores"))),
        ("Frequency governor", _text(before.get("governor"))),
        ("Frequency, MHz", _from_to(_frequency(before), _frequency(after))),
        ("Temperature, °C", _from_to(before.get("temperature_c"), after.get("temperature_c"))),
        ("Throttled", _throttled(after.get("throttled"))),
        ("Load average (1, 5, 15 min)", _averages(before, after)),
        ("Limits of the container", _limits(before.get("limits"))),
        ("Emulation", "not known" if not before else before.get("emulation") or "none found"),
        ("System", _text(before.get("platform"))),
        ("Versions", _named(found.get("versions") or {})),
    ]
    cells = [[Cell(title), Cell(text)] for title, text in rows]
    return Table([Column("Conditions"), Column("")], cells)


def _text(value: Any) -> str:
    return DASH if value is None else str(value)


def _frequency(found: Mapping[str, Any]) -> float | None:
    """Return the frequency, or the mean of all cores where only these are told."""
    every = found.get("frequencies_mhz") or []
    mean = sum(every) / len(every) if every else None
    return found.get("frequency_mhz") or mean


def _from_to(before: float | None, after: float | None) -> str:
    """Write a figure before and after.

    >>> _from_to(1500.0, 600.0)
    '1,500 before, 600 after'
    """
    if before is None and after is None:
        return DASH
    return f"{number(before)} before, {number(after)} after"


def _averages(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    found = [
        f"{', '.join(f'{one:.2f}' for one in moment['load_average'])} {when}"
        for moment, when in ((before, "before"), (after, "after"))
        if moment.get("load_average")
    ]
    return "; ".join(found) or DASH


def _throttled(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return DASH
    now, ever = found.get("now") or [], found.get("since_boot") or []
    earlier = f"; since it started: {', '.join(ever)}" if ever else ""
    return (", ".join(now) or "not now") + earlier


def _limits(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return DASH
    return _named(found) if found else "none"


def _named(found: Mapping[str, Any]) -> str:
    pairs = (
        f"{name} {number(value) if isinstance(value, float) else value}"
        for name, value in found.items()
    )
    return ", ".join(pairs) or DASH
