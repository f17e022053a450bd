"""The verdict of each target, and the run in one sentence."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipeline.report.tables import BAD, GOOD, OPEN, Cell, Column, Table
from pipeline.report.wording import (
    DASH,
    accuracy_interval,
    interval,
    number,
    part,
    percent,
    plural,
    whole,
)


class Fact(NamedTuple):
    """One figure of a card, with how it was obtained."""

    name: str
    figure: str
    basis: str


class Card(NamedTuple):
    """What one target gets.

    Attributes:
        state: the verdict in words; ``mark`` is its colour.
        file: the chosen one, or nothing.
        shown: the chosen file, or the nearest one.
        lost: every other file with the reason it lost.
    """

    id: str
    name: str
    state: str
    mark: str
    file: str | None
    shown: str | None
    facts: list[Fact]
    why: str
    open: list[str]
    lost: Table


def cards(report: dict[str, Any]) -> list[Card]:
    """Return a card for each target, in the recipe's order."""
    return [_card(target, report) for target in report["targets"]]


def _card(target: dict[str, Any], report: dict[str, Any]) -> Card:
    shown = nearest(target)
    row = next((row for row in target["files"] if row["file"] == shown), None)
    entry = next((entry for entry in report["files"] if entry["file"] == shown), None)
    unknown = [check for check in row["checks"] if check["passed"] is None] if row else []
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
        facts=_facts(row, entry) if row and entry else [],
        why=target["why"],
        open=[f"{c['name']}: {c['why']}. {_sentence(c['remedy'])}".strip() for c in unknown],
        lost=_lost(target),
    )


def nearest(target: dict[str, Any]) -> str | None:
    """Return the chosen file of a target, or the one that breaks the fewest limits."""
    found = target["chosen"] or target["nearest"]
    return str(found) if found else None


def latency(row: dict[str, Any]) -> Fact:
    """Return a file's predicted latency, or the bound, said to be one."""
    predicted, bound = row["predicted"], row["bound"]
    if predicted:
        found = predicted["conditions"]
        basis = ["predicted", f"{interval(predicted)} ms" if interval(predicted) else ""]
        basis.append(plural(found["threads"], "thread") if found.get("threads") else "")
        if found.get("loo_mape_pct") is not None:
            models = found.get("calibration_models")
            over = f" over {plural(models, 'model')}" if models else ""
            basis.append(f"leave-one-out error {number(found['loo_mape_pct'])} %{over}")
        if found.get("calibration_basis"):
            basis.append(f"calibration {found['calibration_basis']}")
        basis.append("extrapolated" if found.get("extrapolated") else "")
        return Fact("Latency", f"{number(predicted['value'])} ms", _joined(basis))
    if bound:
        threads = bound["conditions"].get("threads")
        basis = ["bound, not a prediction", plural(threads, "thread") if threads else ""]
        return Fact("Latency", f"at least {number(bound['value'])} ms", _joined(basis))
    return Fact("Latency", DASH, "neither a calibration nor a peak is known")


def _facts(row: dict[str, Any], entry: dict[str, Any]) -> list[Fact]:
    facts = [latency(row)]
    ram = row["peak_ram"]
    if ram:
        found = ram["conditions"]
        basis = (
            f"predicted: arena {whole(found.get('arena_bytes'))} B and weights "
            f"{whole(found.get('weight_bytes'))} B, without the runtime"
        )
        facts.append(Fact("Peak RAM", f"{number(ram['value'])} {ram['unit']}", basis))
    else:
        facts.append(Fact("Peak RAM", DASH, ""))
    gzip = f"measured; gzip {whole(entry.get('gzip_bytes'))} B"
    facts.append(Fact("File", f"{whole(entry.get('bytes'))} B", gzip))
    top1 = entry["parity"]["top1"]
    basis = f"{accuracy_interval(top1)}, {top1['basis']}"
    return [*facts, Fact("Top-1", percent(top1["value"]), basis)]


def _lost(target: dict[str, Any]) -> Table:
    columns = [
        Column("File"),
        Column("Latency", "ms, predicted or a bound"),
        Column("Peak RAM", "MB, predicted", numeric=True),
        Column("Why it lost"),
    ]
    rows = []
    for row in target["files"]:
        if row["file"] in target["lost"]:
            fact = latency(row)
            kind = "predicted" if row["predicted"] else "bound" if row["bound"] else ""
            rows.append(
                [
                    Cell(row["file"], mark="code"),
                    Cell(fact.figure.removesuffix(" ms"), kind),
                    Cell(number(row["peak_ram"]["value"]) if row["peak_ram"] else DASH),
                    Cell(target["lost"][row["file"]]),
                ]
            )
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


def _joined(parts: list[str]) -> str:
    return ", ".join(text for text in parts if text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
