"""reparam and magnitude without fine-tuning against the dense network, on the quickstart.

    python benchmarks/quickstart_methods.py [--seeds 3] [--runs runs/benchmarks/quickstart]

Every cell is an ordinary run of the quickstart recipe up to the pruning, with its own
folder, so that a killed benchmark goes on where it stopped. All cells use the same data, the
same seeds and the same number of epochs. Writes benchmarks/results/quickstart_methods.csv
and .md; the accuracies are of the pruned network on the test split.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path

from pipeline import Recipe, run
from pipeline.core.artifact import versions
from pipeline.core.rundir import write_text

RESULTS = Path(__file__).parent / "results"
CELLS = [
    ("dense", 1.0),
    ("reparam", 0.10),
    ("magnitude", 0.10),
    ("reparam", 0.05),
    ("magnitude", 0.05),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/quickstart"))
    options = parser.parse_args()
    rows = [
        row(method, weights, seed, options.runs)
        for seed in range(options.seeds)
        for method, weights in CELLS
    ]
    write_csv(rows)
    write_text(RESULTS / "quickstart_methods.md", table(rows))
    print(table(rows))


def row(method: str, weights: float, seed: int, runs: Path) -> dict[str, object]:
    """Run one cell, or read what an earlier run of it left."""
    out = runs / f"{method}-{weights}-{seed}"
    result = run(recipe(method, weights, seed), out=out, until="prune")
    train, prune = result.artifacts["train"], result.artifacts["prune"]
    found = {
        "method": method,
        "weights": weights,
        "seed": seed,
        "epochs": train.metrics["epochs"],
        "kept_weights": prune.metrics["kept_weights"],
        "effective_weights": prune.metrics["effective_weights"],
        "before": round(prune.metrics["accuracy_before"], 6),
        "accuracy": round(prune.metrics["accuracy_after"], 6),
        "test_images": train.metrics["test_images"],
        "train_seconds": train.provenance.seconds,
    }
    print(found, flush=True)
    return found


def recipe(method: str, weights: float, seed: int) -> Recipe:
    """Return the quickstart recipe with one method, budget and seed."""
    own = Recipe.load("quickstart").model_dump(exclude_none=True)
    table = own["method"] if method == own["method"]["name"] else {"name": method}
    return Recipe.model_validate(
        {**own, "seed": seed, "method": table, "budget": {"weights": weights}, "targets": []}
    )


def write_csv(rows: list[dict[str, object]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "quickstart_methods.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[dict[str, object]]) -> str:
    """Return mean and spread over the seeds as Markdown."""
    dense = mean_of(rows, "dense", 1.0)
    first, seeds = rows[0], len({r["seed"] for r in rows})
    how = (
        f"Digits, conv2, {first['epochs']} epochs each, {first['test_images']} test images, "
        f"{seeds} seeds; top-1 of the pruned network in %, mean and range over the seeds. "
        f"Made by `python benchmarks/quickstart_methods.py` with torch {versions()['torch']}, "
        "CPU."
    )
    lines = [
        "# reparam and magnitude without fine-tuning, quickstart",
        "",
        how,
        "",
        "| method | kept weights | top-1 | range | vs dense, points | effective of kept |",
        "|---|---|---|---|---|---|",
    ]
    for method, weights in CELLS:
        own = [r for r in rows if r["method"] == method and r["weights"] == weights]
        accuracies = [100 * float(str(r["accuracy"])) for r in own]
        effective = statistics.mean(
            float(str(r["effective_weights"])) / float(str(r["kept_weights"])) for r in own
        )
        mean = statistics.mean(accuracies)
        lines.append(
            f"| {method} | {weights:.0%} | {mean:.2f} | {min(accuracies):.2f} to "
            f"{max(accuracies):.2f} | {mean - dense:+.2f} | {effective:.1%} |"
        )
    return "\n".join(lines) + "\n"


def mean_of(rows: list[dict[str, object]], method: str, weights: float) -> float:
    own = [r for r in rows if r["method"] == method and r["weights"] == weights]
    return statistics.mean(100 * float(str(r["accuracy"])) for r in own)


if __name__ == "__main__":
    main()
