"""Layers stay in float until an accuracy limit holds: on networks where int8 alone breaks it.

    python benchmarks/mixed_precision.py --data image-folder:PATH --runs runs/benchmarks/matrix

Takes the networks that benchmarks/export_matrix.py trained and makes int8 files with one scale
a weight, the harder case, under a limit of so many points of top-1. What is lost is measured
on the files: on the validation split, which decides, and on 1,000 test images of CIFAR-10
(JPEG), which only tell. Writes benchmarks/results/mixed_precision.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from export_matrix import fewer_tests, recipe, trained

from pipeline import run
from pipeline.core.rundir import write_text

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("resnet8", "conv4", "mobilenet_v2")
TARGET = """\
schema = "edge-target/1"
id = "int8-per-tensor"
name = "int8 with one scale a weight"
class = "sbc"
[platform]
os = "linux"
[constraints]
basis = "assumed"
source = "benchmarks/mixed_precision.py"
formats = ["onnx", "tflite"]
dtypes = ["fp32", "int8"]
int8_granularity = ["per-tensor"]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="image-folder:data/cifar10-jpeg")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/matrix"))
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--limits", nargs="*", type=float, default=[1.0, 0.2])
    args = parser.parse_args()
    args.data = fewer_tests(args.data, args.runs)
    target = args.runs / "int8-per-tensor.toml"
    write_text(target, TARGET)
    lines = []
    for name in args.networks:
        weights = trained(name, args.data, args.runs)
        for limit in args.limits:
            own = recipe(
                name,
                args.data,
                model={"checkpoint": str(weights)},
                train={"epochs": 1, "lr": 1e-6, "augment": False},
                quantize={"schemes": [], "max_accuracy_drop": limit},
            ).model_copy(update={"targets": [str(target)]})
            folder = args.runs / f"{name}-mixed-{limit:g}"
            run_to_files(own, folder)
            lines += rows(name, limit, folder)
            write_text(RESULTS / "mixed_precision.md", "\n".join([*HEAD, *lines]) + "\n")


def run_to_files(own: Any, folder: Path) -> None:
    run(own, out=folder, until="export", quiet=False)


def rows(name: str, limit: float, folder: Path) -> list[str]:
    """Return a line for each int8 file of a run and what came of the limit."""
    files = json.loads((folder / "5-export" / "files.json").read_text())
    record = json.loads((folder / "5-export" / "stage.json").read_text())
    plain = [f for f in files if f["scheme"] == "int8" and not f["kept"]]
    mixed = {f["file"].replace("-mixed", ""): f for f in files if f["kept"]}
    floats = {f["format"]: f for f in files if f["scheme"] == "float32"}
    controls = record["metrics"]["accuracy_control"]
    lines = []
    for entry, control in zip(plain, controls, strict=True):
        last = mixed.get(entry["file"], entry)
        first, final = control["tries"][0], control["tries"][-1]
        held = [one for one in control["tries"] if one["holds"]]
        layers = len(last["kept"])
        best = min(held, key=lambda one: one["in_float"]) if held else final
        lines.append(
            f"| {name} | {entry['format']} | {limit:g} | {points(first['drop'])} | {layers} | "
            f"{points(best['drop'])} | {lost(last)} | {last['state']} | "
            f"{last.get('bytes', 0) / floats[entry['format']]['bytes']:.2f} | "
            f"{ms(last) / ms(floats[entry['format']]):.2f} |"
        )
    return lines


def points(drop: float | None) -> str:
    return "no file" if drop is None else f"{drop:.2f}"


def lost(entry: dict[str, Any]) -> str:
    parity = entry["parity"]
    return f"{(parity['network_top1'] - parity['top1']['value']) * 100:.2f}"


def ms(entry: dict[str, Any]) -> float:
    return float(entry["inference"]["value"])


HEAD = [
    "# Mixed precision under an accuracy limit",
    "",
    "int8 with one scale a weight. Points of top-1 lost against the float network: on the",
    "validation split with all layers in integers, and with the layers in float that were",
    "found necessary; on 1,000 test images for the file that is offered. Bytes and time as",
    "a part of the float32 file's. Made by `benchmarks/mixed_precision.py`.",
    "",
    "| network | format | limit | all int8 | in float | then | test | state | bytes | time |",
    "|---|---|---:|---:|---:|---:|---:|---|---:|---:|",
]


if __name__ == "__main__":
    main()
