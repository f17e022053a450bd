"""What two workers save: one sweep of twelve short runs, one after another and side by side.

    python benchmarks/sweep.py [--runs FOLDER]

Both sweeps are of the same trials, each a training of the quickstart with fewer epochs up to
the compact network, in folders of their own, in turns, twice. "In turn" is the engine
without Ray, with one thread (as each worker has) and with all cores. The time includes the
start of Ray and of its workers. Results: benchmarks/results/sweep.md.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
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
EPOCHS = 24
ENGINES: dict[str, Callable[[], Engine]] = {
    "in turn, one thread": lambda: Sequential(threads=1),
    "in turn, all cores": Sequential,
    "two workers": lambda: chosen(2, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/sweep"))
    options = parser.parse_args()
    wanted = trials("quickstart", axes(GRID), SEEDS, overrides=[f"train.epochs={EPOCHS}"])
    wanted = [trial.model_copy(update={"until": "compact"}) for trial in wanted]
    taken: dict[str, list[float]] = {name: [] for name in ENGINES}
    for _ in range(2):
        for name, engine in ENGINES.items():
            shutil.rmtree(options.runs, ignore_errors=True)
            began = time.monotonic()
            ended = sweep(wanted, options.runs, engine(), Quiet())
            taken[name].append(time.monotonic() - began)
            assert [one.state for one in ended] == ["finished"] * len(wanted)
            print(f"{name}: {taken[name][-1]:.1f} s", flush=True)
    text = table(taken, len(wanted))
    write_text(RESULTS / "sweep.md", text)
    print(text)


def table(taken: dict[str, list[float]], count: int) -> str:
    means = {name: statistics.mean(seconds) for name, seconds in taken.items()}
    side = means["two workers"]
    said = (
        f"{count} trainings of the quickstart, {EPOCHS} epochs each, up to compaction; "
        "seconds for all of them, the start of the engine included, measured in turns. Made "
        f"by `python benchmarks/sweep.py`, torch {versions()['torch']}."
    )
    lines = [
        "# A sweep side by side",
        "",
        said,
        "",
        "| engine | seconds, each time | mean | two workers take |",
        "|---|---|---|---|",
    ]
    for name, seconds in taken.items():
        each = ", ".join(f"{one:.1f}" for one in seconds)
        part = f"{side / means[name]:.2f} of it"
        lines.append(f"| {name} | {each} | {means[name]:.1f} | {part} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
