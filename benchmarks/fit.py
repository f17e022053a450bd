"""A fit for four devices, timed, its verdicts held against a recount of the files.

    python benchmarks/fit.py [--runs FOLDER]

The recount asks the engines and the disk, and nothing of pare's: bytes from the file system,
top-1 from running the file on every test image, limits from the target's TOML. Then a target
of 10 kB is asked for in a process of its own, and timed from start to end. Results:
benchmarks/results/fit.md.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.artifact import versions
from pipeline.core.recipe import Recipe
from pipeline.core.rundir import read_json, write_text
from pipeline.data import Dataset, load

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
DEVICES = ("raspberry-pi-zero-2w", "android-entry", "smart-camera-imx500", "stm32h7")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/fit"))
    options = parser.parse_args()
    shutil.rmtree(options.runs, ignore_errors=True)
    fitted = options.runs / "fit"
    seconds = timed("--out", str(fitted), *(x for d in DEVICES for x in ("--target", d)))
    data = load(Recipe.load("quickstart").data)
    rows = [row(fitted, verdict, data) for verdict in read_json(fitted / "verdicts.json")]
    trials = read_json(fitted / "results.json")["trials"]
    refused = timed(
        "--out", str(options.runs / "no"), "--target", str(ten_kilobytes(options.runs)), code=3
    )
    text = table(rows, trials, seconds, refused)
    write_text(RESULTS / "fit.md", text)
    print(text)


def timed(*arguments: str, code: int = 0) -> float:
    """Run ``pare fit`` in a process of its own and return its seconds."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "fit", "quickstart", *arguments], check=False
    )
    assert done.returncode == code, done.returncode
    return time.monotonic() - began


def ten_kilobytes(folder: Path) -> Path:
    text = (ROOT / "targets" / f"{DEVICES[0]}.toml").read_text(encoding="utf-8")
    path = folder / "ten-kilobytes.toml"
    text = text.replace("model_mb = 8", "model_mb = 0.01")
    path.write_text(text.replace(f'id = "{DEVICES[0]}"', 'id = "ten-kilobytes"'))
    return path


def row(fitted: Path, verdict: dict[str, Any], data: Dataset) -> dict[str, Any]:
    """Count one verdict again."""
    name = verdict["target"]
    target = tomllib.loads((ROOT / "targets" / f"{name}.toml").read_text())
    if not verdict["fits"]:
        return {"target": name, "why": verdict["why"], "confirmed": None}
    file = fitted / "targets" / name / verdict["file"]
    size, top1 = file.stat().st_size, accuracy(file, data)
    budgets, memory = target.get("budgets", {}), target.get("memory", {})
    reference = max(
        trial["figures"]["reference_accuracy"]
        for trial in read_json(fitted / "results.json")["trials"]
        if trial["state"] == "finished"
        and trial["figures"]["reference_validation"] == best_validation(fitted)
    )
    lost = 100 * (reference - top1)
    holds = {
        "bytes as said": size == verdict["bytes"],
        "top-1 as said": abs(top1 - verdict["accuracy"]) < 1e-9,
        "format": file.suffix[1:] in target["constraints"]["formats"],
        "model_mb": size <= budgets.get("model_mb", np.inf) * 1e6,
        "RAM": size <= memory.get("budget_mb", {"value": np.inf})["value"] * 1e6,
        "drop": lost <= budgets.get("accuracy_drop_pct", np.inf) + 1e-9,
    }
    return {
        "target": name, "network": verdict["trial"].removesuffix(".files"),
        "file": verdict["file"], "bytes": size, "top1": top1, "lost": lost,
        "confirmed": all(holds.values()),
        "broken": [what for what, held in holds.items() if not held],
    }  # fmt: skip


def best_validation(fitted: Path) -> float:
    trials = read_json(fitted / "results.json")["trials"]
    done = [trial["figures"] for trial in trials if trial["state"] == "finished"]
    return max(figures["reference_validation"] for figures in done)


def accuracy(file: Path, data: Dataset) -> float:
    """Run a file on every test image in its own engine and return top-1."""
    images = data.normalise(data.test.images).numpy()
    answer = _onnx(file) if file.suffix == ".onnx" else _tflite(file)
    right = [
        answer(i[None]) == label for i, label in zip(images, data.test.labels, strict=True)
    ]
    return float(np.mean(right))


def _onnx(file: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file))
    name = session.get_inputs()[0].name
    return lambda image: int(np.argmax(session.run(None, {name: image})[0]))


def _tflite(file: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(model_path=str(file))
    engine.allocate_tensors()
    (taken,), (given,) = engine.get_input_details(), engine.get_output_details()

    def answer(image: Any) -> int:
        if taken["shape"][1] != image.shape[1]:
            image = image.transpose(0, 2, 3, 1)
        if taken["dtype"] != np.float32:
            scale, zero = taken["quantization"]
            ends = np.iinfo(taken["dtype"])
            image = np.clip(np.round(image / scale) + zero, ends.min, ends.max)
        engine.set_tensor(taken["index"], image.astype(taken["dtype"]))
        engine.invoke()
        return int(np.argmax(engine.get_tensor(given["index"])))

    return answer


def table(
    rows: list[dict[str, Any]], trials: list[dict[str, Any]], seconds: float, refused: float
) -> str:
    states = [trial["state"] for trial in trials]
    said = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    told = (
        f"`pare fit quickstart` for {', '.join(DEVICES)}: {seconds / 60:.1f} minutes on two "
        f"cores, {len(trials)} trials ({said}). A target of 10 kB is refused by counting "
        f"after {refused:.1f} s, the start of Python included. Bytes, top-1 and limits are "
        "counted again from the files, by their engines. Made by `python benchmarks/fit.py`, "
        f"torch {versions()['torch']}."
    )
    lines = [
        "# A fit for four devices",
        "",
        told,
        "",
        "| target | network | file | bytes | top-1, % | points lost | recount |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        if one["confirmed"] is None:
            lines.append(f"| {one['target']} | none fits: {one['why']} | | | | | |")
            continue
        confirmed = "confirms" if one["confirmed"] else f"DENIES: {', '.join(one['broken'])}"
        lines.append(
            f"| {one['target']} | {one['network']} | {one['file']} | {one['bytes']:,} | "
            f"{100 * one['top1']:.2f} | {one['lost']:.2f} | {confirmed} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
