"""Write the README's tables from what was measured.

    make results     # runs the quickstart and the comparison of methods, then this

Replaces what stands between ``<!-- name -->`` and ``<!-- /name -->`` in README.md by the
quickstart's figures (runs/quickstart/report.json) and by the comparison under
benchmarks/results/, and keeps the quickstart's report.json figures in
benchmarks/results/quickstart.json.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.cli.tables import file_cells, latency_text
from pipeline.core.rundir import read_json, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
KEPT = ("name", "created", "accuracy", "counts", "files", "targets")
CONDITIONS = ("cpu", "cores", "machine", "python")


def main() -> None:
    source = ROOT / "runs" / "quickstart" / "report.json"
    if source.is_file():
        write_json(RESULTS / "quickstart.json", shortened(read_json(source)))
    report = read_json(RESULTS / "quickstart.json")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = replaced(text, "quickstart", quickstart(report))
    text = replaced(text, "methods", methods())
    text = replaced(text, "comparison", comparison())
    text = replaced(text, "compaction", compaction())
    text = replaced(text, "export", export())
    text = replaced(text, "fit", paragraphs("fit"))
    text = replaced(text, "sweep", paragraphs("sweep"))
    write_text(ROOT / "README.md", text)
    print("README.md is up to date with benchmarks/results.")


def shortened(report: dict[str, Any]) -> dict[str, Any]:
    """Keep what the tables need, without every single latency sample."""
    kept = json.loads(json.dumps({key: report[key] for key in KEPT}))
    for entry in kept["files"]:
        for detail in ("candidates", "audit", "operators"):
            entry.pop(detail, None)
        for timing in entry.get("latency", []):
            for detail in ("samples_ms", "conditions", "settings", "around", "load"):
                timing.pop(detail, None)
            for figure in timing.values():
                if isinstance(figure, dict):
                    figure.pop("conditions", None)
    for row in (row for target in kept["targets"] for row in target["files"]):
        del row["checks"]
    conditions = report["environment"]["conditions"]["before"]
    kept["conditions"] = {key: conditions[key] for key in CONDITIONS}
    kept["versions"] = report["environment"]["versions"]
    return kept


def quickstart(report: dict[str, Any]) -> str:
    """Return the files and the targets of the quickstart as Markdown."""
    return "\n".join(
        [cut(report["counts"]), "", *files(report), "", *targets(report["targets"])]
    )


def cut(counts: dict[str, Any]) -> str:
    before, after = counts["before"], counts["after"]
    return (
        f"{counts['kept_weights']:,} of {before['weights']:,} weights are kept, "
        f"{counts['effective_weights']:,} of them effective; compaction takes "
        f"{before['parameters']:,} parameters to {after['parameters']:,} with equal outputs."
    )


def files(report: dict[str, Any]) -> list[str]:
    conditions, images = report["conditions"], report["files"][0]["parity"]["top1"]["n"]
    timings = [entry["latency"][0] for entry in report["files"]]
    fewest, repeats = min(t["median"]["n"] for t in timings), len(timings[0]["windows_ms"])
    how = (
        f"Measured by `make demo` on {conditions['cpu']}, {conditions['cores']} cores: top-1 "
        f"on all {images} test images in the file's own runtime, difference and agreement "
        f"against PyTorch, latency of one inference on one thread, {fewest:,} or more runs in "
        f"{repeats} repeats."
    )
    head = "| file | format | scheme | bytes | gzip | top-1 | difference, agreement |"
    return [
        f"{head} median ms | p90 ms |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
        *[f"| {' | '.join(file_cells(entry))} |" for entry in report["files"]],
        "",
        how,
    ]


def targets(entries: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| target | file | fits | latency | peak RAM |",
        "|---|---|---|---|---|",
    ]
    for target in entries:
        row = next(r for r in target["files"] if r["file"] == target["chosen"])
        ram = f"{row['peak_ram']['value']:.3g} MB"
        lines.append(
            f"| {target['id']} | {target['chosen']} | yes | {latency_text(row)} | {ram} |"
        )
    return lines


def methods() -> str:
    """Return the comparison of methods without its heading."""
    text = (RESULTS / "quickstart_methods.md").read_text(encoding="utf-8")
    return text.partition("\n\n")[2].strip()


def comparison() -> str:
    """Return the comparison of all methods of the largest size that was run, and its plot."""
    size = "gpu" if (RESULTS / "methods_gpu.md").is_file() else "cpu"
    text = (RESULTS / f"methods_{size}.md").read_text(encoding="utf-8")
    plot = f"![Top-1 against kept weights](benchmarks/results/methods_{size}.svg)"
    return f"{text.partition(chr(10) * 2)[2].strip()}\n\n{plot}"


def compaction() -> str:
    """Return how many networks each tool compacted exactly, and what that was measured on."""
    text = (RESULTS / "compaction.md").read_text(encoding="utf-8")
    how, table = text.split("\n\n")[1:3]
    plot = "![Parameters left by each tool](benchmarks/results/compaction.png)"
    more = "Every row is in [compaction.md](benchmarks/results/compaction.md)."
    return f"{table.strip()}\n\n{how.strip()} {more}\n\n{plot}"


def paragraphs(name: str) -> str:
    """Return a result as it stands, its table before what it was measured on."""
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    how, table = text.split("\n\n")[1:3]
    return f"{table.strip()}\n\n{how.strip()}"


def export() -> str:
    """Return what int8 costs and gives on each network of the export matrix."""
    with (RESULTS / "export_matrix.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    states = Counter(row["state"] for row in rows)
    lines = [
        "| network | PyTorch | int8 TFLite, offered | bytes, time | int8 ONNX | bytes, time |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row["network"] for row in rows):
        own = {(r["file"], r["exporter"]): r for r in rows if r["network"] == name}
        offered = {r["file"]: r for r in own.values() if r["elected"] == "True"}
        top1 = next(r["network_top1"] for r in own.values() if r["network_top1"])
        cells = [cell for form in ("tflite", "onnx") for cell in int8(offered, form)]
        lines.append(f"| {name} | {float(top1):.1%} | {' | '.join(cells)} |")
    said = (
        f"{len(rows)} candidates of eight networks, seven schemes and three exporters: "
        f"{states['made']} made, {states['wrong']} wrong and never offered, "
        f"{states['refused']} refused. Bytes and time (one thread of an x86 processor) are "
        f"parts of the float32 file's in the same format. Made by "
        f"`python benchmarks/export_matrix.py`; every candidate is in "
        f"{linked('export_matrix')}, what helps integers in {linked('integers')}, accuracy "
        f"limits in {linked('mixed_precision')}, and a ResNet8 beside the MLPerf Tiny "
        f"references in {linked('reference_models')}."
    )
    return "\n".join([said, "", *lines])


def linked(name: str) -> str:
    return f"[{name}.md](benchmarks/results/{name}.md)"


def int8(offered: dict[str, dict[str, str]], form: str) -> list[str]:
    """Return top-1 and cost of a network's int8 file of one format, as two cells."""
    file, plain = offered.get(f"model.int8.{form}"), offered.get(f"model.float32.{form}")
    if file is None or plain is None:
        return ["none is right", ""]
    size = float(file["bytes"]) / float(plain["bytes"])
    time = float(file["ms"]) / float(plain["ms"])
    by = "" if form == "onnx" else f" ({file['exporter'].removeprefix('tflite_')})"
    return [f"{float(file['top1']):.1%}{by}", f"{size:.2f}, {time:.2f}"]


def replaced(text: str, name: str, content: str) -> str:
    """Return ``text`` with the marked part replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    found, count = pattern.subn(lambda m: m[1] + content + m[2], text)
    if count != 1:
        raise SystemExit(f"README.md has no part marked <!-- {name} -->.")
    return found


if __name__ == "__main__":
    main()
