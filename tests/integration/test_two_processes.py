"""Two processes on the CPU train what one does with the same whole batch."""

import os
import signal
from pathlib import Path

import pytest
import torch
from fast_run import stage_hashes, start_pare
from safetensors.torch import load_file

from pipeline.core.errors import Interrupted, PareError
from pipeline.core.recipe import Recipe
from pipeline.core.rundir import read_json
from pipeline.stages.runner import Quiet, Runner

#: Relative, of the losses of all epochs: sums are rounded in another order, no more.
TOLERANCE = 1e-5
#: 1,077 images in batches of 32: the last has 21, of which the processes take 11 and 10.
DENSE = ("method.name=dense", "budget.weights=1", "train.batch_size=32", "train.lr=0.01")


def recipe(*overrides):
    sets = [
        "targets=[]", "model.width=4", "train.epochs=2", "train.accelerator=cpu",
        "train.warmup_epochs=0", *DENSE,
    ]  # fmt: skip
    return Recipe.load("quickstart", [*sets, *overrides])


def trained(out, *overrides, reporter=None):
    Runner(recipe(*overrides), out, reporter or Quiet()).run(until="train")
    return read_json(out / "1-train" / "history.json")


def apart(one, other):
    """Return the largest relative difference of two loss curves."""
    pairs = zip(one, other, strict=True)
    return max(abs(a["task_loss"] - b["task_loss"]) / a["task_loss"] for a, b in pairs)


def children():
    """Return the processes that train, of those this one started."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        found += [int(pid) for pid in path.read_text().split()]
    return [
        pid for pid in found if b"train_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("one") / "run")


@pytest.fixture(scope="module")
def two_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "run"
    trained(out, "train.devices=2")
    return out


def test_the_loss_curve_is_that_of_one_process(one, two_run):
    two = read_json(two_run / "1-train" / "history.json")
    assert [epoch["epoch"] for epoch in two] == [1, 2]
    assert apart(one, two) < TOLERANCE
    assert [e["accuracy"] for e in one] == pytest.approx(
        [e["accuracy"] for e in two], abs=0.01
    )
    assert read_json(two_run / "1-train" / "stage.json")["metrics"]["epochs"] == 2


@pytest.mark.parametrize("change", ["seed=1", "train.batch_size=16", "train.augment=false"])
def test_the_twin_another_training_is_noticed(one, tmp_path, change):
    assert apart(one, trained(tmp_path / "run", change)) > 10 * TOLERANCE


def test_batch_norm_sees_the_whole_batch(tmp_path):
    # One epoch: in a small network with batch norm the last bit of a weight, in one process
    # too, changes what comes later.
    norms = ("model.name=resnet8", "train.epochs=1")
    single = trained(tmp_path / "one", *norms)
    pair = trained(tmp_path / "two", *norms, "train.devices=2", "train.strategy=ddp")
    assert apart(single, pair) < 1e-4
    assert apart(single, trained(tmp_path / "other", *norms, "seed=1")) > 1e-3


def test_the_twin_processes_whose_networks_come_apart_are_refused(tmp_path, monkeypatch):
    """Batch norms of half a batch each, as DDP alone has them, keep averages of their own."""
    (tmp_path / "sitecustomize.py").write_text(
        "from contextlib import nullcontext\n"
        "from pipeline.training import whole_batch_norm\n"
        "whole_batch_norm.whole_batch_norms = lambda model, **others: nullcontext()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    changes = ("model.name=resnet8", "train.epochs=1", "train.devices=2")
    with pytest.raises(
        PareError, match=r"after epoch 1 the networks of the 2 .* differ: that"
    ):
        trained(tmp_path / "run", *changes)


def test_a_method_that_prunes_and_draws_keeps_the_processes_together(tmp_path):
    """Gates are drawn at random, in a network whose last batch is shared unequally."""
    out = tmp_path / "run"
    method = ("method.name=hard_concrete", "budget.weights=0.5")
    trained(out, *method, "train.devices=2")
    metrics = read_json(out / "1-train" / "stage.json")["metrics"]
    assert metrics["kept_weights"] == int(0.5 * metrics["weights"])


class AfterOneEpoch(Quiet):
    """Does something once the first epoch is told."""

    def __init__(self, act):
        self.act, self.seen = act, []

    def progress(self, done, total, epoch):
        self.seen.append(done)
        if done == 1:
            self.act()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_stage_and_the_same_command_goes_on(
    two_run, tmp_path, rank
):
    killed = AfterOneEpoch(lambda: os.kill(sorted(children())[rank], signal.SIGKILL))
    with pytest.raises(PareError, match=rf"training process {rank} of 2 was ended by SIGKILL"):
        trained(tmp_path / "run", "train.devices=2", "train.epochs=6", reporter=killed)
    assert children() == []
    assert (tmp_path / "run" / "1-train.partial" / "checkpoint.pt").is_file()


def test_broken_off_and_continued_it_is_the_unbroken_run_to_the_last_bit(two_run, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(Interrupted, match="interrupted in stage 'train'"):
        trained(out, "train.devices=2", reporter=AfterOneEpoch(interrupt))
    assert children() == []
    seen = AfterOneEpoch(lambda: None)
    again = trained(out, "train.devices=2", reporter=seen)
    assert seen.seen == [1, 2]  # the first one is told again, and is not trained again
    whole = read_json(two_run / "1-train" / "history.json")
    assert again[0]["seconds"] != whole[0]["seconds"]
    for name in ("model.safetensors", "masks.safetensors"):
        assert stage_hashes(out)[f"1-train/{name}"] == stage_hashes(two_run)[f"1-train/{name}"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ("train.devices=3",),
            r"batch_size = 32 does not divide .*devices = 3 .*= 30 or 33\.",
        ),
        (("train.devices=64",), r"batch_size = 32 does not divide .* Set .*batch_size = 64\."),
        (("train.devices=2", "train.strategy=fsdp"), r"strategy = 'fsdp': .* auto, ddp,"),
        (("train.devices=2", "train.accelerator=cuda"), r"cannot train with .*'cuda'"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(tmp_path, changes, words):
    if "train.accelerator=cuda" in changes and torch.cuda.device_count() > 1:
        pytest.skip("this machine can")
    with pytest.raises(PareError, match=words):
        trained(tmp_path / "run", *changes)


def test_the_command_line_trains_in_two_processes(tmp_path):
    sets = [part for text in (*DENSE, "train.devices=2", "train.epochs=1", "targets=[]",
                              "model.width=4", "train.accelerator=cpu")
            for part in ("--set", text)]  # fmt: skip
    done = start_pare(
        "train", "quickstart", "--out", str(tmp_path / "run"), *sets, cwd=tmp_path
    )
    stdout, stderr = done.communicate(timeout=200)
    assert done.returncode == 0, stderr
    assert "1 train" in stdout
    weights = load_file(tmp_path / "run" / "1-train" / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
