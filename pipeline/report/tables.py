"""A report in tables of words, the same for HTML and Markdown."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pipeline.report.wording import (
    DASH,
    TIMES,
    accuracy_interval,
    change,
    milliseconds,
    number,
    part,
    percent,
    plural,
    points,
    whole,
)

GOOD, BAD, OPEN = "good", "bad", "open"
_MOST_STAYED = 10
_MOST_KERNELS = 6
_WHERE_ALL_ARE = "each is in channels.json of the compact stage"
_STATES = {"made": GOOD, "refused": OPEN, "wrong": BAD}
_MEANINGS = {
    "made": "faithful to PyTorch, and offered",
    "refused": "no exporter gave a file",
    "wrong": "there is a file, but it is not faithful or not accurate enough; never offered",
}
_RESULTS = {True: ("pass", GOOD), False: ("FAIL", BAD), None: ("unknown", OPEN)}


class Column(NamedTuple):
    """A column's title, what its figures are, and whether they are numbers."""

    title: str
    note: str = ""
    numeric: bool = False


class Cell(NamedTuple):
    """A cell: its text, a smaller second line, and a mark (a colour, or ``code``)."""

    text: str
    note: str = ""
    mark: str = ""


class Table(NamedTuple):
    """Columns and rows of equal length."""

    columns: list[Column]
    rows: list[list[Cell]]


def files(report: dict[str, Any]) -> Table:
    """Return one row a file; made, refused or wrong, with the reason."""
    threads = _threads(report)
    timings = [t for entry in report["files"] for t in entry.get("latency") or []]
    images = _shared_n([e["parity"]["top1"] for e in report["files"] if e.get("parity")])
    runs = _shared_n([timing["median"] for timing in timings])
    columns = [
        Column("File", "and its exporter"),
        Column("Size", "bytes, measured", numeric=True),
        Column("gzip -9", "zstd -19, measured", numeric=True),
        Column("Top-1", f"measured{images}", numeric=True),
        Column("Parity", "with PyTorch, measured"),
        *(
            Column(f"Host, {plural(count, 'thread')}", f"median ms{runs}", numeric=True)
            for count in threads
        ),
        Column("State"),
    ]
    floats = {
        entry["format"]: {t["threads"]: t for t in entry.get("latency") or []}
        for entry in report["files"]
        if entry["scheme"] == "float32"
    }
    rows = [
        _file_row(entry, threads, bool(images), bool(runs), floats.get(entry["format"], {}))
        for entry in report["files"]
    ]
    return Table(columns, rows)


class Tally(NamedTuple):
    """How many files are in one state, and what that state means."""

    total: int
    state: str
    mark: str
    meaning: str


def tally(report: dict[str, Any]) -> list[Tally]:
    """Count the files by their state, each with what it means."""
    states = [entry["state"] for entry in report["files"]]
    return [
        Tally(states.count(state), state, _STATES[state], _MEANINGS[state])
        for state in _STATES
        if state in states
    ]


def _shared_n(measures: list[dict[str, Any]]) -> str:
    """Return the n that all figures of a column share, for its title, or nothing."""
    found = {measure["n"] for measure in measures}
    return f", n = {whole(found.pop())}" if len(found) == 1 else ""


def _file_row(
    entry: dict[str, Any],
    threads: list[int],
    images_said: bool,
    runs_said: bool,
    floats: dict[int, dict[str, Any]],
) -> list[Cell]:
    parity = entry.get("parity")
    row = [
        Cell(entry["file"], _maker(entry), "code"),
        Cell(whole(entry.get("bytes"))),
        Cell(whole(entry.get("gzip_bytes")), _zstd(entry)),
        _top1(parity["top1"], images_said) if parity else Cell(DASH),
        Cell(*_parity(parity)) if parity else Cell(DASH),
    ]
    timed = {timing["threads"]: timing for timing in entry.get("latency") or []}
    row += [_timing(timed.get(count), runs_said, floats.get(count)) for count in threads]
    if entry["state"] == "made":
        return [*row, Cell("made", mark=GOOD)]
    return [*row, Cell(entry["state"].upper(), entry["why"], _STATES[entry["state"]])]


def _maker(entry: dict[str, Any]) -> str:
    """Say who made a file; of older runs, what it is."""
    if not entry.get("exporter"):
        return f"{entry['format']}, {entry['scheme']}"
    name = entry["exporter"].removeprefix("tflite_")
    return f"by {name}{', QAT' if entry.get('weights') == 'qat' else ''}"


def _top1(top1: dict[str, Any], n_said: bool) -> Cell:
    note = accuracy_interval(top1)
    if n_said:
        note = note.rpartition("n = ")[0].removesuffix(", ")
    return Cell(percent(top1["value"]), note)


def _zstd(entry: dict[str, Any]) -> str:
    return f"zstd {whole(entry['zstd_bytes'])}" if entry.get("zstd_bytes") else ""


def _timing(
    timing: dict[str, Any] | None, n_said: bool, in_float: dict[str, Any] | None
) -> Cell:
    if timing is None:
        return Cell(DASH)
    note = f"p90 {milliseconds(timing['p90'])}"
    if in_float and in_float is not timing:
        ratio = timing["median"]["value"] / in_float["median"]["value"]
        note += f", {number(ratio)} {TIMES} float32"
    if not n_said:
        note += f", n = {whole(timing['median']['n'])}"
    if timing.get("stable") is False:
        return Cell(milliseconds(timing["median"]), f"UNSTABLE, {note}", OPEN)
    return Cell(milliseconds(timing["median"]), note)


def _parity(parity: dict[str, Any]) -> tuple[str, str]:
    """Say how often a file decides like PyTorch, and its largest difference in its unit."""
    agreement = f"{percent(parity['agreement'], 1)} same class{_change(parity)}"
    if parity["max_steps"] is not None:
        said = [f"largest difference {number(parity['max_steps'])} output steps"]
    elif parity["max_abs_difference"] is not None:
        said = [f"largest logit difference {number(parity['max_abs_difference'])}"]
    else:
        said = ["an output is not finite"]
    if parity["psnr_db"] is not None:
        said.append(f"PSNR {number(parity['psnr_db'])} dB")
    if worst := parity.get("worst_class"):
        lost = (worst["network"] - worst["file"]) * worst["n"]
        said.append(
            f"worst class {worst['name']}: {lost:.0f} of {whole(worst['n'])} more wrong"
        )
    return agreement, ", ".join(said)


def _change(parity: dict[str, Any]) -> str:
    """Write what the file's accuracy is against that of the network, where it differs."""
    network, own = parity.get("network_top1"), parity["top1"]["value"]
    return (
        f", {points(own - network)} of top-1" if network is not None and network != own else ""
    )


def _threads(report: dict[str, Any]) -> list[int]:
    timings = [t for entry in report["files"] for t in entry.get("latency") or []]
    return sorted({timing["threads"] for timing in timings})


def operators(report: dict[str, Any]) -> Table:
    """Return the kernels of each file by the time they take, the slowest first."""
    columns = [Column("File"), Column("Kernels", "ms of one inference, measured on this host")]
    rows = []
    for entry in report["files"]:
        if found := (entry.get("operators") or {}).get("by_kernel_ms"):
            whole_ms = sum(found.values()) or 1.0
            rows.append(
                [
                    Cell(entry["file"], mark="code"),
                    Cell(
                        ", ".join(
                            f"{kernel} {number(ms)} ({percent(ms / whole_ms, 0)})"
                            for kernel, ms in list(found.items())[:_MOST_KERNELS]
                        )
                    ),
                ]
            )
    return Table(columns, rows)


def untimed(report: dict[str, Any]) -> str:
    """Return why the kernels of some files are not timed, or nothing."""
    reasons = {(entry.get("operators") or {}).get("why") for entry in report["files"]}
    return " ".join(sorted(filter(None, reasons)))


def layers(report: dict[str, Any]) -> Table:
    """Return one row a layer: channels, why they left or stayed dead, weights, MACs."""
    reasons = list(report["cut"]["reasons"])
    paid = bool(report["counts"]["paid"])
    columns = [
        Column("Layer"),
        Column("Channels", "before → after, free", numeric=True),
        *([Column("Paid", "left, less what is dead on data", numeric=True)] * paid),
        *(Column(reason.capitalize(), "removed", numeric=True) for reason in reasons),
        Column("Dead", "but kept", numeric=True),
        Column("Weights", "dense", numeric=True),
        Column("Kept", "by the method", numeric=True),
        Column("Stored", "after compaction", numeric=True),
        Column("Non-zero", "after compaction", numeric=True),
        Column("MACs", "before → after", numeric=True),
    ]
    rows = [_layer_row(layer, reasons, paid=paid) for layer in report["layers"]]
    return Table(columns, rows)


def _layer_row(layer: dict[str, Any], reasons: list[str], *, paid: bool) -> list[Cell]:
    dense = layer["weights"]
    kept, stored = layer["kept_weights"], layer["weights_after"]
    nonzero = layer["nonzero_weights_after"]
    return [
        Cell(layer["name"], layer["kind"], "code"),
        Cell(*_from_to(layer["channels"], layer["channels_after"])),
        *([Cell(whole(layer["channels_paid"]))] * paid),
        *(Cell(whole(layer["removed"].get(reason, 0))) for reason in reasons),
        Cell(whole(layer["dead_but_kept"])),
        Cell(whole(dense)),
        Cell(whole(kept), part(kept, dense)),
        Cell(whole(stored), part(stored, dense)),
        Cell(whole(nonzero), part(nonzero, dense)),
        Cell(*_from_to(layer["macs"], layer["macs_after"])),
    ]


def _from_to(before: int | None, after: int | None) -> tuple[str, str]:
    return f"{whole(before)} → {whole(after)}", change(before, after)


def folds(report: dict[str, Any]) -> Table:
    """Return where the constants of the removed channels went."""
    columns = [
        Column("Reader"),
        Column("Constants folded", "of removed channels", numeric=True),
        Column("Largest", "absolute value", numeric=True),
        Column("Into"),
    ]
    return Table(columns, [_fold_row(fold) for fold in report["cut"]["folds"]])


def _fold_row(fold: dict[str, Any]) -> list[Cell]:
    kind, _, place = fold["into"].partition(":")
    constants = dict(fold["constants"])
    where = {
        "bias": "its bias",
        "running_mean": f"the running mean of {place}",
        "carrier": f"the kernel of its carrier, input channel {place}",
    }.get(kind, fold["into"])
    if kind == "carrier":
        constants.pop(place, None)  # the carrier stays; the others' kernels join its own
    return [
        Cell(fold["layer"], mark="code"),
        Cell(whole(len(constants))),
        Cell(number(max((abs(c) for c in constants.values()), default=None))),
        Cell(where),
    ]


def stayed(report: dict[str, Any]) -> Table:
    """Return the dead channels that were kept, and why; of many the largest lots and a sum."""
    columns = [Column("Layer"), Column("Dead channels kept", numeric=True), Column("Why")]
    found = sorted(report["cut"]["kept"], key=lambda one: -len(one["channels"]))
    rows = [
        [Cell(one["layer"], mark="code"), Cell(whole(len(one["channels"]))), Cell(one["why"])]
        for one in found[:_MOST_STAYED]
    ]
    rest = found[_MOST_STAYED:]
    if rest:
        more = sum(len(one["channels"]) for one in rest)
        layers = plural(len({one["layer"] for one in rest}), "layer")
        rows.append([Cell(f"{layers} more"), Cell(whole(more)), Cell(_WHERE_ALL_ARE)])
    return Table(columns, rows)


def proof(report: dict[str, Any]) -> Table:
    """Return every comparison of the masked with the compacted network."""
    columns = [
        Column("Images"),
        Column("Shape"),
        Column("Precision"),
        Column("Largest difference", "measured", numeric=True),
        Column("Limit", numeric=True),
        Column("Largest output", "measured", numeric=True),
        Column("Result"),
    ]
    rows = []
    for one in report["equivalence"]["comparisons"]:
        holds = one["difference"] <= one["limit"]
        rows.append(
            [
                Cell(one["what"]),
                Cell(" x ".join(str(size) for size in one["shape"])),
                Cell(one["dtype"]),
                Cell(number(one["difference"])),
                Cell(number(one["limit"])),
                Cell(number(one["scale"])),
                Cell("equal", mark=GOOD) if holds else Cell("DIFFERENT", mark=BAD),
            ]
        )
    return Table(columns, rows)


def checks(report: dict[str, Any], target: dict[str, Any], file: str) -> Table:
    """Return every limit of a target, held against one file."""
    columns = [
        Column("Check"),
        Column("Figure"),
        Column("Basis"),
        Column("Limit"),
        Column("Result"),
        Column("Why, and what to do"),
    ]
    row = next(row for row in target["files"] if row["file"] == file)
    entry = next(entry for entry in report["files"] if entry["file"] == file)
    return Table(columns, [_check_row(check, row, entry) for check in row["checks"]])


def _check_row(
    check: dict[str, Any], row: dict[str, Any], entry: dict[str, Any]
) -> list[Cell]:
    return [
        Cell(check["name"]),
        Cell(check["figure"] or DASH),
        Cell(_basis(check["name"], row, entry)),
        Cell(check["limit"]),
        Cell(_RESULTS[check["passed"]][0], mark=_RESULTS[check["passed"]][1]),
        Cell(check["why"], check["remedy"]),
    ]


def _basis(check: str, row: dict[str, Any], entry: dict[str, Any]) -> str:
    """Say how the figure of a check was obtained."""
    if check == "latency":
        if row.get("measured"):
            return f"measured on the device, n = {whole(row['measured']['n'])}"
        if row["predicted"]:
            return "predicted, upper end"
        return "bound" if row["bound"] else DASH
    if check in ("activations", "peak RAM (budget)", "peak RAM (device)"):
        return "predicted"
    if check == "accuracy drop":
        return f"measured, n = {whole(entry['parity']['top1']['n'])}"
    return "measured" if check.startswith("file size") else "read from the file"


def matrix(target: dict[str, Any]) -> Table:
    """Return the limits of a target against all of its files: figure and result."""
    names: list[str] = []
    for row in target["files"]:
        names += [check["name"] for check in row["checks"] if check["name"] not in names]
    columns = [Column("Check"), *(Column(row["file"]) for row in target["files"])]
    found = [{check["name"]: check for check in row["checks"]} for row in target["files"]]
    rows = [
        [Cell(name), *(_matrix_cell(of_file.get(name)) for of_file in found)] for name in names
    ]
    return Table(columns, rows)


def _matrix_cell(check: dict[str, Any] | None) -> Cell:
    if check is None:
        return Cell(DASH)
    text, mark = _RESULTS[check["passed"]]
    return Cell(text, check["figure"] or DASH, mark)


def scores(report: dict[str, Any]) -> Table:
    """Return what the whole network was and is."""
    counts, accuracy = report["counts"], report["accuracy"]
    before, after = counts["before"], counts["after"]
    columns = [
        Column("Network"),
        Column("Parameters", "counted", numeric=True),
        Column("Weights", "counted", numeric=True),
        Column("Non-zero weights", "counted", numeric=True),
        Column("Effective weights", "on a path from image to output", numeric=True),
        Column("MACs", "counted, one image", numeric=True),
        Column("Top-1", "measured, test split", numeric=True),
    ]
    kept, effective = counts["kept_weights"], counts["effective_weights"]
    rows: list[tuple[str, str, dict[str, Any], int | None, int | None]] = [
        ("reference", "best in training", before, None, None),
        ("trained", "selected, as trained", before, None, None),
        ("pruned", "selected, pruned", before, kept, effective),
        ("compact", "compact", after, after["nonzero_weights"], None),
    ]
    if paid := counts["paid"]:
        verb = "removed" if paid["removed"] else "could leave"
        label = f"paid: {paid['channels']} channels dead on {paid['images']} images {verb}"
        rows.append(("paid", label, paid, paid["nonzero_weights"], None))
    return Table(
        columns,
        [
            [
                Cell(label),
                Cell(whole(count["parameters"])),
                Cell(whole(count["weights"])),
                Cell(whole(nonzero)),
                Cell(whole(useful)),
                Cell(whole(count["macs"])),
                Cell(percent(accuracy[key]["value"]), f"n = {whole(accuracy[key]['n'])}"),
            ]
            for key, label, count, nonzero, useful in rows
        ],
    )


def plan(report: dict[str, Any]) -> Table:
    """Return how each file stores its numbers, and why."""
    titles = ("File", "Weights", "Activations", "Scales", "Input, output", "Ranges", "Why")
    rows = [
        [
            Cell(_scheme(scheme)),
            Cell(scheme["weights"]),
            Cell(scheme["activations"]),
            Cell(scheme["granularity"] or DASH),
            Cell(_border(scheme)),
            Cell(scheme.get("method") or DASH),
            Cell(scheme["why"]),
        ]
        for scheme in report["quantization"]["files"]
    ]
    return Table([Column(title) for title in titles], rows)


def _border(scheme: dict[str, Any]) -> str:
    """Return the types of a file's input and output; older runs have one for both."""
    border = scheme.get("io_dtype") or DASH
    return f"{scheme.get('input_dtype', border)}, {scheme.get('output_dtype', border)}"


def _scheme(plan: dict[str, Any]) -> str:
    name = "-".join(filter(None, [plan["scheme"], plan.get("variant")]))
    return f"{name}, {plan['format']}"


def calibration(report: dict[str, Any]) -> Table:
    """Return what the ranges of the integer files were taken from."""
    found = report["quantization"]["calibration"]
    classes = ", ".join(f"{name}: {whole(n)}" for name, n in found["class_histogram"].items())
    rows = [
        ("Images", f"{whole(found['count'])} of {_split(found['split'])}"),
        ("Method", f"{found['method']} of each tensor" if found.get("method") else DASH),
        ("Seed", str(found["seed"])),
        ("Normalised range", f"{number(found['minimum'])} to {number(found['maximum'])}"),
        ("SHA-256", found["sha256"]),
        ("Images of each class", classes),
    ]
    return _pairs("Calibration", rows)


def _split(split: str) -> str:
    """Name where the calibration images come from."""
    return (
        "random noise, which is good for no accuracy"
        if split == "noise"
        else f"the {split} split"
    )


def stages(report: dict[str, Any]) -> Table:
    """Return what each stage did, how long it took and the key of its result."""
    columns = [
        Column("Stage"),
        Column("Seconds", "measured, one run", numeric=True),
        Column("What it did"),
        Column("Key"),
        Column("Commit"),
    ]
    rows = [
        [
            Cell(stage["stage"]),
            Cell(number(stage["seconds"])),
            Cell(stage["summary"], stage["finished_utc"]),
            Cell(stage["key"][:12], mark="code"),
            Cell((stage["git_commit"] or DASH)[:12], mark="code"),
        ]
        for stage in report["environment"]["stages"]
    ]
    return Table(columns, rows)


def versions(report: dict[str, Any]) -> Table:
    """Return the version of everything that had a part in the run."""
    return _pairs("Version", list(report["environment"]["versions"].items()))


def _pairs(title: str, rows: list[tuple[str, str]]) -> Table:
    columns = [Column(title), Column("")]
    return Table(columns, [[Cell(name), Cell(text)] for name, text in rows])


def method(report: dict[str, Any]) -> str:
    """Return the training method with all its options, defaults spelled out."""
    found = report["method"]
    options = found["options"]
    listed = ", ".join(f"{name} = {_written(value)}" for name, value in options.items())
    return f"{found['name'] or DASH}{f' ({listed})' if listed else ''}"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def seeds(report: dict[str, Any]) -> str:
    """Return every seed of the run."""
    found = report["quantization"]["calibration"]
    return f"training {report['environment']['seed']}, calibration {found['seed']}"
