"""The records of a search, gathered into one, with what its trials have in common."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import PareError
from pipeline.core.rundir import read_json, write_json, write_text
from pipeline.report.wording import DASH, percent, whole

SCHEMA = "pare-search/1"

Report = Mapping[str, Any]


def write(folder: Path) -> dict[str, Any]:
    """Write ``search.html``, ``search.csv`` and ``results.json`` of a search.

    Args:
        folder: of a sweep or a fit, finished or not.

    Returns:
        The content of ``results.json``.

    Raises:
        PareError: there is no search in the folder.
    """
    from pipeline.report.search_page import page

    report = collect(folder)
    write_json(folder / "results.json", report)
    write_text(folder / "search.csv", as_csv(report))
    write_text(folder / "search.html", page(report))
    return report


def collect(folder: Path) -> dict[str, Any]:
    """Gather what is known of a search, as plain data.

    Raises:
        PareError: there is no search in the folder.
    """
    try:
        said = dict(read_json(folder / "search.json"))
    except (OSError, ValueError) as error:
        raise PareError(
            f"{folder} is not the folder of a search: it has no search.json that can be "
            "read. Make one: pare sweep, or pare fit."
        ) from error
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "name": folder.resolve().name,
        **said,
        "trials": [_trial(folder, trial) for trial in said["trials"]],
        "verdicts": _read(folder / "verdicts.json") or [],
    }


def _trial(folder: Path, trial: Mapping[str, Any]) -> dict[str, Any]:
    outcome = _read(folder / "outcomes" / f"{trial['name']}.json") or {"state": "not run"}
    names = ("state", "why", "seconds", "executed", "shared", "warnings", "figures")
    return {**trial, **{name: outcome.get(name) for name in names}}


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


class Combination(NamedTuple):
    """Trials that differ in nothing but the seed; figures as mean and deviation, in words."""

    name: str
    seeds: str
    accuracy: str
    parameters: str
    macs: str
    bytes: str
    states: str


def combinations(report: Report) -> list[Combination]:
    """Return the trials, those of one combination of settings together, in their order."""
    return [_combined(name, trials) for name, trials in grouped(report).items()]


def grouped(report: Report) -> dict[str, list[Any]]:
    """Return the trials by their settings without the seed, in words."""
    found: dict[str, list[Any]] = {}
    for trial in latest(report):
        found.setdefault(settings_text(trial["settings"]), []).append(trial)
    return found


def latest(report: Report) -> list[Any]:
    """Return the trials without those that another went on with and finished."""
    done = {trial["goes_on"] for trial in report["trials"] if trial["state"] == "finished"}
    return [trial for trial in report["trials"] if trial["name"] not in done]


def settings_text(settings: Mapping[str, Any]) -> str:
    """Write settings in a line, without the seed.

    >>> settings_text({"budget.weights": 0.1, "method.name": "reparam", "seed": 3})
    'budget.weights = 0.1, method.name = reparam'
    """
    own = ((key, value) for key, value in settings.items() if key != "seed")
    return ", ".join(f"{key} = {_plain(value)}" for key, value in own) or "the recipe"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _combined(name: str, trials: Sequence[Any]) -> Combination:
    done = [trial["figures"] for trial in trials if trial["state"] == "finished"]
    other = [trial["state"] for trial in trials if trial["state"] != "finished"]
    sizes = [min(size) for one in done if (size := [b for _, b, _ in files(one)])]
    return Combination(
        name,
        str(len(done)),
        spread([one["accuracy"] for one in done if "accuracy" in one]),
        _range([one["parameters"] for one in done if "parameters" in one]),
        _range([one["macs"] for one in done if "macs" in one]),
        _range(sizes),
        ", ".join(f"{other.count(state)} {state}" for state in dict.fromkeys(other)),
    )


def files(figures: Report) -> Iterator[tuple[str, int, float]]:
    """Yield the name, the bytes and the top-1 of each file of a trial."""
    for name, file in figures.get("files", {}).items():
        yield name, file["bytes"], file["accuracy"]


def spread(accuracies: Sequence[float]) -> str:
    """Write fractions as mean and standard deviation in percent.

    >>> spread([0.98, 0.99]), spread([0.5])
    ('98.50 % ± 0.71', '50.00 %')
    """
    if not accuracies:
        return DASH
    mean = percent(statistics.mean(accuracies))
    if len(accuracies) == 1:
        return mean
    return f"{mean} ± {100 * statistics.stdev(accuracies):.2f}"


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return DASH
    low, high = min(counts), max(counts)
    return whole(low) if low == high else f"{whole(low)} to {whole(high)}"


def as_csv(report: Report) -> str:
    """Return a line a trial: its settings, what became of it, its figures."""
    rows = [_row(trial) for trial in report["trials"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(trial: Report) -> dict[str, Any]:
    row = {"trial": trial["name"], **trial["settings"]}
    row |= {name: trial[name] for name in ("state", "why", "seconds")}
    return {**row, **dict(_flat(trial["figures"] or {}))}


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}: ")
        elif isinstance(value, list):
            yield f"{path}{key}", "; ".join(map(str, value))
        else:
            yield f"{path}{key}", value
