"""What the devices themselves measured of a run's files, from the profiles in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.core.rundir import device_profiles, read_json

_CLAIMED = ("p90_claim", "p95", "median", "mean")  # a verdict rests on one of these


def with_devices(
    folder: Path, target: Mapping[str, Any], hashes: Mapping[str, str]
) -> dict[str, Any]:
    """Return a target's verdicts, each with the machine that measured the file.

    Args:
        folder: of the run.
        target: as the profile stage left it.
        hashes: of the run's files, by name.
    """
    records = {one["file"]["sha256"]: one for one in _records(folder, target["id"])}
    files = [
        {**row, "on_device": _told(row, records.get(hashes.get(row["file"], "")))}
        for row in target["files"]
    ]
    return {**target, "files": files}


def _records(folder: Path, target: str) -> Iterator[dict[str, Any]]:
    for path in sorted(device_profiles(folder, target).glob("*.json")):
        with suppress(OSError, ValueError):  # harmed: the profile stage is who refuses it
            found = read_json(path)
            if _is_whole(found) and found["target"] == target:
                yield found


def _is_whole(found: Any) -> bool:
    needed = {"target", "file", "refused", "stranger", "measured", "on", "created"}
    return isinstance(found, dict) and needed <= found.keys() and "sha256" in found["file"]


def _told(row: Mapping[str, Any], record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what a record adds to a verdict; nothing where it is not of the same figure."""
    if record is None:
        return None
    not_counted = record["refused"] or record["stranger"]
    measured, taken = row.get("measured"), record["measured"]
    if bool(measured) == bool(not_counted) or (measured and not _is_of(measured, taken)):
        return None  # measured since the verdicts were given: these rest on something else
    about = {"machine": record["on"], "created": record["created"], "why_not": not_counted}
    return about | (_figures(taken) if taken else {})


def _is_of(measured: Mapping[str, Any], taken: Mapping[str, Any]) -> bool:
    return measured["value"] in [taken[name]["value"] for name in _CLAIMED if taken[name]]


def _figures(taken: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "cpu": taken["conditions"]["before"].get("cpu"),
        "runtime": f"{taken['runtime']} {taken['runtime_version']}",
        "typical": taken["median"] or taken["mean"],
        "statistic": "median" if taken["median"] else "mean",
        "stable": taken["stable"],
        "spread": taken["spread"],
    }
