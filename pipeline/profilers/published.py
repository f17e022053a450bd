"""Latencies that others published, and those of their networks that can be built here.

The table ships as ``targets/device_latencies.csv``; each row names its source. A row is
used where it says which CPU runtime ran, and where its network's name stands for one that
this project or torchvision builds with the same multiply-accumulates.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.core.target import shipped

if TYPE_CHECKING:
    from torch import nn

    from pipeline.profilers.file_graph import FileGraph

DISTURBED = 1.25
"""A row is disturbed whose mean is beyond this multiple of its own fastest run."""

_COLUMNS = {"model", "device", "unit", "runtime", "dtype", "threads", "ms", "note"}
_RUNTIMES = {"XNNPACK": "XNNPACK", "ncnn": "ncnn", "TFLite": "TFLite", "onnx": "onnxruntime"}
_OTHER_UNITS = ("EdgeTPU", "NPU", "GPU", "DSP")
_WIDTHS = {"int8": 1, "uint8": 1, "w8a8": 1, "w8a16": 2}  # bytes of an activation; else 4


class Network(NamedTuple):
    """How to build a published network: a model's key, its options, the side of its image.

    ``stride_first`` puts the strides of a ResNet's bottlenecks into their 1x1 convolution,
    as the first version has them and torchvision has not.
    """

    key: str
    options: tuple[tuple[str, float], ...] = ()
    size: int = 224
    stride_first: bool = False


class Counted(NamedTuple):
    """What one image costs: multiply-accumulates, and activations read and written."""

    macs: int
    elements: int


class Published(Record):
    """One published row.

    Attributes:
        network: key of its network in :data:`NETWORKS`.
        runtime: family of the engine: XNNPACK, ncnn, TFLite or onnxruntime.
        tool: the engine or benchmark in the table's own words.
        fastest_ms: of its runs, where it says so.
    """

    model: str
    network: str
    device: str
    unit: str
    runtime: str
    tool: str
    dtype: str
    threads: str
    ms: float
    fastest_ms: float | None = None

    @property
    def disturbed(self) -> bool:
        """Whether something else ran: the mean is far above the row's own fastest run."""
        return self.fastest_ms is not None and self.ms > DISTURBED * self.fastest_ms

    @property
    def activation_width(self) -> int:
        """Bytes of one activation in the row's number format."""
        return _WIDTHS.get(self.dtype, 4)


def _mobilenets() -> dict[str, Network]:
    """Return the two MobileNets at the widths and sizes that tables name."""
    v1 = {
        f"MobileNetV1-{alpha}-{size}": Network(
            "mobilenet_v1", (("width", int(32 * float(alpha))),), size
        )
        for alpha, sizes in {
            "1.0": (224, 192, 160, 128), "0.75": (224,), "0.5": (224,), "0.25": (224, 128),
        }.items()
        for size in sizes
    }  # fmt: skip
    v2 = {
        f"MobileNetV2-{alpha}-{size}": Network(
            "torchvision:mobilenet_v2", (("width_mult", float(alpha)),), size
        )
        for alpha, sizes in {
            "1.4": (224,), "1.0": (224, 160, 96), "0.75": (224,), "0.5": (224,),
            "0.35": (224, 128, 96),
        }.items()
        for size in sizes
    }  # fmt: skip
    return v1 | v2


NETWORKS: Mapping[str, Network] = {
    **_mobilenets(),
    "MobileNetV3-Large-224": Network("torchvision:mobilenet_v3_large"),
    "MobileNetV3-Small-224": Network("torchvision:mobilenet_v3_small"),
    "MnasNet-1.0": Network("torchvision:mnasnet1_0"),
    "EfficientNet-B0": Network("torchvision:efficientnet_b0"),
    "ShuffleNetV2-1.0": Network("torchvision:shufflenet_v2_x1_0"),
    "SqueezeNet-1.1": Network("torchvision:squeezenet1_1"),
    "SqueezeNet-1.1-227": Network("torchvision:squeezenet1_1", size=227),
    "ResNet18": Network("torchvision:resnet18"),
    "ResNet50": Network("torchvision:resnet50"),
    "ResNet50-v1": Network("torchvision:resnet50", stride_first=True),
    "VGG16": Network("torchvision:vgg16"),
    "Inception-V3": Network("torchvision:inception_v3", size=299),
}
"""Networks by the name this project gives them."""

_SAME: Mapping[str, str] = {
    "ncnn:squeezenet": "SqueezeNet-1.1-227",
    "ncnn:mobilenet": "MobileNetV1-1.0-224",
    "ncnn:mobilenet_v2": "MobileNetV2-1.0-224",
    "ncnn:mobilenet_v3": "MobileNetV3-Large-224",
    "ncnn:shufflenet_v2": "ShuffleNetV2-1.0",
    "ncnn:mnasnet": "MnasNet-1.0",
    "ncnn:efficientnet_b0": "EfficientNet-B0",
    "ncnn:resnet18": "ResNet18",
    "ncnn:resnet50": "ResNet50-v1",
    "ncnn:vgg16": "VGG16",
    "aihub:mobilenet_v3_large": "MobileNetV3-Large-224",
    "aihub:efficientnet_b0": "EfficientNet-B0",
    "aihub:resnet18": "ResNet18",
    "aihub:resnet50": "ResNet50",
    "aihub:squeezenet1_1": "SqueezeNet-1.1",
    "aihub:shufflenet_v2": "ShuffleNetV2-1.0",
}  # names of the tables that are not our own


def published(path: Path | None = None) -> list[Published]:
    """Read the published rows that a prediction can be compared with.

    Args:
        path: a table of the same columns; the one that ships where not given.

    Raises:
        PareError: no such table, a column is missing, or a row has no latency.
    """
    path = path or next(iter(shipped().values())).parent / "device_latencies.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PareError(f"the table of latencies {path} can't be read: {error}.") from error
    missing = _COLUMNS - set(rows[0] if rows else ())
    if missing:
        raise PareError(f"{path} is no table of latencies: it has no column {min(missing)!r}.")
    found = [_row(row, line, path) for line, row in enumerate(rows, start=2)]
    return [row for row in found if row is not None]


def _row(row: Mapping[str, str], line: int, path: Path) -> Published | None:
    """Return a row that can be used, or ``None``."""
    runtime = _RUNTIMES.get(row["runtime"].partition(" ")[0])
    network = _network(row["model"])
    if runtime is None or network is None or row["unit"] in _OTHER_UNITS:
        return None
    try:
        ms = float(row["ms"])
    except ValueError:
        ms = 0.0
    if not ms > 0:
        raise PareError(f"{path}, line {line}: ms = {row['ms']!r} is no latency.")
    fastest = re.match(r"min ([\d.]+) max", row["note"])
    return Published(
        model=row["model"],
        network=network,
        device=row["device"],
        unit=row["unit"],
        runtime=runtime,
        tool=row["runtime"],
        dtype=row["dtype"],
        threads=row["threads"],
        ms=ms,
        fastest_ms=float(fastest[1]) if fastest else None,
    )


def _network(model: str) -> str | None:
    name = model.removesuffix("_int8")
    name = _SAME.get(name, name)
    return name if name in NETWORKS else None


def count(name: str) -> Counted:
    """Count what a published network costs.

    Raises:
        PareError: it can't be traced.
    """
    graph = graph_of(name)
    return Counted(graph.macs, graph.activation_bytes)


@functools.cache
def graph_of(name: str) -> FileGraph:
    """Build a published network, without memory for its weights, and read its operations.

    Args:
        name: a key of :data:`NETWORKS`.

    Returns:
        Its operations with one byte an activation, so that bytes are elements.
    """
    import torch

    from pipeline.models import build
    from pipeline.profilers.read_network import read_network

    network = NETWORKS[name]
    shape = {"channels": 3, "size": network.size}
    with torch.device("meta"):
        model = build(network.key, dict(network.options), classes=1000, **shape, seed=0)
    if network.stride_first:
        _put_stride_first(model)
    return read_network(model, (3, network.size, network.size), element_bytes=1)


def _put_stride_first(resnet: nn.Module) -> None:
    """Move the strides of a ResNet just built from its 3x3 to its 1x1 convolutions."""
    for block in resnet.modules():
        first, second = getattr(block, "conv1", None), getattr(block, "conv2", None)
        if hasattr(block, "conv3") and first is not None and second is not None:
            first.stride, second.stride = second.stride, first.stride
