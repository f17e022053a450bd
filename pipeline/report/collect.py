"""The records of a run's stages, gathered into one; nothing is rounded or worded here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.core.artifact import Artifact
from pipeline.core.errors import PareError
from pipeline.core.measure import Measure
from pipeline.core.record import read_toml
from pipeline.core.rundir import RunDir, read_json
from pipeline.report.on_device import with_devices

SCHEMA_VERSION = 3

#: What the quantize stage did and found beside its plan.
_PREPARED = ("findings", "equalised", "corrected", "ranking", "qat", "dense_because")

#: The stages a report is made of, in their order.
STAGES = ("train", "prune", "compact", "quantize", "export", "profile")


def collect(folder: Path) -> dict[str, Any]:
    """Gather everything that is known of a finished run, as plain data.

    Args:
        folder: of the run.

    Returns:
        The content of ``report.json``. What is not known is ``None``, never a zero.

    Raises:
        PareError: the folder holds no run, a stage of it is missing or damaged, or was made
            from what another run of the stage before left; the message names the command
            that makes it.
    """
    artifacts = _artifacts(folder)
    recipe = read_toml(folder / "recipe.toml")
    files = _read(folder, "export", "files.json")
    profile = _read(folder, "profile", "profile.json")
    plan = _read(folder, "compact", "plan.json")
    metrics = {name: artifact.metrics for name, artifact in artifacts.items()}
    measured = {entry["file"]: entry for entry in profile["files"]}
    return {
        "schema_version": SCHEMA_VERSION,
        "name": recipe.get("name", folder.resolve().name),
        "created": max(a.provenance.finished_utc for a in artifacts.values()),
        "keys": {name: artifact.provenance.key for name, artifact in artifacts.items()},
        "recipe": recipe,
        "method": {
            "name": recipe.get("method", {}).get("name"),
            "options": metrics["train"]["options"],
        },
        "data": metrics["train"]["data"],
        "accuracy": _accuracy(metrics),
        "counts": _counts(metrics),
        "layers": _layers(metrics, plan),
        "cut": _cut(plan) | {"slow_widths": metrics["compact"].get("slow_widths")},
        "training": {
            "epochs": metrics["train"]["epochs"],
            "best_epoch": metrics["train"]["best_epoch"],
            "budget": metrics["train"].get("budget"),
            "instability": metrics["prune"].get("instability"),
            "history": _read(folder, "train", "history.json"),
        },
        "equivalence": _read(folder, "compact", "equivalence.json"),
        "quantization": {
            "files": metrics["quantize"]["files"],
            "calibration": metrics["quantize"]["calibration"],
            **{name: metrics["quantize"].get(name) for name in _PREPARED},
            "accuracy_control": metrics["export"].get("accuracy_control") or [],
        },
        "files": [
            _with_class_names(entry | measured.get(entry["file"], {}), metrics)
            for entry in files
        ],
        "targets": [
            with_devices(folder, target, artifacts["export"].files)
            for target in profile["targets"]
        ],
        "environment": _environment(artifacts, profile["files"]),
    }


def _with_class_names(entry: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """Return a file's record with the name of its worst class."""
    worst = (entry.get("parity") or {}).get("worst_class")
    if not worst:
        return entry
    name = metrics["train"]["data"]["classes"][worst["position"]]
    return entry | {"parity": entry["parity"] | {"worst_class": worst | {"name": name}}}


def _artifacts(folder: Path) -> dict[str, Artifact]:
    """Return what each stage left, all of it whole and each made from the one before."""
    if not (folder / "recipe.toml").is_file():
        raise PareError(f"{folder} is not the folder of a run: it has no recipe.toml.")
    found: dict[str, Artifact] = {}
    parent: Artifact | None = None
    for number, stage in enumerate(STAGES, 1):
        artifact = RunDir(folder).finished(number, stage)
        if artifact is None:
            raise PareError(
                f"{folder}: stage {stage!r} is missing or not whole, so there is nothing "
                f"complete to report. Make it with `pare {stage} {folder}`, or everything "
                f"with `pare run {folder}`."
            )
        if not artifact.follows(parent):
            raise PareError(
                f"{folder}: stage {stage!r} is stale: it was made from an earlier result of "
                f"{STAGES[number - 2]!r}, so a report would mix two runs. Renew it with "
                f"`pare run {folder}`."
            )
        found[stage] = parent = artifact
    return found


def _read(folder: Path, stage: str, name: str) -> Any:
    return read_json(RunDir(folder).folder(STAGES.index(stage) + 1, stage) / name)


def _accuracy(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return top-1 on the test split at each step of the network's way."""
    count = metrics["train"]["test_images"]
    steps = {
        "reference": metrics["train"]["reference_accuracy"],
        "trained": metrics["train"]["test_accuracy"],
        "pruned": metrics["prune"]["accuracy_after"],
        "compact": metrics["compact"]["test_accuracy"],
    }
    if paid := metrics["compact"].get("paid"):
        steps |= {"compact": paid["accuracy_before"], "paid": paid["accuracy_after"]}
    return {
        step: Measure(
            value=value, unit="", basis="measured", n=count, conditions={"split": "test"}
        ).model_dump(mode="json")
        for step, value in steps.items()
    }


def _counts(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what the whole network weighs before and after."""
    names = ("parameters", "weights", "nonzero_weights", "macs")
    prune, compact = metrics["prune"], metrics["compact"]
    paid = compact.get("paid")
    return {
        "before": {name: compact["before"][name] for name in names},
        "after": {name: compact["after"][name] for name in names},
        "paid": paid
        and {
            "removed": paid["removed"],
            "channels": paid["channels"],
            "images": paid["images"],
            **{name: paid["after"][name] for name in names},
        },
        "kept_weights": prune["kept_weights"],
        "effective_weights": prune["effective_weights"],
    }


def _layers(metrics: dict[str, Any], plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each layer before and after, and what became of its dead channels."""
    after = {layer["name"]: layer for layer in metrics["compact"]["after"]["layers"]}
    # A layer that lost every channel is not in the compact network: nothing of it is left.
    for name, cut in plan["layers"].items():
        if not cut["kept_outputs"]:
            after.setdefault(name, dict.fromkeys(("outputs", "weights", "kept", "macs"), 0))
    kept = {layer["name"]: layer["kept"] for layer in metrics["prune"]["layers"]}
    reasons: dict[str, Counter[str]] = {}
    for channel in plan["removed"]:
        reasons.setdefault(channel["layer"], Counter())[channel["reason"]] += 1
    stayed = Counter(channel["layer"] for channel in plan["kept"])
    paid = metrics["compact"].get("paid") or {"after": {"layers": []}}
    left = {layer["name"]: layer["outputs"] for layer in paid["after"]["layers"]}
    return [
        {
            "name": layer["name"],
            "kind": layer["kind"],
            "channels": layer["outputs"],
            "channels_after": after.get(layer["name"], {}).get("outputs"),
            "channels_paid": left.get(layer["name"]),
            "removed": dict(sorted(reasons.get(layer["name"], Counter()).items())),
            "dead_but_kept": stayed[layer["name"]],
            "weights": layer["weights"],
            "kept_weights": kept.get(layer["name"]),
            "weights_after": after.get(layer["name"], {}).get("weights"),
            "nonzero_weights_after": after.get(layer["name"], {}).get("kept"),
            "macs": layer["macs"],
            "macs_after": after.get(layer["name"], {}).get("macs"),
        }
        for layer in metrics["compact"]["before"]["layers"]
    ]


def _cut(plan: dict[str, Any]) -> dict[str, Any]:
    """Summarize the cut plan: reasons, constants and where they went, dead that stayed."""
    stayed: dict[tuple[str, str], list[int]] = {}
    for channel in plan["kept"]:
        stayed.setdefault((channel["layer"], channel["why"]), []).append(channel["channel"])
    return {
        "removed": len(plan["removed"]),
        "reasons": dict(sorted(Counter(c["reason"] for c in plan["removed"]).items())),
        "folds": [
            {"layer": layer, "into": fold["into"], "constants": fold["constants"]}
            for layer, fold in plan["folds"].items()
        ],
        "kept": [
            {"layer": layer, "why": why, "channels": channels}
            for (layer, why), channels in stayed.items()
        ],
    }


def _environment(artifacts: dict[str, Artifact], measured: list[Any]) -> dict[str, Any]:
    """Return with what, where and when each stage ran."""
    last = artifacts[STAGES[-1]].provenance
    first = next((t for entry in measured for t in entry["latency"]), None)
    return {
        "versions": last.versions,
        "git_commit": last.git_commit,
        "seed": last.seed,
        "conditions": first.get("conditions") if first else None,
        "stages": [
            {
                "stage": stage,
                "key": artifact.provenance.key,
                "seconds": artifact.provenance.seconds,
                "finished_utc": artifact.provenance.finished_utc,
                "git_commit": artifact.provenance.git_commit,
                "versions": artifact.provenance.versions,
                "summary": artifact.metrics["summary"],
            }
            for stage, artifact in artifacts.items()
        ],
    }
