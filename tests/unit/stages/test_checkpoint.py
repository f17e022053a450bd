"""Checkpoints of any tool: their keys are understood, and what is wrong names the key."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from pipeline.core.errors import PareError
from pipeline.stages.checkpoint import pruned_state, read_tensors
from pipeline.stages.network import load_state, network_of, with_weights

SHAPE = (3, 8, 8)


class Net(nn.Module):
    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """The prefix of models in a module of the user's own."""
    module = types.ModuleType("my_own_nets")
    module.Net = Net
    module.fixed = lambda: Net()
    module.nothing = lambda: 3
    monkeypatch.setitem(sys.modules, "my_own_nets", module)
    return "my_own_nets:"


def saved(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def refused(*args: object, **more: object) -> str:
    with pytest.raises(PareError) as error:
        pruned_state(*args, **more)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_weights_are_read_whatever_holds_them(
    tmp_path: Path, suffix: str, prefix: str
) -> None:
    state = Net().state_dict()
    path = saved(tmp_path / f"net{suffix}", {prefix + key: state[key] for key in state})
    found = pruned_state(path, zeros=True)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_state_dict_beside_other_things_is_found(tmp_path: Path, key: str) -> None:
    path = saved(tmp_path / "net.pt", {key: Net().state_dict(), "epoch": 3})
    assert pruned_state(path, zeros=True).keys() == Net().state_dict().keys()


def test_a_name_that_starts_with_module_of_itself_is_left_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", {"module.a": torch.ones(1), "b": torch.ones(1)})
    assert read_tensors(path).keys() == {"module.a", "b"}


def test_masks_of_torch_prune_are_applied_to_weights_and_biases(tmp_path: Path) -> None:
    net = Net()
    prune.ln_structured(net.conv, "weight", 0.5, 2, 0)
    prune.random_unstructured(net.conv, "bias", 0.5)
    path = saved(tmp_path / "net.pt", net.state_dict())
    found = pruned_state(path)
    assert found.keys() == Net().state_dict().keys()
    assert torch.equal(found["conv.weight"], net.conv.weight)
    assert torch.equal(found["conv.bias"], net.conv.bias)
    assert (found["conv.bias"] == 0).sum() == 2


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.float32])
def test_masks_beside_the_weights_are_multiplied_in(tmp_path: Path, kind: torch.dtype) -> None:
    state = Net().state_dict()
    mask = torch.ones_like(state["conv.weight"])
    mask[1] = 0
    path = saved(tmp_path / "net.pt", state)
    masks = saved(tmp_path / "masks.safetensors", {"conv.weight": mask.to(kind)})
    found = pruned_state(path, masks=masks)
    assert torch.equal(found["conv.weight"], state["conv.weight"] * mask)
    assert torch.equal(found["head.weight"], state["head.weight"])


def test_what_is_no_pruning_keeps_its_names(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", {"conv.weight_orig": torch.ones(2)})
    assert pruned_state(path, zeros=True).keys() == {"conv.weight_orig"}


@pytest.mark.parametrize(
    ("name", "mask", "said"),
    [
        (
            "conv.weight",
            torch.ones(4, 3, 3, 1),
            "'conv.weight' is [4, 3, 3, 1], its parameter",
        ),
        (
            "conv.weight",
            torch.full((4, 3, 3, 3), 0.5),
            "'conv.weight' holds other values than",
        ),
        (
            "conv.weight",
            torch.full((4, 3, 3, 3), torch.nan),
            "'conv.weight' holds other values",
        ),
        ("conv.wieght", torch.ones(4, 3, 3, 3), "'conv.wieght' is no parameter of"),
    ],
)
def test_a_wrong_mask_is_refused_by_its_key(
    tmp_path: Path, name: str, mask: Tensor, said: str
) -> None:
    path = saved(tmp_path / "net.pt", Net().state_dict())
    masks = saved(tmp_path / "masks.pt", {name: mask})
    message = refused(path, masks=masks)
    assert message.startswith(f"{masks}: ")
    assert said in message
    if name == "conv.wieght":
        assert "Did you mean 'conv.weight'?" in message


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.full((4, 3, 3, 3), 2.0), "'conv.weight_mask' holds other values than 0 and 1"),
        (torch.ones(4, 3), "'conv.weight_mask' is [4, 3], its parameter [4, 3, 3, 3]"),
    ],
)
def test_a_wrong_mask_of_torch_prune_is_refused_by_its_key(
    tmp_path: Path, mask: Tensor, said: str
) -> None:
    state = {"conv.weight_orig": torch.ones(4, 3, 3, 3), "conv.weight_mask": mask}
    assert said in refused(saved(tmp_path / "net.pt", state))


def test_what_is_pruned_has_to_be_said_once(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", Net().state_dict())
    assert "Give --zeros" in refused(path)
    assert "Give --masks alone" in refused(path, zeros=True, masks=path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("net.pt", Net(), "holds more than tensors"),
        ("net.pt", {"state_dict": {"a": torch.ones(1), "b": 3}}, "'b' is no tensor but int"),
        ("net.pt", [torch.ones(1)], "holds no tensors by name"),
        ("net.pt", {}, "holds no tensors by name"),
        ("net.bin", {}, "is no .safetensors, .pt or .pth file"),
        (
            "net.pt",
            {"a": torch.tensor([1.0, torch.inf])},
            "'a' holds values that are not finite",
        ),
    ],
)
def test_what_is_no_state_dict_is_refused(
    tmp_path: Path, name: str, content: object, said: str
) -> None:
    path = saved(tmp_path / name, content)
    message = refused(path, zeros=True)
    assert str(path) in message
    assert said in message


def test_a_pickled_network_is_refused_with_the_way_out(tmp_path: Path) -> None:
    message = refused(saved(tmp_path / "net.pt", Net()), zeros=True)
    assert "torch.save(model.state_dict(), 'weights.pt')" in message


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_a_broken_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    assert f"no file at {tmp_path / name}" in refused(tmp_path / name, zeros=True)
    (tmp_path / name).write_bytes(b"")
    assert f"{tmp_path / name} cannot be read" in refused(tmp_path / name, zeros=True)


def test_an_own_class_is_given_what_it_takes(own: str) -> None:
    model = network_of(f"{own}Net", {"width": 6, "classes": 2}, SHAPE)
    assert model(torch.zeros(1, *SHAPE)).shape == (1, 2)
    assert model.conv.out_channels == 6
    assert isinstance(network_of(f"{own}fixed", {}, SHAPE), Net)


@pytest.mark.parametrize("name", ["Net", "conv2"])
def test_the_number_of_classes_is_read_off_the_weights(own: str, name: str) -> None:
    key = f"{own}Net" if name == "Net" else name
    size = {} if name == "Net" else {"width": 4, "hidden": 8}
    state = network_of(key, {"classes": 7, **size}, SHAPE).state_dict()
    model = with_weights(key, size, SHAPE, state, Path("net.pt"))
    assert model(torch.zeros(1, *SHAPE)).shape == (1, 7)
    assert not model.training


def test_a_checkpoint_of_another_network_is_refused_by_its_tensors(own: str) -> None:
    state = Net(width=6).state_dict()
    with pytest.raises(PareError) as error:
        with_weights(f"{own}Net", {}, SHAPE, state, Path("net.pt"))
    assert "conv.weight is [6, 3, 3, 3], the network has [4, 3, 3, 3]" in str(error.value)
    assert "(and 4 more)" in str(error.value)
    del state["norm.bias"]
    state["tail.bias"] = torch.ones(1)
    with pytest.raises(PareError, match=r"norm\.bias is missing; tail\.bias is not in the"):
        load_state(Net(width=6), state, Path("net.pt"))


def test_a_checkpoint_without_counters_of_batches_is_taken() -> None:
    net, state = Net(), Net().state_dict()
    del state["norm.num_batches_tracked"]
    load_state(net, state, Path("net.pt"))
    assert torch.equal(net.conv.weight, state["conv.weight"])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Net", {"widht": 3}, "has no option 'widht'. Did you mean 'width'?"),
        ("Net", {"width": "x"}, "cannot be built"),
        ("nothing", {}, "returned int, not a torch.nn.Module"),
        ("absent", {}, "has no 'absent'"),
    ],
)
def test_what_is_no_network_is_refused(
    own: str, name: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(PareError) as error:
        network_of(f"{own}{name}", options, SHAPE)
    assert said in str(error.value)
