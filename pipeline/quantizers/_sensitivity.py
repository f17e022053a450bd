"""Which layers lose most by int8: each is quantized alone, all others stay in float."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.core.target import Granularity
from pipeline.graph.counting import count
from pipeline.graph.kinds import layers, shape_of
from pipeline.quantizers._simulation import Ranges, quantized_view

#: What is said where nothing differs, since a record holds no infinity.
NO_ERROR_DB = 200.0
_BATCH = 32


class LayerSensitivity(Record):
    """What quantizing one layer alone does to the network's output.

    Attributes:
        sqnr_db: power of the float output over that of the difference, in decibel.
        agreement: part of the images that keep their first class.
        accuracy_drop: lost on the labels, in [-1, 1]; ``None`` without labels.
        macs_share: part of the network's multiply-accumulates that the layer computes,
            which is what keeping it in float costs.
    """

    layer: str
    sqnr_db: float
    agreement: float
    accuracy_drop: float | None
    macs_share: float


@torch.no_grad()
def sensitivity(
    network: fx.GraphModule,
    ranges: Ranges,
    images: Tensor,
    labels: Tensor | None,
    granularity: Granularity,
) -> list[LayerSensitivity]:
    """Return what each convolution and linear layer costs in int8, the worst first.

    Worst is what changes most decisions, then what leaves the most noise, then what comes
    first in the graph. Accuracy does not rank: a layer that changes one decision in a
    hundred gains and loses by chance. What lies before a layer is computed once for all.

    MobileNetV2 at 64x64, 52 convolutions and a linear layer, 256 images: 11 seconds on
    one thread of a shared x86 server.

    Args:
        network: traced, with batch norms folded.
        ranges: of its values, from ``observe``.
        images: of the validation split, ``[n, c, h, w]``.
        labels: ``[n]``, or ``None``.
        granularity: of the weights.

    Raises:
        PareError: there are no images, or not as many labels.
    """
    if not len(images) or (labels is not None and len(labels) != len(images)):
        raise PareError(
            f"sensitivity: {len(images)} images and "
            f"{'no' if labels is None else len(labels)} labels. "
            "At least one image is needed, and a label for each or none at all."
        )
    names = list(layers(network))
    views = {
        name: quantized_view(network, ranges, granularity, {name}, between=False)
        for name in names
    }
    floats: list[Tensor] = []
    rounded: dict[str, list[Tensor]] = {name: [] for name in names}
    for batch in images.split(_BATCH):
        known = _Recorder(network)
        floats.append(_first(known.run(batch)))
        for name, view in views.items():
            rounded[name].append(_first(_Continued(view, name, known.values).run(batch)))
    reference = torch.cat(floats)
    shares = _macs(network)
    found = [
        _compared(name, reference, torch.cat(rounded[name]), labels, shares.get(name, 0.0))
        for name in names
    ]
    order = {name: number for number, name in enumerate(names)}
    return sorted(found, key=lambda one: (one.agreement, one.sqnr_db, order[one.layer]))


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every value."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.values: dict[str, Any] = {}

    def run_node(self, node: fx.Node) -> Any:
        """Run one node."""
        result = super().run_node(node)
        self.values[node.name] = result
        return result


class _Continued(fx.Interpreter):
    """Runs only what a change makes different, and takes the rest from a run before."""

    def __init__(self, view: fx.GraphModule, layer: str, values: dict[str, Any]) -> None:
        super().__init__(view)
        self._layer, self._values = layer, values
        self._changed: set[fx.Node] = set()

    def run_node(self, node: fx.Node) -> Any:
        """Run one node, if anything it reads has changed."""
        own = node.name not in self._values or str(node.target) == self._layer
        if own or not self._changed.isdisjoint(node.all_input_nodes) or node.op == "output":
            self._changed.add(node)
            return super().run_node(node)
        return self._values[node.name]


def _first(outputs: Any) -> Tensor:
    """Return the first tensor of a network's output, ``[n, classes, ...]``."""
    return next(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)).float()


def _compared(
    name: str, reference: Tensor, found: Tensor, labels: Tensor | None, share: float
) -> LayerSensitivity:
    """Compare the outputs with one layer quantized with those of the float network."""
    noise = float((found - reference).double().square().sum())
    signal = float(reference.double().square().sum())
    ratio = 10 * math.log10(signal / noise) if noise and signal else NO_ERROR_DB
    chosen, before = found.argmax(1), reference.argmax(1)
    drop = None
    if labels is not None:
        drop = float((before == labels).double().mean() - (chosen == labels).double().mean())
    return LayerSensitivity(
        layer=name,
        sqnr_db=min(ratio, NO_ERROR_DB),
        agreement=float((chosen == before).double().mean()),
        accuracy_drop=drop,
        macs_share=share,
    )


def _macs(network: fx.GraphModule) -> dict[str, float]:
    """Return the part of all multiply-accumulates that each layer computes."""
    start = next(node for node in network.graph.nodes if node.op == "placeholder")
    counted = count(network, shape_of(start)[1:])
    return {layer.name: layer.macs / (counted.macs or 1) for layer in counted.layers}
