"""The verdict of each target, and the run in one sentence."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipeline.report.latencies import Fact, facts, short
from pipeline.report.tables import BAD, GOOD, OPEN, Cell, Column, Table
from pipeline.report.wording import (
    DASH,
    accuracy_interval,
    number,
    part,
    percent,
    plural,
    whole,
)


class Card(NamedTuple):
    """What one target gets.

    Attributes:
        state: the verdict in words; ``mark`` is its colour.
        file: the chosen one, or nothing.
        shown: the chosen file, or the nearest one.
        latency: all that is known of it, the measured one first.
        limits: how many limits the file keeps, breaks and leaves open, by name.
        broken: every broken limit with what to do.
        lost: every other file with the reason it lost.
    """

    id: str
    name: str
    state: str
    mark: str
    file: str | None
    shown: str | None
    latency: list[Fact]
    facts: list[Fact]
    limits: str
    why: str
    broken: list[str]
    open: list[str]
    lost: Table


def cards(report: dict[str, Any]) -> list[Card]:
    """Return a card for each target, in the recipe's order."""
    return [_card(target, report) for target in report["targets"]]


def _card(target: dict[str, Any], report: dict[str, Any]) -> Card:
    shown = nearest(target)
    row = next((row for row in target["files"] if row["file"] == shown), None)
    entry = next((entry for entry in report["files"] if entry["file"] == shown), None)
    checks = row["checks"] if row else []
    unknown = [check for check in checks if check["passed"] is None]
    broken = [check for check in checks if check["passed"] is False]
    if not target["chosen"]:
        state, mark = "no file fits", BAD
    elif unknown:
        state, mark = f"fits, {plural(len(unknown), 'limit')} unchecked", OPEN
    else:
        state, mark = "fits", GOOD
    return Card(
        id=target["id"],
        name=target["name"],
        state=state,
        mark=mark,
        file=target["chosen"],
        shown=shown,
        latency=facts(row) if row and entry else [],
        facts=_facts(row, entry) if row and entry else [],
        limits=_limits(checks),
        why=_nearest_breaks(shown, broken) if broken else target["why"],
        broken=[_told(check) for check in broken],
        open=[_told(check) for check in unknown],
        lost=_lost(target),
    )


def nearest(target: dict[str, Any]) -> str | None:
    """Return the chosen file of a target, or the one that breaks the fewest limits."""
    found = target["chosen"] or target["nearest"]
    return str(found) if found else None


def _told(check: dict[str, Any]) -> str:
    """Say of a limit what is the matter and what to do."""
    return f"{check['name']}: {check['why']}. {_sentence(check['remedy'])}".strip()


def _nearest_breaks(file: str | None, broken: list[dict[str, Any]]) -> str:
    return f"Nearest is {file}, which breaks {plural(len(broken), 'limit')}:"


def _limits(checks: list[dict[str, Any]]) -> str:
    """Say how many limits are kept, and name those that are not."""
    kept = sum(check["passed"] is True for check in checks)
    said = [f"{kept} of {plural(len(checks), 'limit')} kept"] if checks else []
    for result, verb in ((False, "broken"), (None, "not checked")):
        names = [check["name"] for check in checks if check["passed"] is result]
        said += [f"{verb}: {', '.join(names)}"] if names else []
    return "; ".join(said)


def _facts(row: dict[str, Any], entry: dict[str, Any]) -> list[Fact]:
    found = []
    ram = row["peak_ram"]
    if ram:
        how = ram["conditions"]
        basis = (
            f"predicted: arena {whole(how.get('arena_bytes'))} B and weights "
            f"{whole(how.get('weight_bytes'))} B, without the runtime"
        )
        found.append(Fact("Peak RAM", f"{number(ram['value'])} {ram['unit']}", basis))
    else:
        found.append(Fact("Peak RAM", DASH, ""))
    gzip = f"measured; gzip {whole(entry.get('gzip_bytes'))} B"
    found.append(Fact("File", f"{whole(entry.get('bytes'))} B", gzip))
    top1 = entry["parity"]["top1"]
    basis = f"{accuracy_interval(top1)}, {top1['basis']}"
    return [*found, Fact("Top-1", percent(top1["value"]), basis)]


def _lost(target: dict[str, Any]) -> Table:
    columns = [
        Column("File"),
        Column("Latency", "ms, each with its basis"),
        Column("Peak RAM", "MB, predicted", numeric=True),
        Column("Why it lost"),
    ]
    rows = [
        [
            Cell(row["file"], mark="code"),
            Cell(*short(row)),
            Cell(number(row["peak_ram"]["value"]) if row["peak_ram"] else DASH),
            Cell(target["lost"][row["file"]]),
        ]
        for row in target["files"]
        if row["file"] in target["lost"]
    ]
    return Table(columns, rows)


def headline(report: dict[str, Any]) -> str:
    """Return the run in one sentence."""
    targets, counts = report["targets"], report["counts"]
    chosen = {target["chosen"] for target in targets if target["chosen"]}
    if targets:
        fitting = sum(bool(target["chosen"]) for target in targets)
        verb = "has" if fitting == 1 else "have"
        first = f"{fitting} of {plural(len(targets), 'target')} {verb} a file that fits"
    else:
        made = sum(entry["state"] == "made" for entry in report["files"])
        files = plural(len(report["files"]), "file")
        first = f"{made} of {files} made, for no target in particular"
    before, after = counts["before"]["parameters"], counts["after"]["parameters"]
    size = f"went from {whole(before)} to {whole(after)}"
    return (
        f"{first}: {_value(report, 'model')} on {_value(report, 'data')}, {_pruning(report)}, "
        f"{size if before != after else f'keeps its {whole(after)}'} parameters with equal "
        f"outputs{_paid(counts['paid'])}, and {_reach(report, chosen)}."
    )


def _paid(paid: dict[str, Any] | None) -> str:
    """Say what left beyond equal outputs, where that was asked for."""
    if not paid or not paid["removed"]:
        return ""
    return (
        f", then to {whole(paid['parameters'])} less {plural(paid['channels'], 'channel')} "
        f"dead on {plural(paid['images'], 'image')}"
    )


def _pruning(report: dict[str, Any]) -> str:
    kept, total = report["counts"]["kept_weights"], report["counts"]["before"]["weights"]
    method = _value(report, "method")
    if kept == total:
        return f"trained by {method} and not pruned"
    return f"pruned by {method} to {part(kept, total)} of its weights{_spent(report)}"


def _spent(report: dict[str, Any]) -> str:
    """Say what the kept weights cost, where the budget was not counted in weights."""
    budget = report["training"].get("budget") or {}
    unit = budget.get("unit", "weights")
    if unit == "weights" or "spent" not in budget:
        return ""
    spent, granted = budget["spent"], budget["part"] * budget["whole"]
    if unit == "macs":
        spent, granted = (part(value, budget["whole"]) for value in (spent, granted))
        return f" ({spent} of its MACs, {granted} granted)"
    if unit == "bytes":
        return f" ({whole(round(spent))} bytes, {whole(round(granted))} granted)"
    return f" ({spent:.3g} ms predicted, {granted:.3g} ms granted)"


def _value(report: dict[str, Any], table: str) -> str:
    return str(report["recipe"].get(table, {}).get("name", DASH))


def _reach(report: dict[str, Any], chosen: set[str]) -> str:
    """Say what accuracy the files that count have."""
    found = [
        entry["parity"]["top1"]
        for entry in report["files"]
        if entry["state"] == "made" and (not chosen or entry["file"] in chosen)
    ]
    if not found:
        return "no file was made"
    shares = " to ".join(dict.fromkeys(percent(share) for share in _ends(found)))
    which = "the chosen files reach" if chosen else "its files reach"
    return f"{which} {shares} top-1 on {plural(found[0]['n'], 'test image')}"


def _ends(found: list[dict[str, Any]]) -> tuple[float, float]:
    values = [measure["value"] for measure in found]
    return min(values), max(values)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
