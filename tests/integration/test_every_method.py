"""Every method takes every kind of network from digits to an ONNX file that is faithful."""

from __future__ import annotations

from pathlib import Path

import pytest
from fast_run import run_fast

from pipeline.core.plugins import METHODS
from pipeline.core.rundir import read_json

ONNX_ONLY = """
schema = "edge-target/1"
id = "onnx-only"
name = "Whatever runs ONNX files"
class = "sbc"
[platform]
os = "linux"
[constraints]
basis = "assumed"
source = "this test"
formats = ["onnx"]
dtypes = ["fp32"]
"""
NETWORKS = {
    "conv2": ("model.width=4", "model.hidden=8"),
    "resnet8": ("model={ name = 'resnet8', width = 4 }",),
}
#: What a method is asked for where that is not a quarter of the weights in one phase.
OPTIONS = {
    "dense": ("budget.weights=1",),
    "supermask": ("budget.weights=1",),
    "aslp": ("budget.weights=1",),
    "magnitude": ("method.finetune_epochs=1",),
    "lottery": ("method.rounds=1",),
    "continuous": ("method.rounds=1",),
    "filter_norm": ("budget.weights=0.5",),
}
#: Methods that are several, by the name of the case; the recipe's own options are dropped.
MODES = {
    "reparam": ("reparam", ("method={name='reparam'}",)),
    "reparam, paper": ("reparam", ("method={name='reparam', mode='paper'}",)),
    "reparam, channels": (
        "reparam",
        (
            "method={name='reparam', granularity='channel'}",
            "budget.weights=1",
            "budget.macs=0.5",
        ),
    ),
}
KNOWN = {name: (name, OPTIONS.get(name, ())) for name in sorted(METHODS.plugins())} | MODES
CASES = [(case, network) for network in NETWORKS for case in KNOWN]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("targets") / "onnx-only.toml"
    path.write_text(ONNX_ONLY)
    return path


@pytest.mark.parametrize(("case", "network"), CASES)
def test_it_is_pruned_compacted_and_exported(
    case: str, network: str, target: Path, tmp_path: Path
) -> None:
    method, options = KNOWN[case]
    result = run_fast(
        tmp_path / "run",
        f"method.name={method}",
        "budget.weights=0.25",
        *options,
        *NETWORKS[network],
        f"targets=['{target}']",
        until="export",
    )
    prune, compact = result.artifacts["prune"].metrics, result.artifacts["compact"].metrics
    assert result.artifacts["train"].metrics["pruned_test_accuracy"] == prune["accuracy_after"]
    budget = result.artifacts["train"].metrics["budget"]
    assert 0 < prune["effective_weights"] <= prune["kept_weights"]
    assert 0 < budget["spent"] <= budget["part"] * budget["whole"] * (1 + 1e-9)
    assert compact["after"]["weights"] <= compact["before"]["weights"]
    comparisons = read_json(tmp_path / "run" / "3-compact" / "equivalence.json")["comparisons"]
    assert comparisons
    assert all(one["difference"] <= one["limit"] for one in comparisons)
    (file,) = result.artifacts["export"].metrics["files"]
    assert (file["file"], file["state"]) == ("model.float32.onnx", "made")
