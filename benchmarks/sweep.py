"""What two workers save: a sweep of twelve short runs, one after another and side by side.

    python benchmarks/sweep.py [--runs FOLDER]

All three sweeps of a network are of the same trials, trainings of the quickstart with fewer
epochs up to the compact network, in folders of their own, one sweep after the other. "In turn"
is the engine without Ray, with one thread (as each worker has) and with all cores. The time
includes the start of Ray and of its workers. Results: benchmarks/results/sweep.md.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.core.artifact import versions
from pipeline.core.rundir import write_text
from pipeline.search.board import Quiet
from pipeline.search.engine import Engine, chosen
from pipeline.search.grid import axes, trials
from pipeline.search.sequential import Sequential
from pipeline.search.sweep import sweep

RESULTS = Path(__file__).parent / "results"
GRID = ["budget.weights=0.2,0.1,0.05"]
SEEDS = 4
#: A network that two threads train faster than one, and one that is too small for that.
NETWORKS = {
    "the quickstart's, 16 epochs": ["train.epochs=16"],
    "a quarter of its width, 48 epochs": [
        "train.epochs=48", "model.width=16", "model.hidden=64",
    ],
}  # fmt: skip
ENGINES: dict[str, Callable[[], Engine]] = {
    "in turn, one thread": lambda: Sequential(threads=1),
    "in turn, all cores": Sequential,
    "two workers": lambda: chosen(2, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/sweep"))
    options = parser.parse_args()
    taken = {}
    for network, changes in NETWORKS.items():
        for name, engine in ENGINES.items():
            taken[network, name] = seconds(changes, engine(), options.runs)
            print(f"{network}, {name}: {taken[network, name]:.1f} s", flush=True)
    text = table(taken)
    write_text(RESULTS / "sweep.md", text)
    print(text)


def seconds(changes: list[str], engine: Engine, folder: Path) -> float:
    """Run the sweep from nothing and return how long it takes."""
    wanted = trials("quickstart", axes(GRID), SEEDS, overrides=changes)
    wanted = [trial.model_copy(update={"until": "compact"}) for trial in wanted]
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    ended = sweep(wanted, folder, engine, Quiet())
    took = time.monotonic() - began
    assert [one.state for one in ended] == ["finished"] * len(wanted)
    return took


def table(taken: dict[tuple[str, str], float]) -> str:
    count = SEEDS * len(axes(GRID)[0][1])
    said = (
        f"{count} trainings up to compaction; seconds for all of them, the start of the "
        "engine included, one sweep after the other on two cores. Made by `python "
        f"benchmarks/sweep.py`, torch {versions()['torch']}."
    )
    lines = [
        "# A sweep side by side",
        "",
        said,
        "",
        f"| network | {' | '.join(ENGINES)} | part of one thread's | part of all cores' |",
        "|---|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        one, all_, two = (taken[network, name] for name in ENGINES)
        times = f"{one:.1f} s | {all_:.1f} s | {two:.1f} s"
        lines.append(f"| {network} | {times} | {two / one:.2f} | {two / all_:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
