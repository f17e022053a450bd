"""Write the README's tables from what was measured.

    make results     # runs the quickstart and the comparison of methods, then this

Replaces what stands between ``<!-- name -->`` and ``<!-- /name -->`` in README.md by the
quickstart's figures (runs/quickstart/report.json) and by the comparison under
benchmarks/results/, and keeps the quickstart's report.json figures in
benchmarks/results/quickstart.json.
"""

from __future__ import annotations

import json
import re
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
    write_text(ROOT / "README.md", text)
    print("README.md is up to date with benchmarks/results.")


def shortened(report: dict[str, Any]) -> dict[str, Any]:
    """Keep what the tables need, without every single latency sample."""
    kept = json.loads(json.dumps({key: report[key] for key in KEPT}))
    for entry in kept["files"]:
        for timing in entry.get("latency", []):
            del timing["samples_ms"]
            for figure in timing.values():
                if isinstance(figure, dict):
                    figure.pop("conditions", None)
    for row in (row for target in kept["targets"] for row in target["files"]):
        del row["checks"]
    conditions = report["environment"]["conditions"]
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
    how = (
        f"Measured by `make demo` on {conditions['cpu']}, {conditions['cores']} cores: top-1 "
        f"on all {images} test images in the file's own runtime, difference and agreement "
        "against PyTorch, latency of one inference on one thread, n = 100."
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
        "| target | file | fits | predicted latency | peak RAM |",
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


def replaced(text: str, name: str, content: str) -> str:
    """Return ``text`` with the marked part replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    found, count = pattern.subn(lambda m: m[1] + content + m[2], text)
    if count != 1:
        raise SystemExit(f"README.md has no part marked <!-- {name} -->.")
    return found


if __name__ == "__main__":
    main()
