"""Accuracy against latency against bytes, one small picture a target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.report.canvas import INK, SERIES, SOFT, Picture, svg
from pipeline.report.latencies import counted, is_unstable
from pipeline.report.wording import plural

_SIZE = (3.6, 2.5)  # inches
_LARGEST, _SMALLEST = 260.0, 9.0  # points squared: of the most bytes, and to be seen at all
_CLOSE = (0.11, 0.1)  # of the two axes: nearer ones share a label
_FAR = 8  # times the longest latency: a limit that is further off is told at the edge
_WORDS = {
    "measured": "filled: measured on the device, as held to the limit",
    "predicted": "open, with a bar: predicted, with its interval",
    "bound": "open, with an arrow: at least so much (a bound)",
}


class Spot(NamedTuple):
    """One file in a picture; ``number`` is its name there."""

    number: int
    ms: float
    interval: tuple[float, float] | None
    basis: str
    top1: float
    bytes: int
    format: str
    chosen: bool
    unstable: bool


class Panels(NamedTuple):
    """All pictures, what the numbers in them stand for, and what the signs mean."""

    pictures: list[Picture]
    names: list[tuple[int, str]]
    signs: str


def panels(report: Mapping[str, Any]) -> Panels:
    """Draw each target's files; where there is nothing to draw, a picture says why."""
    judged = {row["file"] for target in report["targets"] for row in target["files"]}
    names = [entry["file"] for entry in report["files"] if entry["file"] in judged]
    numbers = {name: number for number, name in enumerate(names, 1)}
    found = [(target, spots(target, report, numbers)) for target in report["targets"]]
    drawn = [spot for _, of_target in found for spot in of_target]
    bases = {spot.basis for spot in drawn}
    said = [words for basis, words in _WORDS.items() if basis in bases]
    said += ["outer ring: chosen"] if any(spot.chosen for spot in drawn) else []
    said += ["~: unstable"] if any(spot.unstable for spot in drawn) else []
    said += ["dashed: the latency granted", "area: bytes of the file"]
    shown = {spot.number for spot in drawn}
    return Panels(
        [_panel(target, of_target) for target, of_target in found],
        [(number, name) for name, number in numbers.items() if number in shown],
        "; ".join(said) if drawn else "",
    )


def spots(
    target: Mapping[str, Any], report: Mapping[str, Any], numbers: Mapping[str, int]
) -> list[Spot]:
    """Return the files of a target whose accuracy and latency are known, by its best basis."""
    entries = {entry["file"]: entry for entry in report["files"]}
    found = []
    for row in target["files"]:
        latency, entry = counted(row), entries.get(row["file"], {})
        if latency is None or not entry.get("parity") or entry.get("bytes") is None:
            continue
        low_high = latency["spread"] if latency["basis"] == "predicted" else None
        found.append(
            Spot(
                number=numbers[row["file"]],
                ms=latency["value"],
                interval=low_high and (low_high[0], low_high[1]),
                basis=latency["basis"],
                top1=100 * entry["parity"]["top1"]["value"],
                bytes=entry["bytes"],
                format=entry["format"],
                chosen=row["file"] == target["chosen"],
                unstable=is_unstable(row),
            )
        )
    return found


def limit(target: Mapping[str, Any]) -> float | None:
    """Return the latency that a target grants, in ms, or ``None`` where it grants any."""
    checks = (check for row in target["files"] for check in row["checks"])
    found = next((check["limit"] for check in checks if check["name"] == "latency"), None)
    return float(found.removesuffix(" ms")) if found else None


def _panel(target: Mapping[str, Any], found: list[Spot]) -> Picture:
    title = str(target["name"])
    if not found:
        why = "there was no file to judge"
        if target["files"]:
            why = "of no file both accuracy and latency are known"
        return Picture(title, f"nothing to draw: {why}", "")
    granted = limit(target)
    bases = list(dict.fromkeys(spot.basis for spot in found))
    note = f"{plural(len(found), 'file')}, latency {' or '.join(bases)}"
    if granted is not None:
        note += f"; {granted:g} ms granted"
    picture = svg(title, note, _SIZE, lambda axes: _draw(axes, found, granted))
    return Picture(title, note, picture)


def _draw(axes: Any, found: list[Spot], granted: float | None) -> None:
    ends = [end for spot in found for end in (spot.interval or (spot.ms, spot.ms))]
    is_near = granted is not None and granted <= _FAR * max(ends)
    _scale(axes, [*ends, granted] if granted and is_near else ends)
    bottom, top = min(spot.top1 for spot in found), max(spot.top1 for spot in found)
    room = max(0.25 * (top - bottom), 0.5)
    axes.set_ylim(bottom - room, top + 1.6 * room)
    most = max(spot.bytes for spot in found)
    for spot in sorted(found, key=lambda one: -one.bytes):  # small ones in front
        _mark(axes, spot, max(_LARGEST * spot.bytes / most, _SMALLEST))
    if is_near:
        axes.axvline(granted, color=INK, linewidth=0.9, linestyle="--")
    elif granted is not None:
        axes.annotate(
            f"limit {granted:g} ms →", (1, 1), xycoords="axes fraction", ha="right", va="top",
            fontsize=7.5, color=SOFT,
        )  # fmt: skip
    _label(axes, found)
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("top-1, %")


def _scale(axes: Any, ends: list[float]) -> None:
    """Choose an axis that holds every interval and the limit, logarithmic where it must."""
    low, high = min(ends), max(ends)
    if low > 0 and high > 20 * low:
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xlim(low / 2, high * 2)
    else:
        axes.set_xlim(0, 1.18 * high)
        axes.xaxis.get_major_locator().set_params(nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _place: f"{value:.6g}")


def _mark(axes: Any, spot: Spot, area: float) -> None:
    colour = SERIES[0] if spot.format == "onnx" else SERIES[1]
    if spot.interval:
        axes.hlines(spot.top1, *spot.interval, color=colour, linewidth=0.9, alpha=0.7)
    if spot.basis == "bound":
        # An arrow starts at its text: the place itself, and ends a little to the right of it.
        place = axes.transData + _moved(axes, 22)
        axes.annotate(
            "", (spot.ms, spot.top1), (spot.ms, spot.top1), xycoords=place, textcoords="data",
            arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 0.9, "shrinkA": 0},
        )  # fmt: skip
    face = colour if spot.basis == "measured" else "none"
    style = {"edgecolors": colour, "linewidths": 1.2, "alpha": 0.85}
    axes.scatter([spot.ms], [spot.top1], s=area, facecolors=face, **style)
    if spot.chosen:
        ring = (math.sqrt(area) + 5) ** 2
        axes.scatter([spot.ms], [spot.top1], s=ring, facecolors="none", edgecolors=INK)


def _moved(axes: Any, points: float) -> Any:
    from matplotlib.transforms import ScaledTranslation

    return ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def _label(axes: Any, found: list[Spot]) -> None:
    """Write the numbers, by turns above and below; files on each other share a line."""
    for place, group in enumerate(grouped(axes, found)):
        text = ", ".join(f"{spot.number}{'~' if spot.unstable else ''}" for spot in group)
        chosen, below = any(spot.chosen for spot in group), place % 2
        end = min if below else max
        axes.annotate(
            text, (_middle(group), end(spot.top1 for spot in group)),
            xytext=(0, -12 if below else 11), textcoords="offset points", ha="center",
            va="top" if below else "bottom", fontsize=7.5, color=INK if chosen else SOFT,
            fontweight="bold" if chosen else "normal",
        )  # fmt: skip


def _middle(group: list[Spot]) -> float:
    """Return the middle of the latencies, on a logarithmic axis near enough."""
    return math.sqrt(min(spot.ms for spot in group) * max(spot.ms for spot in group))


def grouped(axes: Any, found: list[Spot]) -> list[list[Spot]]:
    """Return the files, from left to right, in lots too close together for a label each."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    log = axes.get_xscale() == "log"

    def place(spot: Spot) -> tuple[float, float]:
        x, low, high = (math.log(v) if log else v for v in (spot.ms, left, right))
        return (x - low) / (high - low), (spot.top1 - bottom) / (top - bottom)

    groups: list[list[Spot]] = []
    for spot in sorted(found, key=lambda one: one.ms):
        x, y = place(spot)
        near = (
            group
            for group in groups
            if abs(x - place(group[0])[0]) < _CLOSE[0]
            and abs(y - place(group[0])[1]) < _CLOSE[1]
        )
        group = next(near, None)
        if group is None:
            groups.append([spot])
        else:
            group.append(spot)
    return groups
