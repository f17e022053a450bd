"""What a search compares of a finished run, by the names it has in tables and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.core.artifact import Artifact
from pipeline.core.rundir import read_json
from pipeline.stages.runner import Run

Metrics = Mapping[str, Any]


def figures(run: Run) -> dict[str, Any]:
    """Return the figures of the stages that a run has; what is not known is missing.

    Accuracies are fractions; ``validation`` is what a choice may look at, ``accuracy`` (of
    the test split) what is told of the winner.
    """
    found: dict[str, Any] = {}
    for name, artifact in run.artifacts.items():
        found |= _OF_STAGE.get(name, _nothing)(artifact, run)
    return found


def _of_train(artifact: Artifact, run: Run) -> dict[str, Any]:
    metrics = artifact.metrics
    history = read_json(run.path / "1-train" / "history.json")
    best = next(e for e in history if e["epoch"] == metrics["best_epoch"])
    return {
        "epochs": metrics["epochs"],
        "validation": best["pruned_accuracy"],
        "reference_validation": metrics["reference_validation"],
        "reference_accuracy": metrics["reference_accuracy"],
        "accuracy": metrics["pruned_test_accuracy"],
        "test_images": metrics["test_images"],
        "weights": metrics["weights"],
        "kept_weights": metrics["kept_weights"],
        "train_seconds": sum(epoch["seconds"] for epoch in history),
    }


def _of_prune(artifact: Artifact, run: Run) -> dict[str, Any]:
    metrics = artifact.metrics
    history = read_json(run.path / "1-train" / "history.json")
    events = [*(epoch["instability"] for epoch in history), metrics["instability"]]
    return {
        "accuracy": metrics["accuracy_after"],
        "accuracy_before": metrics["accuracy_before"],
        "instability": max((event for event in events if event is not None), default=0.0),
        "effective_weights": metrics["effective_weights"],
        "dead_channels": metrics["dead_channels"],
    }


def _of_compact(artifact: Artifact, run: Run) -> dict[str, Any]:
    del run
    metrics = artifact.metrics
    paid = metrics.get("paid")
    after = (paid if paid and paid["removed"] else metrics)["after"]
    return {
        "accuracy": metrics["test_accuracy"],
        "parameters": after["parameters"],
        "macs": after["macs"],
    }


def _of_export(artifact: Artifact, run: Run) -> dict[str, Any]:
    del run
    made = [file for file in artifact.metrics["files"] if file["state"] == "made"]
    return {
        "files": {
            file["file"]: {
                "bytes": file["bytes"],
                "validation": file["validation_top1"],
                "accuracy": file["parity"]["top1"]["value"],
            }
            for file in made
        }
    }


def _of_profile(artifact: Artifact, run: Run) -> dict[str, Any]:
    del run
    return {
        "targets": {target["id"]: _target(target) for target in artifact.metrics["targets"]}
    }


def _target(target: Metrics) -> dict[str, Any]:
    """Return what a target got: its file and that file's latency, with its basis."""
    row = next((row for row in target["files"] if row["file"] == target["chosen"]), None)
    found: dict[str, Any] = {"chosen": target["chosen"], "why": target["why"]}
    if row is None:
        return found | {"broken": _broken(target)}
    latency = row["measured"] or row["predicted"]
    if latency:
        found |= {"latency_ms": latency["value"], "latency_basis": latency["basis"]}
    return found | {"peak_ram_mb": row["peak_ram"]["value"]}


def _broken(target: Metrics) -> list[str]:
    """Return the limits that the nearest file breaks, with their figures."""
    nearest = [row for row in target["files"] if row["file"] == target["nearest"]]
    return [
        f"{check['name']} {check['figure']}, limit {check['limit']}"
        for row in nearest
        for check in row["checks"]
        if check["passed"] is False
    ]


def _nothing(artifact: Artifact, run: Run) -> dict[str, Any]:
    del artifact, run
    return {}


_OF_STAGE = {
    "train": _of_train,
    "prune": _of_prune,
    "compact": _of_compact,
    "export": _of_export,
    "profile": _of_profile,
}
