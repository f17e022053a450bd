r"""Our resnet8 beside the MLPerf Tiny reference files: bytes, top-1, latency in one run.

    python benchmarks/reference_models.py --data image-folder:PATH --references FOLDER \
        --run runs/benchmarks/matrix/resnet8

All files classify the same 10,000 test images of CIFAR-10 (JPEG), each by its own runtime,
and are timed in turns on one thread, as times on a shared machine drift. The references were
trained on other pixels (CIFAR-10 before it was JPEG) and are not trained again, so their
accuracy says how well our pixels are theirs, not which network is better. They take pixels
from 0 to 255. Writes benchmarks/results/reference_models.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from pipeline.core.artifact import versions
from pipeline.core.recipe import DataChoice
from pipeline.core.rundir import write_text
from pipeline.data import Dataset, load
from pipeline.exporters.parity import accuracy
from pipeline.profilers.audit import Audit, audit
from pipeline.profilers.file_graph import read
from pipeline.runtime.bench import measure_in_turns
from pipeline.runtime.engines import Engine, open_model
from pipeline.runtime.metadata import read_metadata

RESULTS = Path(__file__).parent / "results"
OURS = ("model.int8.tflite", "model.float32.tflite", "model.int8.onnx", "model.float32.onnx")
TURNS = 300
RAW = {"preprocessing": "raw uint8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="image-folder:data/cifar10-jpeg")
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/benchmarks/matrix/resnet8"))
    args = parser.parse_args()
    data = load(DataChoice(name=args.data))
    own = [args.run / "5-export" / name for name in OURS]
    paths = [*sorted(args.references.glob("*.tflite")), *filter(Path.is_file, own)]
    engines = {path: open_model(path) for path in paths}
    invokes = [engine.invoke for engine in engines.values()]
    timings = measure_in_turns(invokes, warmup_runs=20, runs=TURNS)
    rows = [
        row(path, engine, timing.median_ms, data)
        for (path, engine), timing in zip(engines.items(), timings, strict=True)
    ]
    write_text(RESULTS / "reference_models.md", markdown(rows))


def row(path: Path, engine: Engine, ms: float, data: Dataset) -> list[str]:
    """Return what is known of one file, as cells."""
    facts = read_metadata(path) or RAW  # the references carry no word about their pixels
    raw = facts.get("preprocessing") == "raw uint8"
    parts = data.test.images.split(500)
    images = (part.float() if raw else data.normalise(part) for part in parts)
    found = np.concatenate([engine.run(part.numpy()) for part in images])
    labels = data.test.labels.numpy()
    top1 = accuracy(int((found.argmax(1) == labels).sum()), len(labels))
    low, high = top1.spread or (0.0, 0.0)
    seen = audit(read(path))
    return [
        f"{'ours' if path.name in OURS else 'reference'}, {path.name}",
        f"{path.stat().st_size:,}",
        f"{top1.value:.2%} ({low:.2%} to {high:.2%})",
        f"{ms:.3f}",
        f"{seen.macs / 1e6:.1f} M",
        integer(seen),
        ", ".join(facts.get("made_by", ["MLPerf Tiny"])),
    ]


def integer(seen: Audit) -> str:
    return f"{seen.int8_mac_share:.0%}, {seen.int8_operator_share:.0%}"


def markdown(rows: list[list[str]]) -> str:
    titles = ["file", "bytes", "top-1 (95 % interval)", "ms", "MACs"]
    titles += ["in int8: MACs, operators", "made by"]
    names = ("onnxruntime", "ai-edge-litert")
    tools = ", ".join(f"{name} {versions().get(name, '-')}" for name in names)
    lines = [
        "# Our resnet8 beside the MLPerf Tiny references",
        "",
        "10,000 test images of CIFAR-10 (JPEG). The references were trained on the original",
        "pixels and not trained again, so accuracies do not compare the networks; they say",
        f"that each file is read as it was meant. Median of {TURNS} turns on one thread,",
        f"{tools}. Made by `benchmarks/reference_models.py`.",
        "",
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
        *(f"| {' | '.join(cells)} |" for cells in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
