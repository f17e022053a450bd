"""What a report says of exporters, integers and the accuracy they cost, in tables."""

from __future__ import annotations

from typing import Any

from pipeline.report.tables import BAD, GOOD, OPEN, Cell, Column, Table
from pipeline.report.wording import DASH, milliseconds, number, part, percent, whole

_STATES = {"made": GOOD, "wrong": BAD, "refused": OPEN}


def candidates(report: dict[str, Any]) -> Table:
    """Return one row a candidate of each file that more than one exporter was asked for."""
    columns = [
        Column("File"),
        Column("Exporter", "and its packages"),
        Column("Size", "bytes, measured", numeric=True),
        Column("Top-1", "validation, test; measured", numeric=True),
        Column("Agreement", "with PyTorch, measured", numeric=True),
        Column("PSNR", "dB, measured", numeric=True),
        Column("Host, 1 thread", "median ms of 30 runs", numeric=True),
        Column("Outcome"),
    ]
    rows = []
    for entry in report["files"]:
        found = entry.get("candidates") or []
        for number_, one in enumerate(found if len(found) > 1 else []):
            rows.append(_candidate(entry, one, first=number_ == 0))
    return Table(columns, rows)


def _candidate(entry: dict[str, Any], one: dict[str, Any], *, first: bool) -> list[Cell]:
    parity, elected = one.get("parity"), _is_elected(entry, one)
    name = one["exporter"].removeprefix("tflite_")
    trained = "after training with rounding" if one["weights"] == "qat" else ""
    outcome = Cell("elected", entry["elected"], GOOD) if elected else _outcome(one)
    return [
        Cell(entry["file"] if first else "", mark="code"),
        Cell(name, ", ".join(filter(None, [*(one.get("made_by") or []), trained]))),
        Cell(whole(one.get("bytes"))),
        _accuracies(one, parity),
        Cell(percent(parity["agreement"], 1) if parity else DASH),
        Cell(_psnr(parity)),
        Cell(milliseconds(one.get("inference"))),
        outcome,
    ]


def _is_elected(entry: dict[str, Any], one: dict[str, Any]) -> bool:
    same = (one["exporter"], one["weights"]) == (entry.get("exporter"), entry.get("weights"))
    return entry["state"] == "made" and same


def _outcome(one: dict[str, Any]) -> Cell:
    if one["state"] == "made":
        return Cell("cross-check")
    return Cell(one["state"].upper(), one["why"], _STATES[one["state"]])


def _accuracies(one: dict[str, Any], parity: dict[str, Any] | None) -> Cell:
    if not parity:
        return Cell(DASH)
    return Cell(percent(one.get("validation_top1")), percent(parity["top1"]["value"]))


def _psnr(parity: dict[str, Any] | None) -> str:
    if not parity:
        return DASH
    return "exact" if parity["psnr_db"] is None else number(parity["psnr_db"])


def audits(report: dict[str, Any]) -> Table:
    """Return one row a file: what of it is really computed in integers."""
    columns = [
        Column("File"),
        Column("Operators", "in int8, counted", numeric=True),
        Column("MACs", "in int8, counted", numeric=True),
        Column("Float islands", "between integer parts", numeric=True),
        Column("Quantize, dequantize", "operators", numeric=True),
        Column("Input", "type, scale, zero point"),
        Column("Output", "type, scale, zero point"),
        Column("Weights", "bytes by type"),
    ]
    found = [(entry, entry["audit"]) for entry in report["files"] if entry.get("audit")]
    return Table(columns, [_audit(entry, audit) for entry, audit in found])


def _audit(entry: dict[str, Any], audit: dict[str, Any]) -> list[Cell]:
    islands = audit["islands"]
    where = "; ".join(f"{one['first']} to {one['last']}" for one in islands[:2])
    return [
        Cell(entry["file"], mark="code"),
        Cell(
            part(audit["int8_operators"], audit["computing"]),
            f"{whole(audit['int8_operators'])} of {whole(audit['computing'])}",
        ),
        Cell(
            part(audit["int8_macs"], audit["macs"]),
            ", ".join(f"{kind} {whole(n)}" for kind, n in audit["macs_by_arithmetic"].items()),
        ),
        Cell(str(len(islands)), where),
        Cell(f"{audit['quantize_ops']}, {audit['dequantize_ops']}"),
        _port(audit["inputs"]),
        _port(audit["outputs"]),
        Cell(
            ", ".join(
                f"{one['dtype']} {whole(one['bytes'])}"
                for one in audit["dtypes"]
                if one["constant"]
            )
        ),
    ]


def _port(ports: list[dict[str, Any]]) -> Cell:
    if not ports:
        return Cell(DASH)
    first = ports[0]
    scale = "" if first["scale"] is None else f"{first['scale']:.4g}, {first['zero_point']}"
    shape = " x ".join(map(str, first["shape"]))
    return Cell(f"{first['dtype']} {shape}", scale)


def findings(report: dict[str, Any]) -> Table:
    """Return the structures of the network that hurt integers, with their remedies."""
    columns = [Column("Where"), Column("What"), Column("Remedy")]
    rows = [
        [Cell(one["where"], one["kind"], "code"), Cell(one["what"]), Cell(one["remedy"])]
        for one in report["quantization"].get("findings") or []
    ]
    return Table(columns, rows)


def control(report: dict[str, Any]) -> Table:
    """Return the layers that stay in float, or why none does, file by file."""
    columns = [Column("File"), Column("Layer"), Column("Scheme"), Column("Why")]
    rows = [
        [
            Cell(entry["file"] if place == 0 else "", mark="code"),
            Cell(one["layer"], mark="code"),
            Cell("float32"),
            Cell(one["why"]),
        ]
        for entry in report["files"]
        for place, one in enumerate(entry.get("kept") or [])
    ]
    return Table(columns, rows)


def told(report: dict[str, Any]) -> list[str]:
    """Return what was done to the network for its integers, a sentence each."""
    found = report["quantization"]
    lines = [one["why"] for one in found.get("accuracy_control") or []]
    if equalised := found.get("equalised"):
        pairs = equalised["pairs"]
        lines.append(
            f"Equalised {len(pairs)} pairs of layers; outputs equal to "
            f"{equalised['worst']:.1e} of the scale."
        )
    if corrected := found.get("corrected"):
        count = max(map(len, corrected.values()))
        lines.append(f"Moved the biases of {count} layers in the files of rounded weights.")
    if trained := found.get("qat"):
        before, after = trained["simulated_before"], trained["simulated_after"]
        lines.append(
            f"Trained {trained['epochs']} epochs with rounding: {percent(before)} to "
            f"{percent(after)} on validation, simulated in int8. What the files gained by it "
            "is in the table of exporters."
        )
    return lines
