"""Bad input gives a clear error, and an existing run is left intact and goes on.

Each refusal happens in the folder of a finished run: its stages must be the same files
afterwards, and the command that made them must find nothing left to do.
"""

import json
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from fast_run import arguments, pare, run_fast, stage_hashes, start_pare
from PIL import Image
from safetensors.torch import save_file

TIMEOUT = 120


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "run"
    assert run_fast(out).executed == ["train", "prune", "compact"]
    return out


@pytest.fixture
def out(made, tmp_path):
    """A finished run that has to be as it was when the test is over."""
    copy = shutil.copytree(made, tmp_path / "run")
    before, recipe = stage_hashes(copy), (copy / "recipe.toml").read_text()
    yield copy
    assert stage_hashes(copy) == before
    assert (copy / "recipe.toml").read_text() == recipe
    assert run_fast(copy).executed == []


def refused(out, *overrides, command="compact"):
    """Run the command in this process; return what it says on leaving with code 2."""
    result = pare(*arguments(command, out, *overrides), "--quiet")
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    return result.stderr


def finished(process):
    """Wait for a process of our own; return its code and what it said."""
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    return process.returncode, stdout, stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.name=reparm", "no method named 'reparm'. Did you mean 'reparam'?"),
        ("model.name=resnet21", "no model named 'resnet21'. Did you mean 'resnet20'?"),
        ("model.name=torchvison:resnet18", "Did you mean 'torchvision'?"),
        ("data.name=digit", "no data set named 'digit'. Did you mean 'digits'?"),
        ("targets=['android-midrang']", "Did you mean 'android-midrange'?"),
        ("train.epoch=3", "unknown key 'train.epoch'. Did you mean 'epochs'?"),
        ("method.mixin=3", "method 'reparam': unknown key 'mixin'. Did you mean 'mixing'?"),
        ("model.widht=3", "model 'conv2' has no option 'widht'. Did you mean 'width'?"),
        ("budget.weights=0", "budget.weights = 0: input should be greater than 0."),
        (
            "budget.weights=1.5",
            "budget.weights = 1.5: input should be less than or equal to 1",
        ),
        ("budget.weights=1e-9", "keeps none. Ask for at least"),
        ("train.devices=3", "batch_size = 64 does not divide among train.devices = 3"),
        (
            "track.tensorbord=true",
            "unknown key 'track.tensorbord'. Did you mean 'tensorboard'",
        ),
        ("train.accelerator=abacus", "cannot train with train.accelerator = 'abacus'"),
    ],
)
def test_a_recipe_that_cannot_be_followed(out, override, message):
    assert message in refused(out, override)


def test_the_refusal_of_a_process_of_its_own(out, tmp_path):
    line = arguments("run", out, "method.name=reparm")
    code, stdout, stderr = finished(start_pare(*line, cwd=tmp_path))
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert "no method named 'reparm'. Did you mean 'reparam'?" in stderr
    assert "Traceback" not in stderr


def test_an_unknown_recipe(out):
    result = pare("run", "quikstart", "--out", str(out))
    assert result.exit_code == 2
    assert "no recipe named 'quikstart'. Did you mean 'quickstart'?" in result.stderr


def test_a_recipe_file_with_a_mistake_is_named_with_the_key(out, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[model]\nname = "conv2"\n[data]\nname = "digits"\n[budgt]\nweights = 1\n')
    result = pare("run", str(path), "--out", str(out))
    assert result.exit_code == 2
    assert f"{path}: unknown key 'budgt'. Did you mean 'budget'?" in result.stderr


OWN = """
import torch
from torch import nn

class Moody(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.fc = nn.Linear(features, classes)

    def forward(self, x):
        if x.sum() > 0:  # here
            x = -x
        return self.fc(x.flatten(1))

def moody(classes, channels, size):
    return Moody(channels * size * size, classes)

def greedy(classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(1, classes))

def hollow(classes, channels, size):
    return nn.Flatten()
"""


def test_a_network_that_cannot_be_traced_is_named_with_the_line(out, tmp_path):
    """In a process of its own: the module is found in the folder the command is called in."""
    path = tmp_path / "own_nets_module.py"
    path.write_text(OWN)
    line = [
        "train", "quickstart", "--out", str(out), "--set", "targets=[]",
        "--set", "model={name='own_nets_module:moody'}",
    ]  # fmt: skip
    code, stdout, stderr = finished(start_pare(*line, cwd=tmp_path))
    at = OWN.splitlines().index("        if x.sum() > 0:  # here") + 1
    assert (code, stdout) == (2, "")
    assert f"Moody cannot be traced at {path}:{at}: `if x.sum() > 0:" in stderr
    assert "Write the forward pass without branches" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("greedy", "does not accept images of shape (1, 8, 8)"),
        ("hollow", "has no weights of convolutions or linear layers"),
        ("absent", "module own_nets_module has no 'absent'"),
    ],
)
def test_a_network_that_does_not_fit(out, tmp_path, monkeypatch, name, message):
    (tmp_path / "own_nets_module.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert message in refused(out, f"model={{name='own_nets_module:{name}'}}")


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for index in range(8):
                pixels = np.full((8, 8, 3), 100 * label + index, np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


def test_a_data_folder_that_is_missing(out, tmp_path):
    message = refused(out, f"data.name=image-folder:{tmp_path}/nowhere")
    assert (
        f"no folder {tmp_path}/nowhere/train. An image folder holds train/<class>/" in message
    )


def test_a_data_folder_that_is_empty(out, tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    message = refused(out, f"data.name=image-folder:{tmp_path}/images")
    assert "images/train is empty: it should hold one folder per class." in message


def test_a_data_folder_of_one_class(out, images):
    for split in ("train", "test"):
        shutil.rmtree(images / split / "dog")
    message = refused(out, f"data.name=image-folder:{images}")
    assert "has one class only ('cat'). At least two are needed." in message


def test_a_corrupt_image_is_refused_by_name_or_skipped_with_a_count(out, images, tmp_path):
    bad = images / "train" / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:40])
    name = f"data.name=image-folder:{images}"
    assert f"1 corrupt image: {bad}. Replace them, or set" in refused(out, name)
    other = tmp_path / "other"
    result = pare(*arguments("train", other, name, "data.on_corrupt=skip"), "--quiet")
    assert result.exit_code == 0, result.stderr
    record = json.loads((other / "1-train" / "stage.json").read_text())
    assert record["metrics"]["data"]["note"] == "1 corrupt images skipped"


def test_a_checkpoint_of_another_architecture(out, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"fc.weight": torch.zeros(2, 2)}, path)
    message = refused(out, f"model.checkpoint={path}")
    assert f"checkpoint {path} is of another architecture: 0.bias is missing" in message
    assert "Choose the model it was trained with" in message


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_a_checkpoint_that_is_missing_or_cannot_be_read(out, tmp_path, content):
    path = tmp_path / "weights.pt"
    if content:
        path.write_bytes(content)
    expected = f"checkpoint {path} cannot be read" if content else f"no checkpoint at {path}."
    assert expected in refused(out, f"model.checkpoint={path}")


def test_the_weights_of_a_finished_run_are_a_checkpoint(out, tmp_path):
    weights = out / "1-train" / "model.safetensors"
    result = pare(*arguments("train", tmp_path / "next", f"model.checkpoint={weights}"))
    assert result.exit_code == 0, result.output


def test_a_folder_that_another_process_works_in(out):
    from pipeline.core.rundir import RunDir

    with RunDir(out).lock():
        assert "another process is running in" in refused(out)


def test_a_folder_that_cannot_be_made(out, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to" in refused(tmp_path / "file")


def test_a_full_disk(out, tmp_path):
    """Files may not grow past a few kilobytes: the child meets a real failure to write."""

    def no_more_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    line = arguments("compact", out, "train.epochs=1")
    code, _, stderr = finished(start_pare(*line, cwd=tmp_path, preexec_fn=no_more_room))
    assert code == 2, stderr
    assert stderr.startswith("error: the disk is full: nothing more could be written to")
    assert (
        "Finished stages are kept. Free some space and run the same command again." in stderr
    )
    assert "Traceback" not in stderr


@pytest.fixture
def one_thread():
    """Bits are the same for the same number of threads; the children have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_killed_and_interrupted_in_training_it_goes_on_where_it_was(out, tmp_path):
    """SIGKILL, then Ctrl-C in the run that goes on, then the same command to the end."""
    line = [*arguments("compact", out, "train.epochs=120", "seed=5"), "--quiet"]
    checkpoint = out / "1-train.partial" / "checkpoint.pt"
    before, recipe = stage_hashes(out), (out / "recipe.toml").read_text()

    killed = start_pare(*line, cwd=tmp_path)
    wait_for(checkpoint, after=0, process=killed)
    killed.kill()
    code, _, _ = finished(killed)
    assert code == -signal.SIGKILL
    first = epochs_in(checkpoint)
    assert 1 <= len(first) < 120

    interrupted = start_pare(*line, cwd=tmp_path)
    wait_for(checkpoint, after=checkpoint.stat().st_mtime_ns, process=interrupted)
    interrupted.send_signal(signal.SIGINT)
    code, _, stderr = finished(interrupted)
    assert code == 130
    assert stderr.startswith(
        "error: interrupted in stage 'train'. Finished stages are kept in"
    )
    assert "run the same command again to go on from there." in stderr
    second = epochs_in(checkpoint)
    assert len(first) < len(second) < 120
    assert second[: len(first)] == first  # gone on from the kill, not begun again
    assert stage_hashes(out) == before  # the older run is still there, whole

    other = shutil.copytree(out, tmp_path / "other")
    result = pare(*[str(other) if part == str(out) else part for part in line])
    assert result.exit_code == 0, result.output
    history = json.loads((other / "1-train" / "history.json").read_text())
    assert len(history) == 120
    assert [entry["seconds"] for entry in history[: len(second)]] == second
    whole = run_fast(tmp_path / "whole", "train.epochs=120", "seed=5")
    for name in ("1-train/model.safetensors", "3-compact/model.safetensors"):
        assert stage_hashes(other)[name] == stage_hashes(whole.path)[name]
    assert (out / "recipe.toml").read_text() == recipe


def wait_for(path, *, after, process):
    """Wait until a checkpoint is newer than a time."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            if path.stat().st_mtime_ns > after:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.005)
    raise AssertionError("the training did not start")


def epochs_in(path):
    """Return how long each epoch took that a checkpoint holds: nobody draws that twice."""
    content = torch.load(path, weights_only=True)
    return [epoch["seconds"] for epoch in content["history"]]
