import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.core.errors import PareError
from pipeline.graph.counting import count
from pipeline.models import build
from pipeline.profilers.file_graph import read
from pipeline.profilers.read_network import read_network


def conv_bn_relu(c_in, c_out, **more):
    return [nn.Conv2d(c_in, c_out, 3, padding=1, **more), nn.BatchNorm2d(c_out), nn.ReLU()]


def test_what_a_runtime_fuses_costs_nothing():
    bare = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    fused = nn.Sequential(*conv_bn_relu(3, 8), nn.Dropout())
    found = [read_network(model, (3, 8, 8)) for model in (bare, fused)]
    assert [graph.activation_bytes for graph in found] == [4 * (3 + 8) * 64] * 2
    assert [graph.macs for graph in found] == [8 * 27 * 64] * 2


def test_other_activations_are_operations_of_their_own():
    graph = read_network(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Hardswish()), (3, 8, 8))
    assert [op.type for op in graph.ops] == ["CONV_2D", "HARDSWISH"]
    assert graph.activation_bytes == 4 * 64 * (3 + 8 + 8 + 8)


def test_a_depthwise_convolution_is_told_from_a_grouped_one():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 4, 1)
    )
    graph = read_network(model, (4, 8, 8))
    assert [op.depthwise for op in graph.ops] == [True, False, False]
    assert [op.macs for op in graph.ops] == [4 * 9 * 36, 8 * 18 * 16, 4 * 8 * 16]


class Shuffle(nn.Module):
    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        return F.max_pool2d(torch.cat([b, a], dim=1), 2).flatten(1)


def test_a_split_writes_its_parts_and_a_view_nothing():
    graph = read_network(Shuffle(), (4, 8, 8), element_bytes=1)
    assert [op.type for op in graph.ops] == ["CHUNK", "CAT", "MAX_POOL2D"]
    assert [len(op.outputs) for op in graph.ops] == [2, 1, 1]
    assert [op.activation_bytes for op in graph.ops] == [512, 512, 256 + 64]
    assert graph.outputs == graph.ops[-1].outputs


@pytest.mark.parametrize("key", ["resnet8", "mobilenet_v1", "torchvision:squeezenet1_1"])
def test_macs_are_those_that_are_counted_on_the_network(key):
    model = build(key, {}, classes=10, channels=3, size=64, seed=0)
    assert read_network(model, (3, 64, 64)).macs == count(model, (3, 64, 64)).macs


def test_the_network_is_left_as_it_was():
    model = build("resnet8", {}, classes=10, channels=3, size=32, seed=0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    read_network(model, (3, 32, 32))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_file_made_of_it_moves_the_same_bytes(tmp_path):
    model = nn.Sequential(*conv_bn_relu(3, 8), *conv_bn_relu(8, 8)).eval()
    path = tmp_path / "model.onnx"
    with torch.no_grad():
        torch.onnx.export(model, (torch.zeros(1, 3, 8, 8),), path, dynamo=True, verbose=False)
    file, network = read(path), read_network(model, (3, 8, 8))
    assert file.macs == network.macs
    assert file.activation_bytes == network.activation_bytes


class Undecided(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_network_that_depends_on_its_data_is_refused_by_name():
    with pytest.raises(PareError, match=r"Undecided can't be traced .* Export it"):
        read_network(Undecided(), (3, 8, 8))


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(PareError, match=r"can't be traced for images of \[4, 8, 8\]"):
        read_network(nn.Conv2d(3, 8, 3), (4, 8, 8))
