"""Figures of a run: its training, its layers, its files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from pipeline.report.canvas import INK, LINE, PALE, SERIES, SOFT, Picture, svg
from pipeline.report.wording import number, part, plural, whole

# Why a channel left.
_REASONS = {"no input": PALE, "constant": SERIES[2], "no reader": SERIES[3]}


def training(report: dict[str, Any]) -> list[Picture]:
    """Draw the losses, the accuracies, the cost and the pruning events of the epochs."""
    history = report["training"]["history"]
    if not history:
        return []
    images = whole(report["data"].get("validation"))
    return [
        _losses(history),
        _curves(
            history,
            "Accuracy on validation",
            f"top-1 in %, measured, n = {images}; line: the epoch that was kept",
            [("as trained", "accuracy", 100), ("as pruned", "pruned_accuracy", 100)],
            kept=report["training"]["best_epoch"],
        ),
        _cost(history, report),
        _events(history, report["training"].get("instability")),
    ]


def layers(report: dict[str, Any]) -> list[Picture]:
    """Draw the weights of each layer before and after, and what became of its channels."""
    if not report["layers"]:
        return []
    return [_weights(report["layers"]), _channels(report["layers"])]


def files(report: dict[str, Any]) -> list[Picture]:
    """Draw the size of each file, and its accuracy against its latency."""
    sized = [entry for entry in report["files"] if entry.get("bytes") is not None]
    timed = [entry for entry in sized if entry.get("latency")]
    found = []
    if sized:
        found.append(_sizes(sized))
    if timed:
        found.append(_scatter(timed))
    return found


def _losses(history: list[dict[str, Any]]) -> Picture:
    lines = [("task", "task_loss", 1)]
    if any(epoch["budget_loss"] for epoch in history):
        lines.append(("budget", "budget_loss", 1))
    return _curves(history, "Losses", "mean of each epoch, training split, measured", lines)


def _cost(history: list[dict[str, Any]], report: dict[str, Any]) -> Picture:
    budget = report["training"].get("budget") or {}
    if not any(epoch["cost"] is not None for epoch in history):
        return Picture("Cost against budget", "this method trains without a cost", "")
    unit = str(budget.get("unit", "weights")).removesuffix("_ms")
    note = f"{unit} in % of the dense network, counted by the method at the end of each epoch"
    return _curves(
        history, "Cost against budget", note, [("cost", "cost", 100)],
        level=None if not budget else 100 * budget["part"],
    )  # fmt: skip


def _events(history: list[dict[str, Any]], final: float | None) -> Picture:
    """Draw what each pruning during training cost at once (Bartoldson 2020)."""
    title = "Instability of each pruning"
    last = "not known (test split)"
    if final is not None:
        last = f"{100 * final:.1f} % (test split, batch norm recalibrated)"
    after = f"the pruning after training cost {last}"
    events = [
        (e["epoch"], e["instability"]) for e in history if e.get("instability") is not None
    ]
    if not events:
        return Picture(title, f"none during training; {after}", "")
    note = f"part of the accuracy lost at once, in %, measured on validation; {after}"

    def draw(axes: Any) -> None:
        epochs, lost = zip(*events, strict=True)
        axes.vlines(epochs, 0, [100 * value for value in lost], color=SERIES[0], linewidth=1.4)
        axes.plot(epochs, [100 * value for value in lost], "o", color=SERIES[0], markersize=3)
        axes.axhline(0, color=LINE, linewidth=0.8)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(0.5, history[-1]["epoch"] + 0.5)

    return Picture(title, note, svg(title, note, (3.5, 2.3), draw))


def _curves(
    history: list[dict[str, Any]],
    title: str,
    note: str,
    lines: Sequence[tuple[str, str, float]],
    *,
    kept: int | None = None,
    level: float | None = None,
) -> Picture:
    """Draw figures of the history against the epoch, with the borders of the phases."""

    def draw(axes: Any) -> None:
        epochs = [epoch["epoch"] for epoch in history]
        marker = "o" if len(epochs) == 1 else ""
        for (label, key, factor), colour in zip(lines, SERIES, strict=False):
            values = [math.nan if e[key] is None else factor * e[key] for e in history]
            axes.plot(epochs, values, color=colour, label=label, marker=marker, markersize=4)
        if level is not None:
            axes.axhline(level, color=INK, linewidth=0.9, linestyle="--", label="budget")
        if kept is not None:
            axes.axvline(kept, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        for before, after in itertools.pairwise(history):
            if before["phase"] != after["phase"]:
                axes.axvline(before["epoch"] + 0.5, color=SOFT, linewidth=0.6)
                axes.annotate(
                    after["phase"], (before["epoch"] + 0.5, 1.0), xytext=(2, -1),
                    xycoords=("data", "axes fraction"), textcoords="offset points",
                    color=SOFT, va="top", fontsize=7,
                )  # fmt: skip
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.02)
        if len(epochs) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.set_ylim(0, 108 if kept is not None else 1.08 * axes.get_ylim()[1])
        axes.legend(loc="best")

    return Picture(title, note, svg(title, note, (3.5, 2.3), draw))


def _weights(found: list[dict[str, Any]]) -> Picture:
    title = "Weights of each layer"
    note = (
        "counted, logarithmic; the share is what the method kept of the dense layer, non-zero "
        "is what is left after compaction"
    )
    styles: dict[str, tuple[str, dict[str, Any]]] = {
        "dense": ("weights", {"marker": "o", "ms": 8, "color": PALE}),
        "stored": ("weights_after", {"marker": "D", "ms": 4, "color": SERIES[3]}),
        "kept": ("kept_weights", {"marker": "o", "ms": 5.5, "color": SERIES[0]}),
        "non-zero": (
            "nonzero_weights_after", {"marker": "|", "ms": 9, "mew": 1.8, "color": SERIES[1]},
        ),
    }  # fmt: skip

    def draw(axes: Any) -> None:
        for row, layer in enumerate(found):
            counts = [layer[key] for key, _ in styles.values() if layer[key]]
            if counts:
                axes.hlines(row, min(counts), max(counts), color=LINE, linewidth=1.2, zorder=1)
        for label, (key, style) in styles.items():
            rows = [row for row, layer in enumerate(found) if layer[key]]
            counts = [found[row][key] for row in rows]
            axes.plot(counts, rows, linestyle="", label=label, **{"mew": 0, **style})
        axes.set_xscale("log")
        axes.minorticks_off()
        low, high = axes.get_xlim()
        axes.set_xlim(low / 1.3, high * 1.3)
        axes.xaxis.set_major_formatter(_thousands)
        shares = [part(layer["kept_weights"], layer["weights"]) for layer in found]
        _name_rows(axes, found, shares)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1.2)

    return Picture(title, note, svg(title, note, (4.25, _height(len(found))), draw))


def _channels(found: list[dict[str, Any]]) -> Picture:
    title = "Channels of each layer"
    note = "output channels of the dense network, counted: what stayed, and what left for what"

    def draw(axes: Any) -> None:
        rows = list(range(len(found)))
        ends = [0] * len(found)
        for label, counts, colour in _fates(found):
            axes.barh(rows, counts, 0.62, left=ends, color=colour, label=label)
            ends = [end + count for end, count in zip(ends, counts, strict=True)]
        said = [f"{whole(o['channels'])} → {whole(o['channels_after'])}" for o in found]
        axes.xaxis.set_major_formatter(_thousands)
        _name_rows(axes, found, said)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.2)

    return Picture(title, note, svg(title, note, (4.25, _height(len(found)) + 0.15), draw))


def _fates(found: list[dict[str, Any]]) -> list[tuple[str, list[int], str]]:
    """Return what became of channels: a name, its count in each layer, and its colour.

    Each fate has its own colour in every report; one that no channel met is left out.
    """
    stayed = [layer["dead_but_kept"] for layer in found]
    alive = [
        (layer["channels_after"] or 0) - dead
        for layer, dead in zip(found, stayed, strict=True)
    ]
    fates = [("kept", alive, SERIES[0]), ("dead but kept", stayed, SERIES[1])]
    seen = {reason for layer in found for reason in layer["removed"]}
    for reason, colour in (_REASONS | dict.fromkeys(seen - _REASONS.keys(), SOFT)).items():
        counts = [layer["removed"].get(reason, 0) for layer in found]
        fates.append((f"removed: {reason}", counts, colour))
    return [fate for fate in fates if any(fate[1])]


def _sizes(found: list[dict[str, Any]]) -> Picture:
    title = "Size of each file"
    note = "kB of 1,000 bytes, measured: plain, and after gzip -9"

    def draw(axes: Any) -> None:
        rows = list(range(len(found)))
        plain = [entry["bytes"] / 1e3 for entry in found]
        packed = [entry["gzip_bytes"] / 1e3 for entry in found]
        axes.barh(rows, plain, 0.66, color=PALE, label="plain")
        axes.barh(rows, packed, 0.36, color=SERIES[0], label="gzip")
        said = [
            f"{number(a)} kB, gzip {number(b)}" for a, b in zip(plain, packed, strict=True)
        ]
        names = [{"name": _short(entry)} for entry in found]
        axes.xaxis.set_major_formatter(_thousands)
        axes.xaxis.get_major_locator().set_params(nbins=5)
        _name_rows(axes, names, said)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return Picture(title, note, svg(title, note, (4.25, _height(len(found), 0.27)), draw))


def _scatter(found: list[dict[str, Any]]) -> Picture:
    threads = found[0]["latency"][0]["threads"]
    images = found[0]["parity"]["top1"]["n"]
    runs = found[0]["latency"][0]["median"]["n"]
    title = "Accuracy against latency"
    note = (
        f"top-1 in % with its 95 % interval, n = {whole(images)}; median ms on the host with "
        f"{plural(threads, 'thread')}, n = {whole(runs)}; both measured"
    )
    schemes = list(dict.fromkeys(_scheme(entry) for entry in found))
    formats = list(dict.fromkeys(entry["format"] for entry in found))

    def draw(axes: Any) -> None:
        for index, entry in enumerate(found):
            median, top1 = entry["latency"][0]["median"], entry["parity"]["top1"]
            place = schemes.index(_scheme(entry))
            colour = SERIES[place % len(SERIES)]
            marker = "os^Dv"[formats.index(entry["format"]) % 5]
            y = 100 * top1["value"]
            low, high = (100 * end for end in top1["spread"]) if top1["spread"] else (y, y)
            axes.errorbar(
                [median["value"]], [y], yerr=[[max(0, y - low)], [max(0, high - y)]],
                fmt=marker, color=colour, elinewidth=0.9, capsize=2, label=_timed_name(entry),
                markersize=max(4, 9 - index), markeredgewidth=1.5,
                # When the colours come round again, the marks are filled.
                markerfacecolor="none" if place < len(SERIES) else colour,
            )  # fmt: skip
        values = [entry["latency"][0]["median"]["value"] for entry in found]
        if max(values) > 20 * min(values):
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.xaxis.set_major_formatter(lambda value, _place: f"{value:g}")
        else:
            axes.set_xlim(0, None)
        axes.margins(0.1)
        axes.set_xlabel("median latency, ms")
        axes.set_ylabel("top-1, %")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.2)

    height = 2.3 + 0.17 * math.ceil(len(found) / 2)
    return Picture(title, note, svg(title, note, (4.25, height), draw))


def _short(entry: dict[str, Any]) -> str:
    wrong = " (wrong)" if entry["state"] == "wrong" else ""
    return f"{_scheme(entry)} {entry['format']}{wrong}"


def _timed_name(entry: dict[str, Any]) -> str:
    """Name a file, and say where its time can't be relied on."""
    unstable = entry["latency"][0].get("stable") is False
    return f"{_short(entry)}{' (unstable)' if unstable else ''}"


def _scheme(entry: dict[str, Any]) -> str:
    return "-".join(filter(None, [entry["scheme"], entry.get("variant")]))


def _name_rows(axes: Any, found: list[dict[str, Any]], said: list[str]) -> None:
    """Write a name on the left and a figure on the right of each row, first row on top."""
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_yticks(range(len(found)), [_clipped(str(entry["name"])) for entry in found])
    axes.grid(visible=False, axis="y")
    for row, text in enumerate(said):
        axes.annotate(
            text, (1.0, row), xycoords=("axes fraction", "data"), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=7.5, color=INK,
            annotation_clip=False,
        )  # fmt: skip


def _clipped(name: str) -> str:
    return name if len(name) <= 26 else f"…{name[-25:]}"


def _thousands(value: float, _: int | None = None) -> str:
    """Write a tick: 200, 2k, 2M.

    >>> _thousands(200.0), _thousands(2500.0), _thousands(1e6)
    ('200', '2.5k', '1M')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _height(rows: int, each: float = 0.2) -> float:
    return 0.75 + each * max(rows, 3)
