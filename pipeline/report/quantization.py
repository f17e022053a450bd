"""What a report says of integers and the accuracy they cost, in tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.report.candidates import label, winner_of
from pipeline.report.tables import BAD, GOOD, OPEN, Cell, Column, Table
from pipeline.report.wording import DASH, MINUS, number, part, percent, plural, points, whole

_FLOAT = ("fp32", "fp16")
_FLOAT_ACTIVATIONS = {*_FLOAT, "w8", "dynamic"}  # arithmetic between float values
_SHOWN = 3  # names that stand for many
_SHARED_GAIN = 5e-5  # less is no gain: half of what two decimals of a percent show


def audits(report: dict[str, Any]) -> Table:
    """Return one row a file that is not plain float: what of it is really integer."""
    columns = [
        Column("File"),
        Column("Operators", "in int8, counted", numeric=True),
        Column("MACs", "in int8, counted", numeric=True),
        Column("Float parts", "among integer ones"),
        Column("Conversions", "quantize, dequantize", numeric=True),
        Column("Input", "scale, zero point"),
        Column("Output", "scale, zero point"),
        Column("Stored", "bytes by type"),
    ]
    return Table(columns, [_audit(entry) for entry in _audited(report)])


def _audited(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        entry
        for entry in report["files"]
        if entry.get("audit") and entry["audit"]["dtype"] not in _FLOAT
    ]


def _audit(entry: dict[str, Any]) -> list[Cell]:
    audit = entry["audit"]
    stored = [
        f"{one['dtype']} {whole(one['bytes'])}" for one in audit["dtypes"] if one["constant"]
    ]
    casts = audit.get("cast_ops")
    return [
        Cell(entry["file"], mark="code"),
        Cell(
            part(audit["int8_operators"], audit["computing"]),
            f"{whole(audit['int8_operators'])} of {whole(audit['computing'])}",
        ),
        Cell(part(audit["int8_macs"], audit["macs"]), _others(audit)),
        _parts(audit),
        Cell(
            f"{audit['quantize_ops']}, {audit['dequantize_ops']}",
            plural(casts, "cast") if casts else "",
        ),
        _port(audit["inputs"]),
        _port(audit["outputs"]),
        Cell(stored[0] if stored else DASH, ", ".join(stored[1:])),
    ]


def _others(audit: dict[str, Any]) -> str:
    """Say what the products that are not in int8 multiply."""
    return ", ".join(
        f"{part(count, audit['macs'])} {kind}"
        for kind, count in audit["macs_by_arithmetic"].items()
        if kind != "int8"
    )


def _parts(audit: dict[str, Any]) -> Cell:
    """Name the float parts of a file; those inside cost a conversion on both sides."""
    inside, edges = audit["islands"], audit.get("edges") or []
    if not inside and not edges:
        if set(audit["macs_by_arithmetic"]) <= _FLOAT_ACTIVATIONS:
            return Cell("throughout", "layers hand on float")
        return Cell("none", mark=GOOD)
    said = [plural(len(inside), "island")] if inside else []
    said += [f"at the {one['place']}" for one in edges]
    named = [_span(one) for one in (*inside, *edges)]
    return Cell(", ".join(said), _some(named), OPEN if inside else "")


def _span(island: dict[str, Any]) -> str:
    first, last = island["first"], island["last"]
    return first if first == last else f"{first} to {last}"


def _some(names: list[str]) -> str:
    """Name the first few of many.

    >>> _some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _port(ports: list[dict[str, Any]]) -> Cell:
    if not ports:
        return Cell(DASH)
    first = ports[0]
    inside = first.get("inside")
    scale = ""
    if first["scale"] is not None:
        scale = f"{'as ' + inside + ', ' if inside else ''}{first['scale']:.4g}, "
        scale += str(first["zero_point"]).replace("-", MINUS)
    return Cell(first["dtype"], scale)


def islands(report: dict[str, Any]) -> Table:
    """Return every float part of every file that is not plain float."""
    columns = [
        Column("File"),
        Column("Place"),
        Column("From"),
        Column("To"),
        Column("Operators", "counted", numeric=True),
        Column("MACs", "counted", numeric=True),
    ]
    rows = [
        [
            Cell(entry["file"], mark="code again" if place else "code"),
            Cell(f"between integers: {kinds}" if one["place"] == "inside" else
                 f"at the {one['place']}: {kinds}"),
            Cell(one["first"], mark="code"),
            Cell(one["last"], mark="code"),
            Cell(whole(one["operators"])),
            Cell(whole(one["macs"])),
        ]
        for entry in _audited(report)
        for place, one in enumerate(
            [*entry["audit"]["islands"], *(entry["audit"].get("edges") or [])]
        )
        for kinds in [", ".join(one["types"])]
    ]  # fmt: skip
    return Table(columns, rows)


def findings(report: dict[str, Any]) -> Table:
    """Return the kinds of structure that hurt integers: how many, where, and the remedy."""
    columns = [
        Column("What", "of which kind"),
        Column("Found", numeric=True),
        Column("Where"),
        Column("Remedy"),
    ]
    return Table(columns, [_finding(found) for found in _alike(report)])


def _alike(report: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Group the findings of one kind and remedy, the most frequent first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in report["quantization"].get("findings") or []:
        groups.setdefault((one["kind"], one["remedy"]), []).append(one)
    return sorted(groups.values(), key=lambda found: -len(found))


def _finding(found: list[dict[str, Any]]) -> list[Cell]:
    first = found[0]
    differ = len({one["what"] for one in found}) > 1
    what = f"{first['where']}: {first['what']}" if differ else first["what"]
    return [
        Cell(what, first["kind"]),
        Cell(whole(len(found))),
        Cell(_some([one["where"] for one in found]), mark="names"),
        Cell(first["remedy"]),
    ]


def all_findings(report: dict[str, Any]) -> Table:
    """Return every finding, where some stand for others in the short table."""
    columns = [Column("Where"), Column("What")]
    groups = _alike(report)
    rows = [
        [Cell(one["where"], one["kind"], "code"), Cell(one["what"])]
        for found in groups
        for one in found
    ]
    return Table(columns, rows if len(rows) > len(groups) else [])


def control(report: dict[str, Any]) -> Table:
    """Return what each integer file needed to hold the accuracy limit, and what was tried."""
    columns = [
        Column("File", "in integers throughout"),
        Column("Outcome"),
        Column("File with layers in float"),
        Column("Tries", "change of top-1 on validation, measured"),
    ]
    return Table(columns, [_control(*found) for found in _controlled(report)])


def _controlled(
    report: dict[str, Any],
) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]]:
    """Yield what was found for each int8 file, that file, and its mixed one."""
    found = report["quantization"].get("accuracy_control") or []
    integer = [entry for entry in report["files"] if entry["scheme"] == "int8"]
    plain = {entry["file"]: entry for entry in integer if not entry.get("kept")}
    mixed = [entry for entry in integer if entry.get("kept")]
    for one, entry in ((o, plain[o["file"]]) for o in found if o["file"] in plain):
        name = "-".join(filter(None, [entry.get("variant"), "mixed"]))
        same = (name, entry["format"])
        others = (e for e in mixed if (e.get("variant"), e["format"]) == same)
        yield one, entry, next(others, None)


def _control(
    found: dict[str, Any], entry: dict[str, Any], mixed: dict[str, Any] | None
) -> list[Cell]:
    held = any(one["holds"] for one in found["tries"])
    if found["kept"]:
        layers = plural(len(found["kept"]), "layer")
        outcome = Cell(f"holds with {layers} in float", found["why"], OPEN)
    elif held:
        outcome = Cell("holds in integers", mark=GOOD)
    else:
        outcome = Cell("DOES NOT HOLD", found["why"], BAD)
    tries = [f"{one['in_float']} in float: {_drop(one['drop'])}" for one in found["tries"]]
    return [
        Cell(entry["file"], mark="code"),
        outcome,
        Cell(mixed["file"], mark="code") if mixed else Cell("none"),
        Cell("; ".join(tries)),
    ]


def _drop(lost: float | None) -> str:
    """Write the points of a try as a change, for a loss may be a gain."""
    return "no file" if lost is None else points(-lost / 100)


def layers(report: dict[str, Any]) -> Table:
    """Return each layer with its scheme in the files of mixed precision, and why."""
    mixed = [entry for entry in report["files"] if entry.get("kept")]
    columns = [
        Column("Layer", "the most sensitive first"),
        *(Column(entry["file"]) for entry in mixed),
        Column("Why", "simulated on validation, all else in float"),
    ]
    reasons = {one["layer"]: one["why"] for one in report["quantization"].get("ranking") or []}
    for entry in mixed:
        reasons |= {one["layer"]: one["why"] for one in entry["kept"]}
    in_float = [{one["layer"] for one in entry["kept"]} for entry in mixed]
    rows = [
        [
            Cell(name, mark="code"),
            *(Cell("float32", mark=OPEN) if name in own else Cell("int8") for own in in_float),
            Cell(why),
        ]
        for name, why in reasons.items()
    ]
    return Table(columns, rows)


def gains(report: dict[str, Any]) -> Table:
    """Return what training with rounding brought in each file, exporter by exporter."""
    columns = [
        Column("File"),
        Column("Change in the file", "of top-1, validation, measured"),
        Column("Outcome"),
    ]
    rows = []
    for entry in report["files"]:
        found = _gains(entry)
        if found:
            said = "; ".join(f"{name}: {points(gain)}" for name, gain in found)
            rows.append([Cell(entry["file"], mark="code"), Cell(said), _kept(entry, found)])
    return Table(columns, rows)


def _gains(entry: dict[str, Any]) -> list[tuple[str, float]]:
    """Return by how much each exporter's file of the trained weights beats its plain one."""
    made = {
        (one["exporter"], one.get("weights")): one
        for one in entry.get("candidates") or []
        if one.get("validation_top1") is not None
    }
    return [
        (label(made[name, "trained"]), one["validation_top1"] - plain["validation_top1"])
        for (name, weights), one in made.items()
        if weights == "qat" and (plain := made.get((name, "trained")))
    ]


def _kept(entry: dict[str, Any], found: list[tuple[str, float]]) -> Cell:
    """Say whether what was trained is in the file that is offered."""
    winner = winner_of(entry)
    if winner is None:
        return Cell("no file is offered", mark=BAD)
    gained = max(gain for _, gain in found) > _SHARED_GAIN
    if winner.get("weights") == "qat":
        return Cell("offered", "" if gained else "no gain, but as good", GOOD)
    if gained:
        return Cell("the plain one is offered", "the gain does not decide", OPEN)
    return Cell("the plain one is offered", "no gain in the file", OPEN)


def told(report: dict[str, Any]) -> list[str]:
    """Return what was done to the network for its integers, a sentence each."""
    found = report["quantization"]
    lines = []
    if equalised := found.get("equalised"):
        lines.append(_equalised(equalised))
    if corrected := found.get("corrected"):
        lines.append(_corrected(corrected))
    if trained := found.get("qat"):
        lines.append(_trained(trained, report))
    return lines


def zeros(report: dict[str, Any]) -> str:
    """Return why the zeros among the weights are stored, or nothing where they are not."""
    dense = report["quantization"].get("dense_because")
    if not dense:
        return ""
    return (
        f"Zeros that pruning left are stored like other weights, since no runtime would skip "
        f"them: {dense}. gzip and zstd find them."
    )


def _equalised(found: dict[str, Any]) -> str:
    pairs = found["pairs"]
    moved = [pair for pair in pairs if pair.get("scaled", 1)]
    left = found.get("unpaired") or []
    alone = [f"{plural(len(left), 'layer')} had no partner"] if left else []
    said = [
        f"scales moved in {len(moved)} of {plural(len(pairs), 'pair')} of layers",
        f"outputs equal to {number(found['worst'])} of the scale"
        if found["worst"]
        else "outputs exactly equal",
        *alone,
    ]
    return f"Equalisation: {'; '.join(said)}."


def _corrected(found: dict[str, Any]) -> str:
    said = []
    for grain, layers_ in found.items():
        largest = max((one.get("relative", 0.0) for one in layers_), default=0.0)
        said.append(
            f"{plural(len(layers_), 'layer')} {grain}, by at most {percent(largest)} of a "
            "layer's output"
        )
    return f"Bias correction, in the files of rounded weights: {'; '.join(said)}."


def _trained(found: dict[str, Any], report: dict[str, Any]) -> str:
    before, after = found["simulated_before"], found["simulated_after"]
    text = (
        f"Training with rounding (QAT), {plural(found['epochs'], 'epoch')}: "
        f"{percent(before)} to {percent(after)} on validation, simulated in int8. "
        f"{_survived(report)}"
    )
    plain = _float_accuracy(report)
    if plain is not None and after > plain + _SHARED_GAIN:
        text += (
            f" The float32 file has {percent(plain)}: what goes beyond that is training as "
            "such, which the float files do not have."
        )
    return text


def _survived(report: dict[str, Any]) -> str:
    """Say in how many files the gain is still there."""
    best = [max(gain for _, gain in found) for e in report["files"] if (found := _gains(e))]
    kept = [gain for gain in best if gain > _SHARED_GAIN]
    if not best:
        return "No file could be made both ways, so its gain in a file is not known."
    if not kept:
        return f"No gain in {'the file' if len(best) == 1 else 'any file'}."
    low, high = (points(gain) for gain in (min(kept), max(kept)))
    by = low if low == high else f"{low.removesuffix(' points')} to {high}"
    if len(best) == 1:
        return f"{by} in the file."
    return f"{by} in {len(kept)} of {len(best)} files."


def _float_accuracy(report: dict[str, Any]) -> float | None:
    found = (
        entry.get("validation_top1")
        for entry in report["files"]
        if entry["scheme"] == "float32" and entry["state"] == "made"
    )
    return next((float(value) for value in found if value is not None), None)
