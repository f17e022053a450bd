"""Figures of a search: accuracy against each cost, and methods against the rate."""

from __future__ import annotations

import html
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.report.canvas import INK, LINE, SERIES, SOFT, Picture, svg
from pipeline.report.pareto import front, knee
from pipeline.report.search import files, latest, settings_text
from pipeline.report.wording import number, percent

_SIZE = (5.6, 3.4)  # inches
_DASHES = ("-", "--", ":", "-.")


class Mark(NamedTuple):
    """One point: what it costs and reaches, what it is, and the row that tells of it."""

    cost: float
    accuracy: float
    text: str
    row: str


def fronts(report: Mapping[str, Any]) -> list[Picture]:
    """Draw top-1 against bytes, MACs and each target's latency, with the unbeaten ones."""
    done = [trial for trial in latest(report) if trial["state"] == "finished"]
    found = [
        _front("Top-1 against file size", "bytes of a file", "measured", _of_files(done)),
        _front(
            "Top-1 against MACs", "multiply-accumulates of an image", "counted", _macs(done)
        ),
    ]
    for target in dict.fromkeys(
        t for trial in done for t in trial["figures"].get("targets", {})
    ):
        for basis in ("measured", "predicted"):
            marks = _latencies(done, target, basis)
            title = f"Top-1 against latency on {target}"
            found.append(_front(title, "ms", basis, marks))
    return [picture for picture in found if picture]


def rates(report: Mapping[str, Any]) -> list[Picture]:
    """Draw top-1 against each setting that is a number, the others apart."""
    done = [t for t in latest(report) if t["state"] == "finished"]
    keys = dict.fromkeys(key for trial in done for key in trial["settings"] if key != "seed")
    numeric = [key for key in keys if _is_axis([t["settings"].get(key) for t in done])]
    return [picture for key in numeric if (picture := _rate(done, key))]


def _of_files(done: Sequence[Any]) -> list[Mark]:
    return [
        Mark(size, top1, f"{name}, {size:,} B", trial["name"])._replace(
            text=f"{_said(trial)}: {name}, {size:,} B, {percent(top1)}"
        )
        for trial in done
        for name, size, top1 in files(trial["figures"])
    ]


def _macs(done: Sequence[Any]) -> list[Mark]:
    found = []
    for trial in done:
        own = trial["figures"]
        if own.get("macs") and "accuracy" in own:
            text = f"{_said(trial)}: {own['macs']:,} MACs, {percent(own['accuracy'])}"
            found.append(Mark(own["macs"], own["accuracy"], text, trial["name"]))
    return found


def _latencies(done: Sequence[Any], target: str, basis: str) -> list[Mark]:
    found = []
    for trial in done:
        got = trial["figures"].get("targets", {}).get(target, {})
        if got.get("latency_basis") == basis and got["chosen"]:
            top1 = trial["figures"]["files"][got["chosen"]]["accuracy"]
            told = f"{got['chosen']}, {number(got['latency_ms'])} ms, {percent(top1)}"
            text = f"{_said(trial)}: {told}"
            found.append(Mark(got["latency_ms"], top1, text, trial["name"]))
    return found


def _said(trial: Mapping[str, Any]) -> str:
    text = settings_text(trial["settings"])
    seed = trial["settings"].get("seed")
    return text if seed is None else f"{text}, seed {seed}"


def _front(title: str, cost: str, basis: str, marks: Sequence[Mark]) -> Picture | None:
    """Draw marks with a line through those that nothing beats, and a ring round the knee."""
    if not marks:
        return None
    points = [(mark.cost, 100 * mark.accuracy) for mark in marks]
    best = front(points)
    bend = knee([points[n] for n in best])
    note = f"{cost}, {basis}; top-1 of the test split in %, measured; line: beaten by none"
    if bend is not None:
        mark = marks[best[bend]]
        note += f"; ring, the knee: {mark.text}"

    def draw(axes: Any) -> None:
        axes.plot(*zip(*(points[n] for n in best), strict=True), color=SERIES[0], zorder=1,
                  drawstyle="steps-post")  # fmt: skip
        for place, (x, y) in enumerate(points):
            colour = SERIES[0] if place in best else LINE
            url = f"#mark{place}"
            axes.scatter([x], [y], s=26, color=colour, edgecolors=SOFT, linewidths=0.5,
                         zorder=2, urls=[url])  # fmt: skip
        if bend is not None:
            x, y = points[best[bend]]
            axes.scatter([x], [y], s=110, facecolors="none", edgecolors=INK, zorder=3)
        _scale(axes, [x for x, _ in points])
        _span(axes, [y for _, y in points])
        axes.set_xlabel(cost)
        axes.set_ylabel("top-1, %")

    return Picture(title, note, _with_tips(svg(title, note, _SIZE, draw), marks))


def _scale(axes: Any, values: Sequence[float]) -> None:
    """Draw what differs by factors on a logarithmic axis, its ticks in plain figures."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plain = FuncFormatter(lambda value, _: number(value))
    if min(values) > 0 and max(values) > 2 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(plain)


def _span(axes: Any, values: Sequence[float]) -> None:
    """Keep a difference that is none from filling the picture, and 100 % the most."""
    low, high = min(values), max(values)
    room = max(0.5, (high - low) / 10)
    axes.set_ylim(low - room, min(high + room, 100 + room / 2))


def _with_tips(picture: str, marks: Sequence[Mark]) -> str:
    """Let a point say what it is where the pointer rests on it, and lead to its row."""

    def tip(found: re.Match[str]) -> str:
        mark = marks[int(found[1])]
        title = html.escape(mark.text)
        return f'<a href="#trial-{html.escape(mark.row)}"><title>{title}</title>'

    return re.sub(r'<a (?:xlink:)?href="#mark(\d+)"[^>]*>', tip, picture)


def _is_axis(values: Sequence[Any]) -> bool:
    """Tell whether a setting is a number that differs."""
    plain = [value for value in values if value is not None]
    real = all(isinstance(v, int | float) and not isinstance(v, bool) for v in plain)
    return real and len(set(plain)) > 1


def _rate(done: Sequence[Any], key: str) -> Picture | None:
    """Draw the mean over the seeds with its deviation, a line for what else differs."""
    lines: dict[str, dict[float, list[float]]] = {}
    for trial in done:
        own = trial["settings"]
        if key in own and "accuracy" in trial["figures"]:
            rest = settings_text({k: v for k, v in own.items() if k != key})
            at = lines.setdefault(rest, {}).setdefault(own[key], [])
            at.append(100 * trial["figures"]["accuracy"])
    lines = {name: values for name, values in lines.items() if len(values) > 1}
    if not lines:
        return None
    note = "top-1 of the test split in %, measured: mean over the seeds, bars: one deviation"

    def draw(axes: Any) -> None:
        for place, (name, values) in enumerate(lines.items()):
            xs = sorted(values)
            means = [statistics.mean(values[x]) for x in xs]
            bars = [statistics.stdev(values[x]) if len(values[x]) > 1 else 0.0 for x in xs]
            axes.errorbar(xs, means, yerr=bars, marker="o", markersize=3.5, capsize=2,
                          color=SERIES[place % len(SERIES)], label=name,
                          linestyle=_DASHES[place // len(SERIES) % 4])  # fmt: skip
        _scale(axes, [x for values in lines.values() for x in values])
        axes.set_xlabel(key)
        axes.set_ylabel("top-1, %")
        if len(lines) > 1:
            axes.legend()

    return Picture(f"Top-1 by {key}", note, svg(f"Top-1 by {key}", note, _SIZE, draw))
