"""Cross-layer equalisation: channels of one layer brought to one range, outputs unchanged.

Between two layers with a positively homogeneous function, ``f(s x) = s f(x)`` for ``s > 0``,
a channel may be divided by ``s`` in the first layer and multiplied by it in the second. With
one scale for a whole weight tensor, a channel of small weights would be rounded to nothing;
equalised, all channels use the integers alike. Every scale is a power of two, so that each
product and sum is the same number with another exponent: the outputs are equal to the last
bit, unless a value leaves the range of float32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.graph.equivalence import Comparison, Equivalence, compare, noise
from pipeline.graph.kinds import Layer, kind, layer_of, layers, readers, shape_of, tensors_read

#: Exponents of two beyond which no channel is scaled: 4096 in each direction.
BOUND = 12
_SWEEPS = 50

_POINTWISE = frozenset(
    (
        "relu", "leaky_relu", "prelu", "identity", "dropout", "dropout1d", "dropout2d",
        "contiguous", "alias", "clone", "detach",
    )
)  # fmt: skip
_IMAGE = frozenset(
    (
        "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d",
        "adaptive_avg_pool2d", "adaptive_max_pool2d", "zero_pad2d", "reflection_pad2d",
        "replication_pad2d",
    )
)  # fmt: skip
_FLATTENING = frozenset(("flatten", "reshape", "view", "squeeze"))
_BENDING = frozenset(
    (
        "relu6", "hardtanh", "hardswish", "silu", "sigmoid", "hardsigmoid", "tanh", "gelu",
        "elu", "selu", "celu", "mish", "softplus", "softmax", "log_softmax",
    )
)  # fmt: skip


class Pair(Record):
    """Two layers whose shared channels were equalised.

    Attributes:
        channels: that the first makes and the second reads.
        before: largest range of a channel divided by the smallest, in the first layer's
            weight by output or in the second's by input, whichever is more unequal; zero
            channels are left out.
        after: the same after equalisation.
        scaled: channels whose scale is not one.
    """

    first: str
    second: str
    channels: int
    before: float
    after: float
    scaled: int


class Unpaired(Record):
    """A layer whose output channels could not be scaled, and why."""

    layer: str
    why: str


@dataclass(frozen=True)
class Equalised:
    """The equalised network, what was done, and where nothing could be done."""

    network: fx.GraphModule
    pairs: list[Pair]
    unpaired: list[Unpaired]


@dataclass(frozen=True)
class _Link:
    """A first and a second layer; ``repeats`` features of the second a channel."""

    first: str
    second: str
    repeats: int


@torch.no_grad()
def equalise(network: fx.GraphModule) -> Equalised:
    """Return a copy whose layers have channels of like range, and the same outputs.

    Pairs are equalised in turn until no scale changes, so that a convolution, the
    depthwise one behind it and the pointwise one behind that come to one common range.

    Args:
        network: traced, with its batch norms folded (``fold_batch_norm``): one that is left
            ends a chain, as ReLU6, hard-swish and all else does that is not homogeneous.

    Raises:
        PareError: the network was not traced by ``pipeline.graph.trace``.

    Source:
        Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction,
        ICCV 2019, arXiv:1906.04721, section 4.1, equation 11. Deviations: scales are rounded
        to powers of two, which costs at most a quarter of a bit a layer and makes the
        equality exact; ReLU6 is not replaced by ReLU; biases are not absorbed.
    """
    own = copy.deepcopy(network)
    links, unpaired = _links(own)
    before = {link: _inequality(own, link) for link in links}
    exponents = _scaled_in_place(own, links)
    pairs = [
        Pair(
            first=link.first,
            second=link.second,
            channels=_of(own, link.first).weight.shape[0],
            before=before[link],
            after=_inequality(own, link),
            scaled=int((exponents[link] != 0).sum()),
        )
        for link in links
    ]
    return Equalised(own, pairs, unpaired)


@torch.no_grad()
def prove(
    before: fx.GraphModule, after: fx.GraphModule, images: Tensor, seed: int = 0
) -> Equivalence:
    """Compare two networks on images and noise, also larger ones, in float32 and float64.

    Args:
        before: as it was.
        after: equalised.
        images: float32 ``[n, c, h, w]``.
        seed: of the noise.
    """
    _, channels, height, width = images.shape
    given = [("images", images), ("noise", noise(tuple(images.shape), seed))]
    larger = noise((2, channels, height * 3 // 2, width * 2), seed + 1)
    if _takes(before, larger):
        given.append(("noise at another size", larger))
    wide_before, wide_after = copy.deepcopy(before).double(), copy.deepcopy(after).double()
    found: list[Comparison] = []
    for what, batch in given:
        found.append(compare(before, after, batch, what))
        found.append(compare(wide_before, wide_after, batch.double(), what))
    return Equivalence(comparisons=found)


def demand(proof: Equivalence) -> None:
    """Refuse an equalisation that changed the outputs.

    Raises:
        PareError: names the comparison that fails, and how to do without.
    """
    for one in proof.comparisons:
        if not one.holds:
            raise PareError(
                f"the equalised network differs from the one before by {one.difference:.3g} "
                f"(limit {one.limit:.3g}) on {one.what}, {one.dtype}. Turn equalisation "
                "off, and please report this network."
            )


def _takes(network: nn.Module, images: Tensor) -> bool:
    try:
        network(images)
    except Exception:  # whatever a user's code raises for a size it was not made for
        return False
    return True


def _of(network: fx.GraphModule, name: str) -> Layer:
    """Return a layer by its name."""
    layer = network.get_submodule(name)
    assert isinstance(layer, Layer)
    return layer


def _links(network: fx.GraphModule) -> tuple[list[_Link], list[Unpaired]]:
    """Return the pairs in the order of the graph, and the layers that are first of none."""
    usable = layers(network)
    links, unpaired = [], []
    for name, node in usable.items():
        end = _follow(network, node, usable)
        if isinstance(end, _Link):
            links.append(end)
        else:
            unpaired.append(Unpaired(layer=name, why=end))
    return links, unpaired


def _follow(
    network: fx.GraphModule, start: fx.Node, usable: dict[str, fx.Node]
) -> _Link | str:
    """Walk from a layer to the one that alone reads it, or say what ends the way."""
    node, axis, repeats = start, _channel_axis(network, start), 1
    while True:
        found = readers(node)
        if len(found) != 1:
            return f"{node.name} is read {len(found)} times"
        reader = found[0]
        if layer_of(network, reader) is not None:
            return _joined(network, start, reader, axis, repeats, usable)
        refusal = _refusal(network, reader, node, axis)
        if refusal:
            return refusal
        if kind(network, reader) in _FLATTENING:
            repeats *= math.prod(shape_of(node)[2:])
        node = reader


def _channel_axis(network: fx.GraphModule, node: fx.Node) -> int:
    """Return the axis of a layer's output channels."""
    return len(shape_of(node)) - 1 if isinstance(layer_of(network, node), nn.Linear) else 1


def _refusal(network: fx.GraphModule, node: fx.Node, source: fx.Node, axis: int) -> str:
    """Say why a scaled input would not give a scaled output, or nothing if it would."""
    name = kind(network, node)
    if name == "output":
        return "its values are the network's output"
    if tensors_read(node) != [source]:
        return f"{node.name} joins it with another value"
    if name in _POINTWISE:
        return ""
    if name in _BENDING:
        return f"{name} of {node.name} does not scale with its input"
    rank = len(shape_of(source))
    if name in _IMAGE and axis == 1 and rank == len(shape_of(node)) >= 3:
        return ""
    if name == "mean" and axis == 1 and _over_places(node, rank):
        return ""
    if name == "pad" and axis == 1 and _pads_zeros(node, rank):
        return ""
    if name in _FLATTENING and axis == 1 and _is_flat(source, node):
        return ""
    return f"{node.name} ({name}) is not known to scale with its input channel by channel"


def _over_places(node: fx.Node, rank: int) -> bool:
    """Tell whether a mean is taken over places, and leaves images and channels alone."""
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    listed = axes if isinstance(axes, Sequence) else [axes]
    return all(isinstance(axis, int) and axis % rank >= 2 for axis in listed)


def _pads_zeros(node: fx.Node, rank: int) -> bool:
    """Tell whether a pad puts zeros (or copies) around each image, and adds no channel."""
    given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | node.kwargs
    if isinstance(given.get("mode"), int | float):  # aten.constant_pad_nd(x, pad, value)
        given = {"pad": given["pad"], "value": given["mode"]}
    widths = given.get("pad")
    if not isinstance(widths, Sequence) or len(widths) > 2 * (rank - 2):
        return False
    return bool((given.get("value") or 0) == 0)


def _is_flat(source: fx.Node, node: fx.Node) -> bool:
    """Tell whether a reshape lays all places of a channel side by side, image by image."""
    before, after = shape_of(source), shape_of(node)
    return after == (before[0], math.prod(before[1:]))


def _joined(
    network: fx.GraphModule,
    start: fx.Node,
    reader: fx.Node,
    axis: int,
    repeats: int,
    usable: dict[str, fx.Node],
) -> _Link | str:
    """Return the pair, if the reader reads the channels where the first layer makes them."""
    if str(reader.target) not in usable:
        return f"{reader.target} is called twice or shares its weight"
    layer, value = layer_of(network, reader), reader.all_input_nodes[0]
    first = layer_of(network, start)
    assert first is not None
    assert layer is not None
    reads = len(shape_of(value)) - 1 if isinstance(layer, nn.Linear) else 1
    width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    if axis != reads or width != first.weight.shape[0] * repeats:
        return f"{reader.target} reads it along another axis"
    return _Link(str(start.target), str(reader.target), repeats)


def _scaled_in_place(network: fx.GraphModule, links: list[_Link]) -> dict[_Link, Tensor]:
    """Scale the layers of our own copy until nothing changes; return all exponents."""
    total = {link: torch.zeros(_of(network, link.first).weight.shape[0]) for link in links}
    for _ in range(_SWEEPS):
        changed = False
        for link in links:
            step = _exponents(network, link)
            step = (total[link] + step).clamp(-BOUND, BOUND) - total[link]
            if bool(step.any()):
                apply_in_place(network, link.first, link.second, step)
                total[link] += step
                changed = True
        if not changed:
            break
    return total


def _exponents(network: fx.GraphModule, link: _Link) -> Tensor:
    """Return the exponents of two by which the channels are divided, ``[channels]``."""
    made, read = _made(_of(network, link.first)), _read(_of(network, link.second), link)
    used = (made > 0) & (read > 0)
    step = (0.5 * (made.log2() - read.log2())).round()
    return torch.where(used, step, torch.zeros_like(step))


def apply_in_place(network: fx.GraphModule, first: str, second: str, step: Tensor) -> None:
    """Divide channels by powers of two in one layer and multiply them in the next, in place.

    Args:
        network: ours to change.
        first: layer that makes the channels.
        second: layer that reads them.
        step: exponents of two, ``[channels]``.
    """
    maker, reader = _of(network, first), _of(network, second)
    _shift(maker.weight, -step.view(-1, *[1] * (maker.weight.dim() - 1)))
    if maker.bias is not None:
        _shift(maker.bias, -step)
    groups = 1 if isinstance(reader, nn.Linear) else reader.groups
    inputs = reader.weight.shape[1] * groups
    each = step.repeat_interleave(inputs // step.numel()).view(groups, 1, -1)
    grouped = reader.weight.view(groups, reader.weight.shape[0] // groups, -1)
    wide = each.repeat_interleave(grouped.shape[2] // each.shape[2], 2)
    _shift(grouped, wide)


def _shift(values: Tensor, exponents: Tensor) -> None:
    """Multiply by powers of two, in place; only the exponents of the numbers change."""
    # Not torch.ldexp: it computes the power, and its vectorised form may be a bit off.
    powers = torch.tensor([2.0 ** int(e) for e in exponents.flatten().tolist()])
    values.mul_(powers.view_as(exponents).to(values.dtype))


def _made(layer: Layer) -> Tensor:
    """Return the largest magnitude of each output channel's weights, ``[channels]``."""
    return layer.weight.detach().abs().flatten(1).amax(1)


def _read(layer: Layer, link: _Link) -> Tensor:
    """Return the largest magnitude of the weights that read each channel, ``[channels]``."""
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    weight = layer.weight.detach().abs()
    each = weight.view(groups, weight.shape[0] // groups, weight.shape[1], -1).amax((1, 3))
    return each.view(-1, link.repeats).amax(1)


def _inequality(network: fx.GraphModule, link: _Link) -> float:
    """Return the largest range of a channel divided by the smallest, of both layers."""
    made, read = _made(_of(network, link.first)), _read(_of(network, link.second), link)
    return max(spread(made), spread(read))


def spread(ranges: Tensor) -> float:
    """Return the largest of some ranges divided by the smallest that is not zero.

    >>> spread(torch.tensor([0.0, 0.5, 4.0]))
    8.0
    """
    used = ranges[ranges > 0]
    return float(used.max() / used.min()) if used.numel() else 1.0
