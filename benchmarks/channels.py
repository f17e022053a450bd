"""Half of the MACs by whole channels, and single weights beside it: counts and latency.

    python benchmarks/channels.py --data image-folder:PATH [--runs runs/benchmarks/channels]

Trains resnet8 on 10,000 images of CIFAR-10 densely, by channels under a budget of half of
the MACs, and by single weights; each is an ordinary run up to its ONNX file, so that a
benchmark that was stopped goes on where it was. The files are then timed in turns on one
thread, as times on a shared machine drift. Writes benchmarks/results/channels.md.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import Recipe, run
from pipeline.core.artifact import versions
from pipeline.core.rundir import write_text
from pipeline.runtime.bench import measure_in_turns
from pipeline.runtime.engines import Engine, open_model

RESULTS = Path(__file__).parent / "results"
CELLS: dict[str, dict[str, Any]] = {
    "dense": {"method": {"name": "dense"}, "budget": {}},
    "channels, half of the MACs": {
        "method": {"name": "reparam", "granularity": "channel"},
        "budget": {"macs": 0.5},
    },
    "channels, half of the MACs, multiples of 8": {
        "method": {"name": "reparam", "granularity": "channel"},
        "budget": {"macs": 0.5, "multiple": 8},
    },
    "weights, 20 % kept": {"method": {"name": "reparam"}, "budget": {"weights": 0.20}},
    "weights, 10 % kept": {"method": {"name": "reparam"}, "budget": {"weights": 0.10}},
    "weights, 5 % kept": {"method": {"name": "reparam"}, "budget": {"weights": 0.05}},
}
TURNS = 500
ONNX_ONLY = """\
schema = "edge-target/1"
id = "onnx-float32"
name = "ONNX in float32"
class = "sbc"
[platform]
os = "linux"
[constraints]
basis = "assumed"
source = "benchmarks/channels.py"
formats = ["onnx"]
dtypes = ["fp32"]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="image-folder:data/cifar10-jpeg")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/channels"))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    target = options.runs / "onnx-float32.toml"
    target.write_text(ONNX_ONLY, encoding="utf-8")
    rows = {
        label: figures(
            Recipe.model_validate(recipe(label, options.data, target)), options.runs
        )
        for label in CELLS
    }
    medians = side_by_side({label: open_model(row["file"]) for label, row in rows.items()})
    write_text(RESULTS / "channels.md", table(rows, medians))
    print(table(rows, medians))


def recipe(label: str, data: str, target: Path) -> dict[str, Any]:
    """Return the recipe of one cell."""
    return {
        "name": re.sub(r"\W+", "-", label),
        "targets": [str(target)],
        "model": {"name": "resnet8"},
        "data": {"name": data, "per_class": 1000, "validation_fraction": 0.1},
        "train": {
            "epochs": 12, "batch_size": 64, "lr": 0.1, "weight_decay": 5e-4,
            "precision": "bf16-mixed", "channels_last": True,
        },
        **CELLS[label],
    }  # fmt: skip


def figures(wanted: Recipe, runs: Path) -> dict[str, Any]:
    """Run one cell, or read what an earlier run of it left."""
    result = run(wanted, out=runs / wanted.name, until="export")
    compact = result.artifacts["compact"].metrics
    (file,) = result.artifacts["export"].metrics["files"]
    return {
        "accuracy": compact["test_accuracy"],
        "parameters": compact["after"]["parameters"],
        "macs": compact["after"]["macs"],
        "nonzero": compact["after"]["nonzero_weights"],
        "file": result.path / "5-export" / file["file"],
        "bytes": file["bytes"],
    }


def side_by_side(engines: dict[str, Engine]) -> dict[str, float]:
    """Return the median latency of each file in ms, one inference of each in turn."""
    for engine in engines.values():
        engine.run(np.zeros((1, 3, 32, 32), np.float32))
    invokes = [engine.invoke for engine in engines.values()]
    timings = measure_in_turns(invokes, warmup_runs=20, runs=TURNS - 20)
    return {name: timing.median_ms for name, timing in zip(engines, timings, strict=True)}


def table(rows: dict[str, dict[str, Any]], medians: dict[str, float]) -> str:
    """Return the cells as Markdown, MACs and latency also as parts of the dense one's."""
    dense, first = rows["dense"], medians["dense"]
    how = (
        "Counted on the compacted network; top-1 on the test split, one seed, 12 epochs; "
        f"median of {TURNS} inferences of the float32 ONNX file on one thread, the files in "
        f"turns. Made by `python benchmarks/channels.py`, torch {versions()['torch']}."
    )
    lines = [
        "# Whole channels against single weights, resnet8 on 10,000 images of CIFAR-10",
        "",
        how,
        "",
        "| network | top-1 | parameters | non-zero | MACs | part | bytes | ms | part |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for label, row in rows.items():
        cells = (
            f"{row['accuracy']:.1%}",
            f"{row['parameters']:,}",
            f"{row['nonzero']:,}",
            f"{row['macs']:,}",
            f"{row['macs'] / dense['macs']:.1%}",
            f"{row['bytes']:,}",
            f"{medians[label]:.3f}",
            f"{medians[label] / first:.2f}",
        )
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
