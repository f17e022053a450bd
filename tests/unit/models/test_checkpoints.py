import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.core.errors import PareError
from pipeline.models import load_checkpoint


def net(width=3, extra=False):
    layers = [nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2)]
    return nn.Sequential(*layers, *([nn.Linear(2, 2)] if extra else []))


def write(model, path, how):
    state = model.state_dict()
    if how == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if how == "nested" else state, path)
    return path


@pytest.mark.parametrize("how", ["safetensors", "plain", "nested"])
def test_weights_come_back_as_they_were(tmp_path, how):
    trained, fresh = net(), net()
    suffix = ".safetensors" if how == "safetensors" else ".pt"
    load_checkpoint(fresh, write(trained, tmp_path / f"w{suffix}", how))
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (net(width=4), r"0\.bias is \[4\], the network has \[3\]; .*\(and \d+ more\)"),
        (net(extra=True), r"4\.bias is not in the network; 4\.weight is not in the network\."),
        (nn.Sequential(nn.Conv2d(1, 3, 3)), r"1\.bias is missing; .*\(and \d+ more\)"),
    ],
)
def test_another_architecture_is_refused_by_its_tensors_and_nothing_is_loaded(
    tmp_path, other, message
):
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(PareError, match=f"of another architecture: {message}"):
        load_checkpoint(model, write(other, tmp_path / "w.pt", "plain"))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Harmful:
    def __reduce__(self):
        return os.mkdir, (os.environ["PARE_TEST_HARM"],)


@pytest.mark.parametrize("content", ["module", "code"])
def test_a_pickled_object_is_refused_and_never_run(tmp_path, monkeypatch, content):
    monkeypatch.setenv("PARE_TEST_HARM", str(tmp_path / "harm"))
    torch.save(net() if content == "module" else {"a": Harmful()}, tmp_path / "w.pt")
    with pytest.raises(
        PareError, match=r"w\.pt cannot be read: .*pickled modules are refused"
    ):
        load_checkpoint(net(), tmp_path / "w.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_what_is_no_checkpoint_is_refused(tmp_path, name):
    with pytest.raises(PareError, match=r"no checkpoint at .*Check model\.checkpoint"):
        load_checkpoint(net(), tmp_path / name)
    (tmp_path / name).write_bytes(b"not a checkpoint")
    with pytest.raises(PareError, match=f"{name} cannot be read"):
        load_checkpoint(net(), tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)])
def test_a_file_of_other_things_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(PareError, match="is not a state dict of tensors"):
        load_checkpoint(net(), tmp_path / "w.pt")
