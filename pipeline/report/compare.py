"""What differs between runs: their recipes, their figures, and what became worse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pipeline.report.figures import figures

Result = Literal[
    "same", "better", "worse", "regression", "no change shown", "different", "not compared"
]
Figures = Mapping[str, Any]

WORSE = 0.05  # of a latency, of bytes, of memory: more is a regression
POINTS = 0.005  # of accuracy: more is a regression
_NOISE = 1e-9  # of decimal fractions, so that exactly so much is none


class Line(NamedTuple):
    """One figure in all runs, and the last held against the first.

    Attributes:
        values: one a run; ``None`` where a run does not know it.
        change: of the last against the first, as a fraction; of an accuracy the difference.
        why: why it is not compared, or what speaks against a change.
    """

    quantity: str
    of: str
    unit: str
    values: list[float | str | None]
    change: float | None
    result: Result
    why: str


class Setting(NamedTuple):
    """One key of the recipe that is not the same in all runs; ``None`` where it is not set."""

    key: str
    values: list[Any]


def settings(recipes: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """Return the keys in which recipes differ, nested ones joined by dots."""
    flat = [dict(_flat(recipe)) for recipe in recipes]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = [Setting(key, [one.get(key) for one in flat]) for key in keys]
    return [one for one in found if any(value != one.values[0] for value in one.values)]


def results(reports: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Return every figure of the reports, the last held against the first."""
    return lines([figures(report) for report in reports])


def lines(found: Sequence[Figures]) -> list[Line]:
    """Return every figure that any of the runs has, in a fixed order."""
    parts = (_accuracies, _counts, _files, _host, _targets)
    every = (line for part in parts for line in part(found))
    return [line for line in every if any(value is not None for value in line.values)]


def regressions(found: Sequence[Line]) -> list[Line]:
    """Return the lines that became worse by more than is granted."""
    return [line for line in found if line.result == "regression"]


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _accuracies(found: Sequence[Figures]) -> Iterator[Line]:
    for step in found[0]["accuracy"]:
        name = f"network, {step}"
        yield _accuracy(name, [one["accuracy"].get(step) for one in found], found)
    for file in _names(found, "files"):
        yield _accuracy(file, [_of(one, "files", file, "top1") for one in found], found)


def _accuracy(of: str, tops: list[Any], found: Sequence[Figures]) -> Line:
    values = [top and top["value"] for top in tops]
    why = ""
    if tops[0] and tops[-1]:
        test = [(one["data"], top["n"]) for one, top in zip(found, tops, strict=True) if top]
        why = "other test images" if test[0] != test[-1] else ""
    return _line("top-1", of, "", values, why, _judge_accuracy)


def _counts(found: Sequence[Figures]) -> Iterator[Line]:
    for name in found[0]["counts"]:
        values = [one["counts"].get(name) for one in found]
        yield _line(name, "network", "", values, "", _judge_count)


def _files(found: Sequence[Figures]) -> Iterator[Line]:
    for quantity, key in (("size", "bytes"), ("activations, planned", "arena_bytes")):
        for file in _names(found, "files"):
            values = [_of(one, "files", file, key) for one in found]
            yield _line(quantity, file, "B", values, "", _judge_cost)


def _host(found: Sequence[Figures]) -> Iterator[Line]:
    """Compare the times and the memory of the host, where it was the same one.

    Memory is that of the whole process, taken once: its change is told and judged by no one.
    """
    for file in _names(found, "files"):
        timed = [_timings(one, file) for one in found]
        for threads in sorted({count for one in timed for count in one}):
            taken = [one.get(threads) for one in timed]
            of = f"{file}, {threads} thread{'s' if threads > 1 else ''}"
            first, last = taken[0], taken[-1]
            times, peaks = (
                [one and one[key] for one in taken] for key in ("value", "peak_bytes")
            )
            why = _unlike(first, last)
            time = _line(
                "host latency", of, "ms", times, why or _unsteady(first, last), _judge_cost
            )
            yield _overlapping(time, taken)
            yield _line("host peak memory", of, "B", peaks, why, _judge_count)


def _timings(one: Figures, file: str) -> dict[int, Any]:
    return {timing["threads"]: timing for timing in _of(one, "files", file, "latency") or []}


def _unlike(first: Any, last: Any) -> str:
    """Say why two measurements of a host can't be compared, or nothing."""
    if not (first and last):
        return ""
    for key, name in (("cpu", "CPU"), ("version", "runtime version"), ("runtime", "runtime")):
        if first[key] is None or last[key] is None:
            return f"{name} not known"
        if first[key] != last[key]:
            return f"other {name}: {first[key]}, {last[key]}"
    return ""


def _unsteady(first: Any, last: Any) -> str:
    """Say why two times can't be believed to repeat, or nothing."""
    if not (first and last):
        return ""
    states = [one["stable"] for one in (first, last)]
    if False in states:
        which = "both" if states == [False, False] else "first" if not states[0] else "last"
        return f"unstable: {which}"
    return "measured once only, so its stability is not known" if None in states else ""


def _overlapping(line: Line, taken: list[Any]) -> Line:
    """Take back a change that two overlapping spans of repeats do not show."""
    first, last = taken[0], taken[-1]
    if line.result not in ("better", "worse", "regression"):
        return line
    if not (first["spread"] and last["spread"]):
        return line._replace(result="not compared", why="no interval is known")
    apart = first["spread"][1] < last["spread"][0] or last["spread"][1] < first["spread"][0]
    if apart:
        return line
    return line._replace(result="no change shown", why="the repeats overlap")


def _targets(found: Sequence[Figures]) -> Iterator[Line]:
    names = _names(found, "targets")
    for name in names:
        of_run = [one["targets"].get(name) for one in found]
        chosen = [one and (one["chosen"] or "no file fits") for one in of_run]
        yield _noted(_line("verdict", name, "", chosen, "", _judge_verdict), found, name)
    for name in names:
        line = _on_target(name, [_of(one, "targets", name, "latency") for one in found])
        yield _noted(line, found, name)
    for name in names:
        values = [_of(one, "targets", name, "peak_ram") for one in found]
        line = _line("peak RAM, predicted", name, "MB", values, "", _judge_cost)
        yield _noted(line, found, name)


def _noted(line: Line, found: Sequence[Figures], target: str) -> Line:
    """Say beside a figure that it is of another file than before."""
    first, last = (_of(one, "targets", target, "chosen") for one in (found[0], found[-1]))
    if first is None or last is None or first == last:
        return line
    return line._replace(why=line.why or f"of {last}, not {first}")


def _on_target(name: str, taken: list[Any]) -> Line:
    first, last = taken[0], taken[-1]
    bases = " or ".join(dict.fromkeys(one["basis"] for one in taken if one))
    values = [one and one["value"] for one in taken]
    line = _line(
        f"latency, {bases}" if bases else "latency",
        name, "ms", values, _unlike_there(first, last), _judge_cost,
    )  # fmt: skip
    measured = first and last and first["basis"] == last["basis"] == "measured"
    return _overlapping(line, taken) if measured else line


def _unlike_there(first: Any, last: Any) -> str:
    """Say why latencies on a target can't be compared; two bases never are."""
    if not (first and last):
        return ""
    keys = ("basis", "statistic", "threads", "machine", "cpu", "runtime")
    other = [key for key in keys if first[key] != last[key]]
    if other:
        return f"other {other[0]}: {first[other[0]]}, {last[other[0]]}"
    return _unsteady(first, last) if first["basis"] == "measured" else ""


Judge = Callable[[Any, Any], tuple[float | None, Result]]


def _line(
    quantity: str, of: str, unit: str, values: list[Any], why: str, judge: Judge
) -> Line:
    first, last = values[0], values[-1]
    if first is None or last is None:
        where = "the last" if first is not None else "the first"
        where = "the first and the last" if first is last else where
        return Line(quantity, of, unit, values, None, "not compared", f"not known of {where}")
    if why:
        return Line(quantity, of, unit, values, None, "not compared", why)
    return Line(quantity, of, unit, values, *judge(first, last), "")


def _judge_cost(first: float, last: float) -> tuple[float | None, Result]:
    """Judge what should be little."""
    if first == last:
        return 0.0, "same"
    if not first:
        return None, "regression"  # something where there was nothing
    change = last / first - 1
    if change > WORSE + _NOISE:
        return change, "regression"
    return change, "worse" if change > 0 else "better"


def _judge_count(first: float, last: float) -> tuple[float | None, Result]:
    """Judge what is neither good nor bad by itself."""
    if first == last:
        return 0.0, "same"
    return (last / first - 1 if first else None), "different"


def _judge_accuracy(first: float, last: float) -> tuple[float | None, Result]:
    change = last - first
    if not change:
        return 0.0, "same"
    if change < -POINTS - _NOISE:
        return change, "regression"
    return change, "worse" if change < 0 else "better"


def _judge_verdict(first: str, last: str) -> tuple[float | None, Result]:
    if first == last:
        return None, "same"
    if last == "no file fits":
        return None, "regression"
    return None, "better" if first == "no file fits" else "different"


def _names(found: Sequence[Figures], table: str) -> list[str]:
    return list(dict.fromkeys(name for one in found for name in one[table]))


def _of(one: Figures, table: str, name: str, key: str) -> Any:
    return (one[table].get(name) or {}).get(key)
