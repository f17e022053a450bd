"""The figures of a report that another report can be compared with, and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.latencies import counted

Report = Mapping[str, Any]


def figures(report: Report) -> dict[str, Any]:
    """Return what is compared of a report; what is not known is ``None``.

    Args:
        report: the content of a ``report.json``.
    """
    return {
        "created": report["created"],
        "data": report["data"]["name"],
        "accuracy": {
            step: _accuracy(report["accuracy"][step])
            for step in ("reference", "trained", "compact")
        },
        "counts": {
            "kept weights": report["counts"]["kept_weights"],
            "parameters": report["counts"]["after"]["parameters"],
            "MACs": report["counts"]["after"]["macs"],
        },
        "files": {
            entry["file"]: _file(entry)
            for entry in report["files"]
            if entry["state"] == "made"
        },
        "targets": {target["id"]: _target(target) for target in report["targets"]},
    }


def _file(entry: Report) -> dict[str, Any]:
    return {
        "bytes": entry["bytes"],
        "top1": _accuracy(entry["parity"]["top1"]),
        "arena_bytes": (entry.get("memory") or {}).get("greedy_bytes"),
        "latency": [_timing(timing) for timing in entry.get("latency") or []],
    }


def _accuracy(top1: Report) -> dict[str, Any]:
    return {"value": top1["value"], "n": top1["n"]}


def _timing(timing: Report) -> dict[str, Any]:
    """Return a time of the host with all that has to be equal for it to be compared."""
    typical = timing["median"] or timing["mean"]
    conditions = timing.get("conditions") or {}
    return {
        "value": typical["value"],
        "spread": _span(typical["spread"], timing.get("windows_ms") or ()),
        "threads": timing["threads"],
        "stable": timing.get("stable"),
        "cpu": (conditions.get("before") or {}).get("cpu"),
        "runtime": timing.get("runtime"),
        "version": timing.get("runtime_version"),
        "peak_bytes": (timing.get("memory") or {}).get("peak_bytes"),
    }


def _span(interval: Sequence[float] | None, repeats: Sequence[float]) -> list[float] | None:
    """Return what a time lies in: its interval and its repeats together.

    Of thousands of runs the interval alone is so narrow that any two measurements differ.
    """
    if interval is None:
        return None
    return [min(*interval, *repeats), max(*interval, *repeats)]


def _target(target: Report) -> dict[str, Any]:
    row = next((row for row in target["files"] if row["file"] == target["chosen"]), None)
    return {
        "chosen": target["chosen"],
        "latency": _on_target(row) if row else None,
        "peak_ram": row["peak_ram"]["value"] if row and row["peak_ram"] else None,
    }


def _on_target(row: Report) -> dict[str, Any] | None:
    """Return the latency that counts, with all that has to be equal to compare it."""
    found, device = counted(row), row.get("on_device") or {}
    if found is None:
        return None
    measured = found["basis"] == "measured"
    typical = device.get("typical") if measured else None
    return {
        # Of what was measured the median is compared: it is what an interval is known of.
        "value": (typical or found)["value"],
        "spread": typical and typical["spread"],
        "statistic": device["statistic"] if typical else found["conditions"].get("statistic"),
        "basis": found["basis"],
        "threads": found["conditions"].get("threads"),
        "machine": device.get("machine") if measured else None,
        "cpu": device.get("cpu") if measured else None,
        "runtime": device.get("runtime") if measured else None,
        "stable": device.get("stable") if measured else None,
    }
