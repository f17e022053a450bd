"""Every scheme x both TFLite backends x ONNX, on eight networks: what was made, what is wrong.

    python benchmarks/export_matrix.py --data image-folder:PATH [--runs runs/benchmarks/matrix]

Each network is trained on CIFAR-10 (JPEG) first, resnet8 on 20,000 images, conv4 on 10,000,
mobilenet_v2 on 5,000, the others for a few epochs on 1,500 to 2,000: enough that their classes
can be told apart, not a figure to quote. The weights are kept, so that a change to the
exporters does not train again. Then each is an ordinary run up to its files, without targets,
so that every scheme is made by every exporter that offers it. Files are judged on 100 test
images of each class, since some schemes take tens of milliseconds an image. Writes
benchmarks/results/export_matrix.csv (one row a candidate) and export_matrix.md. A benchmark
that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path
from typing import Any

from pipeline import Recipe, run
from pipeline.core.artifact import versions
from pipeline.core.rundir import write_text
from pipeline.stages.examining import in_turns

RESULTS = Path(__file__).parent / "results"
FEW = {"data": {"per_class": 150, "size": 64}, "train": {"epochs": 3, "lr": 0.05}}
#: Name in the table -> what the recipe says beyond the common part.
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet8": {
        "data": {"per_class": 2000},
        "train": {"epochs": 12, "lr": 0.1, "batch_size": 128},
    },
    "conv4": {"data": {"per_class": 1000}, "train": {"epochs": 8, "lr": 0.03}},
    "resnet20": {"data": {"per_class": 200}, "train": {"epochs": 6, "lr": 0.1}},
    "mobilenet_v2": {
        "data": {"per_class": 500, "size": 64},
        "train": {"epochs": 6, "lr": 0.05},
    },
    "mobilenet_v3_small": FEW,
    "efficientnet_b0": FEW,
    "shufflenet_v2_x1_0": FEW,
    "regnet_y_400mf": FEW,
}
TESTS = 100  # images of each class
OURS = ("resnet8", "conv4", "resnet20")
FIELDS = (
    "network", "file", "exporter", "state", "elected", "bytes", "gzip_bytes", "zstd_bytes",
    "ms", "top1", "network_top1", "agreement", "psnr_db", "max_abs_difference",
    "int8_macs", "macs", "why",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="image-folder:data/cifar10-jpeg")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/matrix"))
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    args.data = fewer_tests(args.data, args.runs)
    for name in args.networks:
        weights = trained(name, args.data, args.runs)
        if not args.train_only:
            exported(name, args.data, args.runs, weights)
    if not args.train_only:
        write(args.runs)


def fewer_tests(data: str, runs: Path) -> str:
    """Return the folder of images with the first test images of each class only, as links."""
    source, few = Path(data.removeprefix("image-folder:")).resolve(), runs.resolve() / "images"
    if not few.is_dir():
        few.mkdir(parents=True)
        (few / "train").symlink_to(source / "train")
        for folder in sorted(path for path in (source / "test").iterdir() if path.is_dir()):
            (few / "test" / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:TESTS]:
                (few / "test" / folder.name / path.name).symlink_to(path)
    return f"image-folder:{few}"


def recipe(name: str, data: str, **parts: dict[str, Any]) -> Recipe:
    """Return the recipe of a network; ``parts`` add to its tables."""
    own = NETWORKS[name]
    model = name if name in OURS else f"torchvision:{name}"
    values: dict[str, Any] = {
        "name": f"matrix-{name}",
        "model": {"name": model},
        "data": {"name": data, **own.get("data", {})},
        "train": {"batch_size": 64, **own["train"]},
        "quantize": {"schemes": ["int16x8", "weight_only", "int4"]},
        "export": {"min_agreement": 0.9},
    }
    for table, more in parts.items():
        values[table] = {**values.get(table, {}), **more}
    return Recipe.model_validate(values)


def trained(name: str, data: str, runs: Path) -> Path:
    """Return the weights of a network, trained unless they are there."""
    weights = runs / f"{name}.safetensors"
    if not weights.is_file():
        folder = runs / f"{name}-training"
        run(recipe(name, data), out=folder, until="train", quiet=False)
        shutil.copy(folder / "1-train" / "model.safetensors", weights)
    return weights


def exported(name: str, data: str, runs: Path, weights: Path) -> None:
    """Make every file of a network from its trained weights."""
    again = {"epochs": 1, "lr": 1e-6, "augment": False}
    own = recipe(name, data, model={"checkpoint": str(weights)}, train=again)
    run(own, out=runs / name, until="export", quiet=False)


def rows(runs: Path) -> list[dict[str, Any]]:
    """Return one row a candidate of every network that was exported."""
    found = []
    for name in NETWORKS:
        folder = runs / name / "5-export"
        path = folder / "files.json"
        entries = json.loads(path.read_text()) if path.is_file() else []
        pairs = [(entry, one) for entry in entries for one in entry["candidates"]]
        times = timed(folder, pairs)
        found += [
            row(name, entry, one, ms) for (entry, one), ms in zip(pairs, times, strict=True)
        ]
    return found


def timed(
    folder: Path, pairs: list[tuple[dict[str, Any], dict[str, Any]]]
) -> list[float | None]:
    """Return the time of each file of a network, all of them run in turns."""
    paths = [place(folder, entry, one) for entry, one in pairs]
    there = [path for path in paths if path is not None]
    found = dict(zip(there, in_turns(there), strict=True))
    times = [found.get(path) if path else None for path in paths]
    return [round(time.value, 3) if time else None for time in times]


def place(folder: Path, entry: dict[str, Any], one: dict[str, Any]) -> Path | None:
    """Return where a candidate's file is, if it is one that may be run."""
    offered = entry["state"] == "made" and entry["exporter"] == one["exporter"]
    path = folder if offered else folder / "candidates" / one["exporter"]
    path = path / entry["file"]
    return path if one["state"] == "made" and path.is_file() else None


def row(
    name: str, entry: dict[str, Any], one: dict[str, Any], ms: float | None
) -> dict[str, Any]:
    parity, audit = one["parity"] or {}, one["audit"] or {}
    return {
        "network": name,
        "file": entry["file"],
        "exporter": one["exporter"],
        "state": one["state"],
        "elected": entry["state"] == "made" and entry["exporter"] == one["exporter"],
        **{key: one[key] for key in ("bytes", "gzip_bytes", "zstd_bytes")},
        "ms": ms,
        "top1": round(parity["top1"]["value"], 4) if parity else None,
        "network_top1": round(parity["network_top1"], 4) if parity else None,
        "agreement": round(parity["agreement"], 4) if parity else None,
        "psnr_db": parity.get("psnr_db") and round(parity["psnr_db"], 1),
        "max_abs_difference": parity.get("max_abs_difference"),
        "int8_macs": audit.get("int8_macs"),
        "macs": audit.get("macs"),
        "why": one["why"],
    }


def write(runs: Path) -> None:
    """Write the table for machines and the one for people."""
    found = rows(runs)
    with (RESULTS / "export_matrix.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()
        table.writerows(found)
    write_text(RESULTS / "export_matrix.md", markdown(found))


def markdown(found: list[dict[str, Any]]) -> str:
    """Return the matrix: a table a network, a line a file, a column an exporter."""
    names = ("python", "torch", "onnxruntime", "tensorflow", "onnx2tf", "litert-torch",
             "ai-edge-quantizer", "ai-edge-litert")  # fmt: skip
    tools = ", ".join(f"{name} {versions().get(name, '-')}" for name in names)
    count = {state: sum(r["state"] == state for r in found) for state in ("made", "wrong")}
    lines = [
        "# Export matrix",
        "",
        f"{len(found)} candidates: {count['made']} made, {count['wrong']} wrong (kept aside,",
        f"never offered), the rest refused. Top-1 on {10 * TESTS:,} test images, agreement",
        "with the PyTorch network, KB, ms (median of 30 runs on one thread, a network's files",
        "in turns).",
        "",
        f"Made by `benchmarks/export_matrix.py` with {tools}.",
    ]
    for name in dict.fromkeys(r["network"] for r in found):
        own = [r for r in found if r["network"] == name]
        top1 = next((r["network_top1"] for r in own if r["network_top1"]), None)
        lines += ["", f"## {name}: {top1:.2%} in PyTorch" if top1 else f"## {name}", ""]
        titles = "top-1 agreement PSNR KB gzip zstd ms int8-MACs"
        lines += [f"| file | exporter | {titles.replace(' ', ' | ')} | |"]
        lines += ["|---|---|---|---|---|---|---|---|---|---|---|"]
        lines += [line(r) for r in own]
    return "\n".join(lines) + "\n"


def line(r: dict[str, Any]) -> str:
    """Return one candidate as a line of its network's table."""
    name = f"| {r['file']} | {r['exporter'].removeprefix('tflite_')} "
    if r["state"] == "refused":
        return f"{name}| | | | | | | | | refused: {' '.join(r['why'].split())[:160]} |"
    sizes = " | ".join(
        f"{r[key] / 1000:,.0f}" for key in ("bytes", "gzip_bytes", "zstd_bytes")
    )
    psnr = f"{r['psnr_db']:.1f}" if r["psnr_db"] else "exact"
    share = f"{r['int8_macs'] / r['macs']:.0%}" if r["macs"] else ""
    said = f"**wrong**: {r['why']}" if r["state"] == "wrong" else "offered" * r["elected"]
    ms = f"{r['ms']:.2f}" if r["ms"] else ""
    return (
        f"{name}| {r['top1']:.2%} | {r['agreement']:.2%} | {psnr} | {sizes} | "
        f"{ms} | {share} | {said} |"
    )


if __name__ == "__main__":
    main()
