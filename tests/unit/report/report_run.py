"""A run's folder written by hand: small, whole, and with one file of each fate."""

import json
from pathlib import Path

from pipeline.core.artifact import Artifact, Provenance
from pipeline.core.rundir import RunDir

STAGES = ("train", "prune", "compact", "quantize", "export", "profile")
VERSIONS = {"python": "3.11.0", "pare": "0.1.0", "torch": "2.9.0"}


def measure(value, unit="ms", basis="measured", n=None, spread=None, **conditions):
    return {
        "value": value,
        "unit": unit,
        "basis": basis,
        "n": n,
        "spread": spread,
        "conditions": conditions,
    }


def layer(name, kind, weights, kept, outputs):
    return {
        "name": name,
        "kind": kind,
        "weights": weights,
        "kept": kept,
        "macs": 64 * weights,
        "kept_macs": 64 * kept,
        "outputs": outputs,
    }


def layers(count):
    """Layers as they were, and as compaction left them: each loses two channels."""
    before = [
        layer(f"block{i}.conv", "Conv2d", 2304 * 2**i, 700 + i, 16 + i) for i in range(count)
    ]
    after = [
        layer(f"block{i}.conv", "Conv2d", 1800 * 2**i, 650 + i, 14 + i) for i in range(count)
    ]
    return before, after


def epoch(number, phase="train", cost=0.4):
    return {
        "phase": phase,
        "epoch": number,
        "task_loss": 2.0 / number,
        "budget_loss": 1.0 / number,
        "accuracy": 1 - 0.5 / number,
        "pruned_accuracy": 1 - 0.7 / number,
        "cost": cost,
        "lr": 0.1,
        "seconds": 1.0,
        "instability": 0.25 if phase == "finetune" else None,
    }


def parity(steps=None, passed=True, why="largest difference 1e-06, limit 0.001"):
    return {
        "max_abs_difference": 0.25 if steps else 1.5e-6,
        "output_scale": 0.125 if steps else None,
        "max_steps": steps,
        "agreement": 0.75,
        "top1": measure(0.875, "", n=1234, spread=[0.85, 0.9]),
        "psnr_db": 60.0,
        "passed": passed,
        "why": why,
    }


def exported(scheme, file_format, state="made", **more):
    entry = {
        "file": f"model.{scheme}.{file_format}",
        "format": file_format,
        "scheme": scheme,
        "dtype": {"float32": "fp32", "float16": "fp16"}.get(scheme, scheme),
        "why": "nothing is quantized",
        "bytes": 1_234_567,
        "gzip_bytes": 65_432,
        "parity": parity(),
        "state": state,
    } | more
    if state == "refused":
        for key in ("bytes", "gzip_bytes", "parity"):
            del entry[key]
    return entry


def moment(**changed):
    """What is known of a machine at one moment."""
    return {
        "cpu": "A <cpu>", "cpu_parts": [], "cores": 4, "usable_cores": 2,
        "governor": "powersave",
        "frequency_mhz": 1500.0, "frequencies_mhz": [1500.0], "temperature_c": 40.0,
        "throttled": None, "load_average": [0.5, 0.25, 0.125], "limits": {"cores": 2.0},
        "emulation": None, "machine": "x86_64", "platform": "Linux-6", "python": "3.11.0",
    } | changed  # fmt: skip


def timing(threads, median, p90, **changed):
    """A measurement of the host, as the profile stage dumps it."""
    return {
        "threads": threads,
        "runtime": "onnxruntime",
        "runtime_version": "1.20",
        "median": measure(median, n=100, spread=[median * 0.9, median * 1.1]),
        "mean": measure(median, n=100),
        "minimum": measure(median * 0.8, n=100),
        "p5": None,
        "p90": None if p90 is None else measure(p90, n=100),
        "p95": None,
        "p99": None,
        "p90_claim": None if p90 is None else measure(p90 * 1.02, n=100),
        "std_ms": 0.1,
        "drift": -0.0125,
        "windows_ms": [median, median * 1.02],
        "spread": 0.02,
        "stable": True,
        "first_ms": 7.25,
        "load": {"import_ms": 30.0, "cold_ms": 12.5, "warm_ms": 2.25, "cache_dropped": True},
        "warmup": {"runs": 10, "mean_ms": median, "seconds": 0.5},
        "memory": {
            "start_bytes": 30_000_000, "loaded_bytes": 50_000_000, "steady_bytes": 54_321_000,
            "peak_bytes": 65_432_000, "method": "VmRSS",
        },
        "around": {
            "jpeg": "640x480", "runs": 30,
            "median_ms": {"decode": 2.125, "prepare": 0.375, "interpret": 0.0625},
        },
        "energy": None,
        "settings": {"threads": threads},
        "conditions": {
            "before": moment(),
            "after": moment(frequency_mhz=1400.0, temperature_c=51.5),
            "versions": {"numpy": "2.4.6"},
            "pinned": None,
        },
        "samples_ms": [median],
    } | changed  # fmt: skip


def check(name, limit, figure, passed, remedy=""):
    why = f"{figure} against {limit}" if figure else "no calibration"
    return {
        "name": name, "limit": limit, "figure": figure, "passed": passed, "why": why,
        "remedy": remedy,
    }  # fmt: skip


def row(file, checks, predicted=None, bound=None, measured=None):
    ram = measure(0.75, "MB", "predicted", arena_bytes=4096, weight_bytes=746_000)
    fits = all(one["passed"] is not False for one in checks)
    return {
        "file": file, "fits": fits, "measured": measured, "predicted": predicted,
        "bound": bound, "peak_ram": ram, "checks": checks,
    }  # fmt: skip


def targets():
    """One target where a file fits, one where a limit is unchecked, one where none fits."""
    size = check("file size (budget)", "16 MB", "1.23 MB", True)
    slow = check("latency", "1 ms", "4.2 ms", False, "cut more MACs")
    dtype = check("dtype", "int8", "fp32", False)
    open_ = check("latency", "9 ms", None, None, "measure on the device")
    predicted = measure(
        2.5, "ms", "predicted", spread=[1.5, 4.2], threads=4, loo_mape_pct=20.0,
        calibration_models=4, calibration_basis="fitted", extrapolated=True,
    )  # fmt: skip
    bound = measure(0.05, "ms", "bound", threads=2)
    good, other = "model.float32.onnx", "model.int8.tflite"
    lost = {other: "top-1 80.00% is 7.50 points below."}
    return [
        {
            "id": "board", "name": "A board", "chosen": good, "nearest": None,
            "why": "best of 2 files.",
            "files": [row(good, [size], predicted, bound), row(other, [size], None, bound)],
            "lost": lost,
        },
        {
            "id": "phone", "name": "A phone", "chosen": good, "nearest": None,
            "why": "best of 2 files.",
            "files": [row(good, [size, open_], None, bound), row(other, [size, slow])],
            "lost": {other: "latency: too slow."},
        },
        {
            "id": "chip", "name": "A chip", "chosen": None, "nearest": other,
            "why": "Nearest is something.",
            "files": [row(good, [slow, dtype]), row(other, [slow])],
            "lost": {good: "latency: too slow (and 1 more).", other: "latency: too slow."},
        },
    ]  # fmt: skip


def records(layer_count=2):
    """The metrics of every stage and the files beside them, free to be changed by a test."""
    before, after = layers(layer_count)
    sizes = {
        "parameters": 400_000,
        "weights": 399_000,
        "nonzero_weights": 40_000,
        "macs": 9_000_000,
    }
    smaller = {
        "parameters": 300_000,
        "weights": 299_000,
        "nonzero_weights": 39_000,
        "macs": 8_000_000,
    }
    files = [
        exported("float32", "onnx"),
        exported("int8", "tflite", parity=parity(steps=1.5)),
        exported("dynamic_range", "tflite", "refused", why="onnx2tf: no such <op>"),
        exported("float16", "tflite", "wrong", why="largest difference 9, limit 1",
                 parity=parity(passed=False)),
    ]  # fmt: skip
    profiled = [
        {
            "file": "model.float32.onnx",
            "latency": [timing(1, 3.25, 3.5), timing(2, 1.75, None)],
        },
        {"file": "model.int8.tflite", "latency": [timing(1, 1.25, 1.5)]},
    ]
    calibration = {
        "count": 200, "seed": 7, "split": "train", "class_histogram": {"cat": 120, "dog": 80},
        "minimum": -1.0, "maximum": 2.5, "sha256": "ab" * 32,
    }  # fmt: skip
    scheme = {
        "format": "tflite", "scheme": "int8", "dtype": "int8", "weights": "int8",
        "activations": "int8", "granularity": "per-channel", "input_dtype": "int8",
        "output_dtype": "int8", "method": "min-max", "variant": "",
        "why": "a scale for each channel",
    }  # fmt: skip
    plan = {
        "layers": {}, "calls": {},
        "removed": [
            {"layer": "block0.conv", "channel": 3, "reason": "no input", "constant": 0.5},
            {"layer": "block0.conv", "channel": 9, "reason": "no reader", "constant": None},
            {"layer": "block1.conv", "channel": 1, "reason": "no input", "constant": 0.0},
        ],
        "folds": {
            "block1.conv": {"constants": {"3": 0.5, "4": -0.75}, "into": "carrier:4"},
            "head": {"constants": {"1": 0.25}, "into": "running_mean:head.norm"},
        },
        "kept": [
            {"layer": "block1.conv", "channel": c, "why": "tied to a live channel of head"}
            for c in (2, 5)
        ],
    }  # fmt: skip
    comparisons = [
        {"what": "real images", "shape": [64, 1, 8, 8], "dtype": "float32",
         "difference": 2.5e-6, "scale": 20.0, "limit": 2e-4},
    ]  # fmt: skip
    recipe = {
        "name": "tiny", "seed": 5, "model": {"name": "conv2"}, "data": {"name": "digits"},
        "method": {"name": "reparam"}, "budget": {"weights": 0.1},
    }  # fmt: skip
    return {
        "recipe": recipe,
        "train": {
            "epochs": 3, "best_epoch": 2, "test_accuracy": 0.9,
            "reference_epoch": 3, "reference_accuracy": 0.91, "pruned_test_accuracy": 0.89,
            "test_images": 1234, "weights": 399_000, "kept_weights": 40_000,
            "options": {"t": 100.0}, "budget": {"unit": "weights", "part": 0.1},
            "data": {
                "name": "digits", "classes": ["cat", "dog"], "train": 5000, "validation": 500,
                "test": 1234, "shape": [1, 8, 8], "note": "",
            },
        },
        "prune": {
            "weights": 399_000, "kept_weights": 40_000, "effective_weights": 39_000,
            "accuracy_before": 0.9, "accuracy_after": 0.89, "instability": 0.0111,
            "layers": before,
        },
        "compact": {
            "before": sizes | {"layers": before}, "after": smaller | {"layers": after},
            "test_accuracy": 0.89, "channels_removed": 3, "carriers": 1,
        },
        "quantize": {"calibration": calibration, "files": [scheme]},
        "export": {"files": files},
        "profile": {"files": profiled, "targets": targets()},
        "beside": {
            "train": {"history.json": [epoch(1), epoch(2), epoch(3, "finetune")]},
            "compact": {"plan.json": plan, "equivalence.json": {"comparisons": comparisons}},
            "export": {"files.json": files},
            "profile": {"profile.json": {"files": profiled, "targets": targets()}},
        },
    }  # fmt: skip


def write_run(folder: Path, found: dict | None = None, stages=STAGES) -> Path:
    """Write the stages of a run as the runner does."""
    import tomli_w

    found = found or records()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(tomli_w.dumps(found["recipe"]), encoding="utf-8")
    run, parent = RunDir(folder), None
    for number, stage in enumerate(STAGES, 1):
        if stage not in stages:
            continue
        partial = run.open_partial(number, stage, f"{number}" * 64, resumable=False)
        for name, content in found["beside"].get(stage, {}).items():
            (partial / name).write_text(json.dumps(content), encoding="utf-8")
        parent = _artifact(number, stage, found, run, parent)
        run.commit(number, stage, parent)
    return folder


def _artifact(number, stage, found, run, parent):
    return Artifact(
        kind=stage,
        files=run.files(number, stage),
        metrics={"summary": f"did {stage}"} | found[stage],
        provenance=Provenance(
            stage=stage, key=f"{number}" * 64,
            parent=parent.provenance.key if parent else None,
            parent_record=parent.digest if parent else None,
            parameters={}, seed=5, git_commit=None, versions=VERSIONS, seconds=1.5 * number,
            finished_utc=f"2026-01-0{number}T00:00:00+00:00",
        ),
    )  # fmt: skip
