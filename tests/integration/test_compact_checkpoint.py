"""`pare compact CHECKPOINT`: a network that another tool pruned, smaller and proved equal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from fast_run import ROOT, pare
from safetensors.torch import load_file, save_file
from torch.nn.utils import prune

from pipeline import compact_checkpoint
from pipeline.core.errors import PareError
from pipeline.graph.surgery import compact
from pipeline.stages import standalone

CODE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width=8, classes=3):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        return self.head(self.second(x).relu().mean((2, 3)))
"""

#: What the command prints on how to load the network again is run as it stands.
LOAD = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from pipeline.graph.plan import CutPlan
from pipeline.graph.surgery import rebuild
from pruned_nets import Net

network = Net(width=12, classes=5)
{lines}
images = load_file("images.safetensors")["images"]
with torch.no_grad():
    save_file({{"outputs": small.eval()(images)}}, "found.safetensors")
print(sum(p.numel() for p in small.parameters()))
"""

ARGUMENTS = ("--model", "pruned_nets:Net", "--set", "width=12", "--input", "3x10x10")
FILES = ["channels.json", "equivalence.json", "model.onnx", "model.safetensors", "plan.json"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the network's code and its checkpoint, pruned by torch.nn.utils.prune."""
    (tmp_path / "pruned_nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pruned_nets", raising=False)
    from pruned_nets import Net

    torch.manual_seed(3)
    net = Net(width=12, classes=5).eval()
    net.norm.running_mean.normal_()
    net.norm.bias.data.normal_()
    prune.ln_structured(net.first, "weight", 0.5, 2, 0)
    prune.ln_structured(net.second, "weight", 0.5, 2, 0)
    prune.l1_unstructured(net.second, "bias", 0.25)
    images = torch.randn(4, 3, 10, 10)
    save_file({"images": images}, "images.safetensors")
    with torch.no_grad():
        save_file({"outputs": net(images)}, "expected.safetensors")
    torch.save({"state_dict": net.state_dict(), "epoch": 9}, "pruned.pt")
    for layer, name in ((net.first, "weight"), (net.second, "weight"), (net.second, "bias")):
        prune.remove(layer, name)
    torch.save(net.state_dict(), "zeros.pt")
    return tmp_path


def outputs_of(folder, stdout):
    """Load the network as the command says, in a process of its own."""
    at = stdout.index("    small = ")
    lines = "\n".join(line.strip() for line in stdout[at:].splitlines())
    done = subprocess.run(
        [sys.executable, "-c", LOAD.format(lines=lines)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / "found.safetensors")["outputs"], int(done.stdout)


def test_a_pruned_network_is_smaller_and_the_same_in_another_process(place):
    result = pare("compact", "pruned.pt", *ARGUMENTS, "--out", "small")
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in Path("small").iterdir()) == FILES
    expected = load_file("expected.safetensors")["outputs"]
    found, parameters = outputs_of(place, result.stdout)
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert f"{parameters:,}" in result.stdout
    assert parameters < 1000 < sum(t.numel() for t in torch.load("zeros.pt").values())
    ran = onnxruntime.InferenceSession("small/model.onnx").run(
        None, {"input": load_file("images.safetensors")["images"].numpy()}
    )[0]
    assert abs(torch.from_numpy(ran) - expected).max() < 1e-4 * expected.abs().max()


def test_the_command_says_what_left_what_stayed_and_why(place):
    result = pare("compact", "pruned.pt", *ARGUMENTS, "--out", "small")
    records = json.loads(Path("small/channels.json").read_text())
    layers = {layer["layer"]: layer for layer in records["layers"]}
    removed = sum(len(layer["removed"]) for layer in layers.values())
    assert f"{removed} channels removed" in result.stdout
    first = layers["first"]
    assert f"{first['before']} -> {first['after']}" in result.stdout
    assert first["reasons"] == {"no input": len(first["removed"])}
    took = {fold["into"] for one in first["removed"] for fold in one["folded"]}
    [carrier] = first["kept"]
    assert took == {f"carrier:{carrier['channel']}"}
    assert "first: 1 channel, carries the constants into a zero-padded" in result.stdout
    proof = json.loads(Path("small/equivalence.json").read_text())["comparisons"]
    assert {(one["dtype"], one["what"]) for one in proof} == {
        (dtype, what)
        for dtype in ("float32", "float64")
        for what in ("noise", "noise at another size")
    }
    assert all(one["difference"] <= one["limit"] for one in proof)


def test_zeros_and_masks_lead_to_the_same_network(place):
    state = torch.load("pruned.pt", weights_only=True)["state_dict"]
    names = [key.removesuffix("_mask") for key in state if key.endswith("_mask")]
    masks = {name: state[f"{name}_mask"].to(torch.uint8) for name in names}
    dense = {key.removesuffix("_orig"): state[key] for key in state if "_mask" not in key}
    save_file(masks, "masks.safetensors")
    save_file(dense, "dense.safetensors")
    by_masks = ("compact", "dense.safetensors", "--masks", "masks.safetensors")
    made = []
    for call in (("compact", "pruned.pt"), ("compact", "zeros.pt", "--zeros"), by_masks):
        result = pare(*call, *ARGUMENTS, "--out", "small", "--fresh", "--quiet")
        assert (result.exit_code, result.output) == (0, "")
        made.append(load_file("small/model.safetensors"))
    first, *others = made
    for other in others:
        assert other.keys() == first.keys()
        assert all(torch.equal(other[key], first[key]) for key in first)


def test_a_folder_with_files_is_only_written_over_if_asked_to(place):
    Path("small").mkdir()
    Path("small/notes.txt").write_text("mine")
    Path("small/plan.json").write_text("old")
    result = pare("compact", "pruned.pt", *ARGUMENTS, "--out", "small")
    assert result.exit_code == 2
    assert "small is not empty" in result.stderr
    assert Path("small/plan.json").read_text() == "old"
    result = pare("compact", "pruned.pt", *ARGUMENTS, "--out", "small", "--fresh")
    assert result.exit_code == 0, result.stderr
    assert Path("small/notes.txt").read_text() == "mine"
    assert sorted(path.name for path in Path("small").iterdir()) == sorted(
        [*FILES, "notes.txt"]
    )


def wrong_weight(model, shape, *, multiple):
    """Compact, and move one output by ten times the part of it that the proof lets pass."""
    small, plan = compact(model, shape)
    with torch.no_grad():
        small.head.bias[0] += 1e-4 * small(torch.zeros(1, *shape)).abs().max()
    return small, plan


def wrong_plan(model, shape, *, multiple):
    """Compact, with another constant in the plan than the channel has."""
    small, plan = compact(model, shape)
    name, fold = next(iter(plan.folds.items()))
    index = next(i for i in fold.constants if fold.into != f"carrier:{i}")
    constants = fold.constants | {index: fold.constants[index] * 1.001}
    folds = plan.folds | {name: fold.model_copy(update={"constants": constants})}
    return small, plan.model_copy(update={"folds": folds})


@pytest.mark.parametrize("spoilt", [wrong_weight, wrong_plan])
def test_a_compaction_that_is_not_equal_is_refused_and_leaves_nothing(
    place, monkeypatch, spoilt
):
    monkeypatch.setattr(standalone, "compact", spoilt)
    result = pare("compact", "pruned.pt", *ARGUMENTS, "--out", "small")
    assert result.exit_code == 2
    assert "the compacted network differs from the masked one by" in result.stderr
    assert not Path("small").exists()


def test_a_network_that_no_file_can_hold_is_compacted_all_the_same(place, monkeypatch):
    def unable(*args):
        raise RuntimeError("no such operator\nand a long story")

    monkeypatch.setattr(standalone, "export_float32", unable)
    result = pare("compact", "pruned.pt", *ARGUMENTS, "--out", "small")
    assert result.exit_code == 0, result.stderr
    assert "no model.onnx: RuntimeError: no such operator\n" in result.stdout
    assert sorted(path.name for path in Path("small").iterdir()) == [
        name for name in FILES if name != "model.onnx"
    ]


def test_a_file_that_computes_something_else_is_not_left_behind(place, monkeypatch):
    true = standalone.fold_batch_norm

    def spoilt(graph):
        folded = true(graph)
        with torch.no_grad():
            folded.head.bias += 0.01
        return folded

    monkeypatch.setattr(standalone, "fold_batch_norm", spoilt)
    result = compact_checkpoint(
        "pruned.pt", "pruned_nets:Net", (3, 10, 10), "small", options={"width": 12}
    )
    assert result.onnx.refused.startswith("it differs from PyTorch by ")
    assert "model.onnx" not in result.files


def test_the_same_from_python(place):
    with pytest.raises(PareError, match="nothing says what is pruned"):
        compact_checkpoint("zeros.pt", "pruned_nets:Net", (3, 10, 10), "small")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("pruned.pt",), "--model NAME and --input CxHxW and --out FOLDER must be given"),
        (("pruned.pt", *ARGUMENTS), "--out FOLDER must be given"),
        (("quickstart", "--zeros"), "--model NAME and --input CxHxW and --out FOLDER"),
        (
            ("pruned.pt", *ARGUMENTS, "--out", "small", "--target", "raspberry-pi-4b"),
            "--target has no meaning",
        ),
        (
            ("pruned.pt", *ARGUMENTS, "--out", "small", "--set", "x"),
            "not of the form key=value",
        ),
        (("pruned.pt", *ARGUMENTS, "--out", "zeros.pt"), "zeros.pt is a file"),
        (("none.pt", *ARGUMENTS, "--out", "small"), "no file at none.pt"),
        (
            ("pruned.pt", *ARGUMENTS, "--out", "small", "--input", "3x10"),
            "write CHANNELSxHEIGHTxWIDTH",
        ),
        (
            ("pruned.pt", "--model", "conv2", "--input", "3x10x10", "--out", "small"),
            "is of another architecture",
        ),
    ],
)
def test_a_wrong_call_is_refused_in_a_sentence(place, call, said):
    result = pare("compact", *call)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not Path("small").exists()
