"""Published memory figures, exact, on real files and on networks built from real code.

Each figure has a twin: one tensor that must exist one step longer has to change it.
"""

import pytest
import torch
from conftest import SHARED
from torch import nn

from pipeline.models import build
from pipeline.profilers.file_graph import FileGraph, read
from pipeline.profilers.memory import lifetimes, plan
from pipeline.profilers.read_network import read_network

REFERENCE = SHARED / "data" / "mlperf-tiny"


def reference(name: str) -> FileGraph:
    """Read a reference file of MLPerf Tiny (Apache-2.0, public repository mlcommons/tiny)."""
    path = REFERENCE / name
    if not path.is_file():
        pytest.skip(f"{name} of MLPerf Tiny is not beside the checkout")
    return read(path)


def built(key: str, size: int, element_bytes: int = 1, classes: int = 1000, **options):
    with torch.device("meta"):
        model = build(key, options, classes=classes, channels=3, size=size, seed=0)
    return read_network(model, (3, size, size), element_bytes=element_bytes)


def held_longer(graph: FileGraph) -> list[FileGraph]:
    """Return the graph once for each tensor, that tensor read once more a step later."""
    found = []
    for life in lifetimes(graph):
        if life.last + 1 < len(graph.ops):
            ops = list(graph.ops)
            op = ops[life.last + 1]
            ops[life.last + 1] = op.model_copy(update={"inputs": (*op.inputs, life.name)})
            found.append(graph.model_copy(update={"ops": tuple(ops)}))
    assert len(found) > 10
    return found


def notices(graph: FileGraph, expected: dict[str, int]) -> bool:
    """Whether each figure is changed by one tensor that is held a step longer."""
    spoilt = [figures(other) for other in held_longer(graph)]
    return all(any(o[figure] != value for o in spoilt) for figure, value in expected.items())


def figures(graph: FileGraph) -> dict[str, int]:
    found = plan(graph).model_dump(exclude={"where"})
    return {name.removesuffix("_bytes"): value for name, value in found.items()}


FILES = {
    "resnet8_int8.tflite": (12.50, {"naive": 117_908, "liveness": 49_152, "greedy": 49_152}),
    "resnet8_float32.tflite": (12.50, {"liveness": 196_608, "greedy": 196_608}),
    "vww_96_int8.tflite": (7.49, {"naive": 259_716, "liveness": 55_296, "greedy": 64_512}),
    "vww_96_float.tflite": (7.49, {"liveness": 221_184, "greedy": 258_048}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_reference_file_needs_what_was_published(name):
    graph = reference(name)
    macs, expected = FILES[name]
    assert graph.macs / 1e6 == pytest.approx(macs, abs=0.005)
    assert expected.items() <= figures(graph).items()


@pytest.mark.parametrize("name", FILES)
def test_a_tensor_held_longer_in_a_reference_file_is_noticed(name):
    needs = {figure: v for figure, v in FILES[name][1].items() if figure != "naive"}
    assert notices(reference(name), needs)


def test_one_byte_more_in_a_reference_file_is_noticed():
    graph = reference("resnet8_int8.tflite")
    first = next(tensor for tensor in graph.tensors if not tensor.constant)
    more = first.model_copy(update={"bytes": first.bytes + 1})
    tensors = tuple(more if tensor is first else tensor for tensor in graph.tensors)
    assert figures(graph.model_copy(update={"tensors": tensors}))["naive"] == 117_909


V2 = "torchvision:mobilenet_v2"
NETWORKS = {
    "MobileNetV2, MCUNetV2's 1372 KiB": (
        (V2, 224), {}, {"in_place": 16 * 112**2 + 96 * 112**2, "liveness": 1_505_280}
    ),
    "MobileNetV2 0.35 at 128, STM32N6's 240 KiB": (
        (V2, 128), {"width_mult": 0.35}, {"liveness": 245_760}
    ),
    "MobileNetV2 0.35 at 224, 735 KiB": (
        (V2, 224), {"width_mult": 0.35}, {"liveness": 735 * 1024}
    ),
    "wake words, int8": (
        ("mobilenet_v1", 96), {"width": 8, "classes": 2},
        {"liveness": 55_296, "greedy": 64_512},
    ),
    "wake words, float": (
        ("mobilenet_v1", 96), {"width": 8, "classes": 2, "element_bytes": 4},
        {"liveness": 221_184, "greedy": 258_048},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_needs_what_was_published(name):
    place, options, expected = NETWORKS[name]
    assert expected.items() <= figures(built(*place, **options)).items()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tensor_held_longer_in_a_network_is_noticed(name):
    place, options, expected = NETWORKS[name]
    assert notices(built(*place, **options), expected)


def test_mcunets_figure_is_the_one_that_was_published():
    assert NETWORKS["MobileNetV2, MCUNetV2's 1372 KiB"][2]["in_place"] == 1_404_928


@pytest.mark.parametrize("element_bytes", [1, 4])
def test_wider_numbers_need_as_much_more(element_bytes):
    found = figures(built(V2, 64, element_bytes))
    single = figures(built(V2, 64))
    assert found["liveness"] == element_bytes * single["liveness"]


def test_a_network_of_its_own_needs_what_is_counted_by_hand():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            x = self.first(x).relu()
            return x + self.second(x)

    graph = read_network(Residual(), (2, 8, 8), element_bytes=1)
    # 2 x 64 in; 4 x 64 each: first, second, sum. At the sum all three of them exist.
    assert figures(graph)["liveness"] == 3 * 256
    assert figures(graph)["naive"] == 128 + 3 * 256
