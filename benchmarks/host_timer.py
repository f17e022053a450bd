"""The host's measurement beside an independent timer, in turns: the ratio of the medians.

    python benchmarks/host_timer.py [FILE ...]

Each turn measures a file twice, in two processes of their own: by `pare profile --on local`,
and by the ten lines of ``ALONE``, which use the engine and a clock and nothing of ours.
Compared are medians by their ratio. Files are the quickstart's by default (`pare run`).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from pipeline.profilers.transports.local import Local
from pipeline.runtime.conditions import cpu_model
from pipeline.runtime.harness import Settings

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "runs" / "quickstart" / "5-export"
RESULT = ROOT / "benchmarks" / "results" / "host_timer.md"
NAMES = [
    f"model.{scheme}.{kind}" for kind in ("onnx", "tflite") for scheme in ("float32", "int8")
]
TURNS, RUNS = 7, 3000
SETTINGS = Settings(warmup_s=0.5, runs=RUNS, seconds=0, repeats=1, operators=False)
LIMIT = 0.05

ALONE = """
import json, statistics, sys, time, numpy as np
path, runs = sys.argv[1], int(sys.argv[2])
if path.endswith(".onnx"):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    given = session.get_inputs()[0]
    feed = {given.name: np.random.rand(*given.shape).astype("float32")}
    call = lambda: session.run(None, feed)
else:
    from ai_edge_litert.interpreter import Interpreter
    engine = Interpreter(path, num_threads=1)
    engine.allocate_tensors()
    call = engine.invoke
taken = []
for _ in range(runs + 500):
    begin = time.monotonic_ns()
    call()
    taken.append(time.monotonic_ns() - begin)
print(json.dumps(statistics.median(taken[500:]) * 1e-6))
"""


def main(paths: list[Path]) -> int:
    """Compare the two timers on each file and write the table."""
    rows = [compared(path) for path in paths]
    lines = [
        "# The host's timer beside an independent one",
        "",
        f"`python benchmarks/host_timer.py`, {cpu_model()}: medians of {TURNS} turns, each of",
        f"{RUNS:,} runs by either timer in a process of its own, one thread.",
        "",
        "| file | pare, ms | independent, ms | ratio of medians | over the turns |",
        "|---|---|---|---|---|",
        *(row for row, _ in rows),
        "",
    ]
    RESULT.write_text("\n".join(lines), encoding="utf-8")
    sys.stdout.write("\n".join(lines))
    return int(any(abs(ratio - 1) > LIMIT for _, ratio in rows))


def compared(path: Path) -> tuple[str, float]:
    """Return a file's row, and the ratio of our median to theirs."""
    pairs = [(ours(path), theirs(path)) for _ in range(TURNS)]
    ratios = sorted(a / b for a, b in pairs)
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(ratios)
    span = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
    return f"| {path.name} | {mine:.4f} | {other:.4f} | {ratio:.3f} | {span} |", ratio


def ours(path: Path) -> float:
    """Return the median as `pare profile --on local` measures it."""
    found = Local().measure(path, SETTINGS, lambda _event: None)
    return float(found["timing"]["median_ms"])


def theirs(path: Path) -> float:
    """Return the median of ten lines that use nothing of ours."""
    line = [sys.executable, "-c", ALONE, str(path), str(RUNS)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    chosen = [Path(text) for text in sys.argv[1:]]
    sys.exit(main(chosen or [FILES / name for name in NAMES]))
