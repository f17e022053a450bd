"""ONNX files of compacted networks have no indexed copies: layers are narrower, that is all.

simplify leaves Shape, Expand and ScatterElements behind, Tessier's shrinking ScatterND.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from tiny import prune_rows, settle
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

from pipeline.core.signature import Signature
from pipeline.exporters.to_onnx import ToOnnx, export_float32
from pipeline.graph.counting import count
from pipeline.graph.equivalence import noise
from pipeline.graph.surgery import compact

SHAPE = (3, 32, 32)
INDEXED = ("Scatter", "Gather", "Expand", "Where", "NonZero", "OneHot")


def resnet() -> nn.Module:
    shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2, bias=False), nn.BatchNorm2d(16))
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        BasicBlock(8, 8), BasicBlock(8, 16, 2, shortcut), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


class Indexed(nn.Module):
    """What other compactors leave behind: a residual sum by scattering."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 2, 1)
        self.register_buffer("places", torch.tensor([1, 4]))

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x).index_add(1, self.places, self.narrow(x))


def indexed_nodes(model: nn.Module, path: Path) -> Counter[str]:
    sign = Signature(
        input_name="input", output_name="logits", channels=3, height=32, width=32, batch=1,
        classes=[str(number) for number in range(10)], mean=[0.0] * 3, std=[1.0] * 3,
        recipe_hash="f00d", producer="pare 0.0",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_float32(model, sign, path, ToOnnx().opset, noise((2, *SHAPE), seed=0).numpy())
    proto = onnx.load(path)
    kinds = [node.op_type for graph in (proto.graph, *proto.functions) for node in graph.node]
    return Counter(kind for kind in kinds if kind.startswith(INDEXED))


NETWORKS = {
    "resnet": resnet,
    "shufflenet_v2_x0_5": lambda: models.shufflenet_v2_x0_5(num_classes=10),
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=10),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_compacted_networks_file_has_no_indexed_copies(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = prune_rows(settle(NETWORKS[name](), 2), 3, 0.5)
    small, _ = compact(model, SHAPE)
    assert count(small, SHAPE).weights < 0.8 * count(model, SHAPE).weights
    before = indexed_nodes(model, tmp_path / "before.onnx")
    after = indexed_nodes(small.eval(), tmp_path / "after.onnx")
    assert not after - before, (before, after)


def test_indexed_copies_would_be_seen(tmp_path: Path) -> None:
    assert indexed_nodes(Indexed().eval(), tmp_path / "indexed.onnx")
