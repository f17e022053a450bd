"""An int8 file simulated in PyTorch: its rounding, without a file and its runtime.

Weights are symmetric in [-127, 127], with a scale for each output channel or one for all.
Activations are affine in [-128, 127], with one scale a tensor, from the range seen on
calibration images. As in the files, a tensor is rounded once: behind the activation that is
fused into the layer before it (ReLU, ReLU6), and not again where it is only moved (max pool,
flatten). The input, the output, sums, products and concatenations are rounded too.

Not simulated: biases in int32 (their step is that of a sum of products, far below that of
the result), the tables of sigmoid and its like inside one module, and the common scale of
what a TFLite concatenation joins.

How close it comes: of four small networks trained on digits (a ResNet8; plain, residual and
unequal ones with a depthwise convolution), per channel and per tensor, the root mean square
error of the logits is within 4 % of that of onnxruntime's int8 file, also where that loses 81
points of accuracy; what is left between the two is 3 to 44 % of that error, and of two of
them at least 99.7 % of the decisions agree. ``tests/unit/quantizers/test_simulation.py``
holds it to somewhat wider limits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Set
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.core.target import Granularity, Method
from pipeline.graph.kinds import kind, layer_of, readers, shape_of, tensors_read

Floats = npt.NDArray[np.float64]

#: Part of the values, in percent, that the range of method ``percentile`` holds.
PERCENTILE = 99.99
_BINS = 2048
_BATCH = 32  # images that are floats at the same time

_FUSED = frozenset(("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clip"))
_IDLE = frozenset(
    (
        "alias", "clone", "contiguous", "detach", "dropout", "dropout1d", "dropout2d",
        "identity", "stochastic_depth",
    )
)  # fmt: skip
_MOVES = _IDLE | frozenset(
    (
        "max_pool1d", "max_pool2d", "flatten", "reshape", "view", "squeeze", "unsqueeze",
        "permute", "transpose", "chunk", "split", "split_with_sizes", "unbind", "getitem",
        "zero_pad2d", "pad", "slice", "select", "upsampling_nearest2d",
    )
)  # fmt: skip
_NO_OPERATION = frozenset(("placeholder", "get_attr", "output"))


class Range(Record):
    """The values that a tensor's 256 steps span; zero is always among them."""

    minimum: float
    maximum: float


class Ranges(Record):
    """What calibration found, by the name of the value in the graph.

    Attributes:
        images: that were looked at.
    """

    method: Method
    images: int
    values: dict[str, Range]


@torch.no_grad()
def observe(network: fx.GraphModule, images: Tensor, method: Method = "min-max") -> Ranges:
    """Return the range of every value that an int8 file stores.

    Args:
        network: traced, with batch norms folded.
        images: of calibration, ``[n, c, h, w]``.
        method: ``min-max`` takes all values in, ``percentile`` leaves a ten-thousandth of
            them out, ``entropy`` and ``mse`` search for the range whose rounded values are
            closest to the observed ones. A distribution with a peak at its end, as ReLU6
            makes it, misleads ``entropy`` into cutting it off; ``mse`` is the safer search.

    Raises:
        PareError: there are no images, or a value is not finite.

    Source:
        Wu et al., Integer Quantization for Deep Learning Inference, 2020, arXiv:2004.09602,
        section 4.2 (max, entropy, percentile); Nagel et al., A White Paper on Neural Network
        Quantization, 2021, arXiv:2106.08295, section 3.1 (MSE).
    """
    if not len(images):
        raise PareError("calibration: there are no images. Raise quantize.calibration_images.")
    chosen = frozenset(node.name for node in stored_values(network))
    extremes: dict[str, Range] = {}

    def widen(name: str, value: Tensor) -> None:
        low, high = (float(one) for one in value.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise PareError(
                f"calibration: the value {name!r} of the network is not finite on a "
                "calibration image. Check the network's weights and the images."
            )
        seen = extremes.get(name, Range(minimum=low, maximum=high))
        extremes[name] = Range(minimum=min(low, seen.minimum), maximum=max(high, seen.maximum))

    _watch(network, images, chosen, widen)
    found = extremes
    if method != "min-max":
        counted: dict[str, Tensor] = {}

        def count(name: str, value: Tensor) -> None:
            span = extremes[name]
            bins = torch.histc(value, _BINS, span.minimum, span.maximum).double()
            counted[name] = counted.get(name, torch.zeros_like(bins)) + bins

        _watch(network, images, chosen, count)
        found = {
            name: _SEARCHES[method](counted[name].numpy(), span)
            for name, span in extremes.items()
        }
    return Ranges(method=method, images=len(images), values=found)


def stored_values(
    network: fx.GraphModule, layers: Set[str] | None = None, *, between: bool = True
) -> list[fx.Node]:
    """Return the values that a file stores in int8, in the order of the graph.

    Args:
        network: traced.
        layers: convolutions and linear layers that are quantized; ``None`` for all.
        between: whether all other operations are quantized too.
    """
    stored: dict[fx.Node, None] = {}
    for node in network.graph.nodes:
        name = kind(network, node)
        if name in _NO_OPERATION or name in _MOVES:
            continue
        chosen = between
        if layer_of(network, node) is not None:
            chosen = layers is None or str(node.target) in layers
        if not chosen or _is_fused(network, node):
            continue
        reads = [_source(network, one) for one in tensors_read(node)]
        made = [_result(network, node)] if shape_of(node) else []
        stored |= dict.fromkeys(one for one in (*reads, *made) if one.op != "get_attr")
    order = {node: number for number, node in enumerate(network.graph.nodes)}
    return sorted(stored, key=lambda node: order[node])


def simulate(
    network: fx.GraphModule,
    ranges: Ranges,
    granularity: Granularity,
    layers: Set[str] | None = None,
    *,
    between: bool = True,
) -> fx.GraphModule:
    """Return a copy that rounds as an int8 file does.

    Args:
        network: traced, with batch norms folded; float32.
        ranges: of its values, from ``observe``.
        granularity: of the weights.
        layers: the convolutions and linear layers that are quantized, with what they read
            and make; the others stay in float. ``None`` for all.
        between: whether sums, concatenations and all other operations are quantized too, as
            in a file of which ``layers`` are the integer ones; without, ``layers`` alone.

    Raises:
        PareError: a layer is unknown, or a value has no range.

    Source:
        Jacob et al., CVPR 2018, arXiv:1712.05877, section 3; Krishnamoorthi 2018,
        arXiv:1806.08342 (a scale for each output channel).
    """
    return quantized_view(copy.deepcopy(network), ranges, granularity, layers, between=between)


def quantized_view(
    network: fx.GraphModule,
    ranges: Ranges,
    granularity: Granularity,
    layers: Set[str] | None = None,
    *,
    between: bool = True,
) -> fx.GraphModule:
    """Return what ``simulate`` does, sharing with the network all that is not rounded.

    For whoever makes many of them and trains none; the network is not changed.
    """
    known = {str(n.target) for n in network.graph.nodes if layer_of(network, n) is not None}
    unknown = sorted((layers or set()) - known)
    if unknown:
        raise PareError(
            f"the network has no layer {unknown[0]!r} to quantize. Its layers: "
            f"{', '.join(sorted(known))}."
        )
    chosen = known if layers is None else layers
    view = instrumented(
        network,
        [node.name for node in stored_values(network, layers, between=between)],
        lambda name: Rounding(_range_of(ranges, name)),
    )
    for name in sorted(chosen):
        layer = copy.deepcopy(view.get_submodule(name))
        with torch.no_grad():
            layer.weight.copy_(rounded_weight(layer.weight, granularity))  # type: ignore[operator,arg-type]  # a layer's
        view.set_submodule(name, layer)
    return view


def instrumented(
    network: fx.GraphModule, names: list[str], make: Callable[[str], nn.Module]
) -> fx.GraphModule:
    """Return a view of a network in which values pass through modules of ours.

    Args:
        network: whose modules are shared, not copied.
        names: of the values in the graph.
        make: a module for each name; it becomes ``int8_<name>``.
    """
    view = fx.GraphModule(network, copy.deepcopy(network.graph))
    nodes = {node.name: node for node in view.graph.nodes}
    for name in names:
        node, own = nodes[name], f"int8_{name}"
        view.add_submodule(own, make(name))
        with view.graph.inserting_after(node):
            call = view.graph.call_module(own, (node,))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call, delete_user_cb=lambda user, call=call: user != call)
    view.graph.lint()
    view.recompile()
    view.training = network.training
    return view


def rounded_weight(weight: Tensor, granularity: Granularity) -> Tensor:
    """Return a weight rounded to int8 and back, ``[outputs, ...]``; gradients pass through.

    Zeros stay zeros. A channel of zeros has no range and any scale.
    """
    flat = weight.detach().abs().flatten(1)
    largest = flat.amax(1) if granularity == "per-channel" else flat.max().expand(len(flat))
    smallest = torch.finfo(weight.dtype).tiny
    scale = torch.where(largest > 0, largest / 127, 1.0).clamp_min(smallest)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


def affine(minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale (float32) and zero point (int32) of a range, widened to hold zero."""
    low, high = minimum.clamp(max=0), maximum.clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale > 0, scale, 1.0).clamp_min(torch.finfo(scale.dtype).tiny)
    zero = (-128 - low / scale).round().clamp(-128, 127).to(torch.int32)
    return scale, zero


class Rounding(nn.Module):
    """Rounds a value to int8 and back; gradients pass through inside the range."""

    minimum: Tensor
    maximum: Tensor

    def __init__(self, span: Range) -> None:
        super().__init__()
        self.register_buffer("minimum", torch.tensor(span.minimum))
        self.register_buffer("maximum", torch.tensor(span.maximum))

    def forward(self, value: Tensor) -> Tensor:
        """Return the rounded value, of the same shape; whole numbers stay as they are."""
        if not value.is_floating_point():
            return value
        scale, zero = affine(self.minimum, self.maximum)
        rounded = torch.fake_quantize_per_tensor_affine(value.float(), scale, zero, -128, 127)
        return rounded.to(value.dtype)


class _Watcher(fx.Interpreter):
    """Runs a graph and shows some of its values to whoever asked."""

    def __init__(
        self, network: fx.GraphModule, names: Set[str], show: Callable[[str, Tensor], None]
    ) -> None:
        super().__init__(network)
        self.extra_traceback = False  # an error of ours says all the user needs
        self._names, self._show = names, show

    def run_node(self, node: fx.Node) -> Any:
        """Run one node."""
        result = super().run_node(node)
        if node.name in self._names and isinstance(result, Tensor):
            self._show(node.name, result.float())
        return result


def _watch(
    network: fx.GraphModule,
    images: Tensor,
    names: Set[str],
    show: Callable[[str, Tensor], None],
) -> None:
    for batch in images.split(_BATCH):
        _Watcher(network, names, show).run(batch)


def _range_of(ranges: Ranges, name: str) -> Range:
    if name not in ranges.values:
        raise PareError(
            f"the value {name!r} of the network has no range. "
            "Observe the same network that is simulated."
        )
    return ranges.values[name]


def _source(network: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Return the value whose numbers a node only moves."""
    while kind(network, node) in _MOVES and (read := tensors_read(node)):
        if not shape_of(read[0]) and kind(network, read[0]) not in _MOVES:
            break  # one of several results, such as attention's
        node = read[0]
    return node


def _is_fused(network: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a node is an activation computed by the operation before it."""
    if kind(network, node) not in _FUSED:
        return False
    while True:
        before = tensors_read(node)
        if len(before) != 1 or readers(before[0]) != [node]:
            return False
        node = before[0]
        if kind(network, node) not in _IDLE:
            return kind(network, node) not in _NO_OPERATION | _MOVES


def _result(network: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Return what is stored of a node's result: behind the activation fused into it."""
    last = node
    while len(found := readers(last)) == 1:
        last = found[0]
        if _is_fused(network, last):
            return last
        if kind(network, last) not in _IDLE:
            break
    return node


def _centres(span: Range) -> Floats:
    edges = np.linspace(span.minimum, span.maximum, _BINS + 1)
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _percentile(counts: Floats, span: Range) -> Range:
    """Return the range without the outermost ten-thousandth, half of it on each side."""
    part = np.cumsum(counts) / counts.sum()
    cut = (1 - PERCENTILE / 100) / 2
    edges = np.linspace(span.minimum, span.maximum, _BINS + 1)
    low = edges[int(np.searchsorted(part, cut, side="right"))]
    high = edges[min(_BINS, int(np.searchsorted(part, 1 - cut, side="left")) + 1)]
    # What is pressed against zero by a ReLU stays in: zero is always among the steps.
    return Range(minimum=float(min(low, high)), maximum=float(max(low, high)))


def _mse(counts: Floats, span: Range) -> Range:
    """Return the part of the range whose rounded values differ least, in the mean square."""
    centres = _centres(span)
    best, least = span, math.inf
    for part in np.linspace(1.0, 0.3, 71):
        low, high = min(0.0, part * span.minimum), max(0.0, part * span.maximum)
        step = (high - low) / 255 or 1.0
        zero = round(-128 - low / step)
        whole = np.clip(np.round(centres / step) + zero, -128, 127)
        error = float((counts * ((whole - zero) * step - centres) ** 2).sum())
        if error < least:
            best, least = Range(minimum=low, maximum=high), error
    return best


def _entropy(counts: Floats, span: Range) -> Range:
    """Return the range whose rounded distribution diverges least from the observed one."""
    top = max(abs(span.minimum), abs(span.maximum))
    if top == 0:
        return span
    levels = 128 if span.minimum < 0 else 255
    folded, _ = np.histogram(np.abs(_centres(span)), _BINS, (0.0, top), weights=counts)
    # The zeros that a ReLU makes are exact at any range: their peak must not decide.
    folded[0] = folded[1]
    best, least = _BINS, math.inf
    for width in range(levels, _BINS + 1, 16):
        divergence = _divergence(folded, width, levels)
        if divergence < least:
            best, least = width, divergence
    limit = top * best / _BINS
    return Range(minimum=max(span.minimum, -limit), maximum=min(span.maximum, limit))


def _divergence(counts: Floats, width: int, levels: int) -> float:
    """Return the Kullback-Leibler divergence of a histogram cut and laid into few levels."""
    inside = counts[:width]
    clipped = inside.copy()
    clipped[-1] += counts[width:].sum()
    level = np.minimum(np.arange(width) * levels // width, levels - 1)
    filled = inside > 0
    mass = np.bincount(level, inside, levels)
    share = np.bincount(level, filled, levels)
    spread_out = np.where(filled, (mass / np.maximum(share, 1))[level], 0.0)
    p, q = clipped / clipped.sum(), spread_out / max(spread_out.sum(), 1e-300)
    both = p > 0
    return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())


_SEARCHES: dict[Method, Callable[[Floats, Range], Range]] = {
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}


def logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return the first output of a network for images, batch by batch, on the CPU."""
    with torch.no_grad():
        parts = [tree_leaves(network(batch))[0] for batch in images.split(_BATCH)]
    return torch.cat(parts)
