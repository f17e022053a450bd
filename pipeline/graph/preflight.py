"""Pre-flight lint: structures of a network that hurt an int8 file, each with its remedy.

Found before any file is made, so that a bad int8 accuracy is no surprise. What is *not*
reported: the padding of a max pool itself, also behind values that may be negative. It
counts as minus infinity, which is no number of the tensor: it widens no range, and the
kernels of both runtimes leave the border out instead of comparing with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from pipeline.core.record import Record
from pipeline.core.target import Granularity
from pipeline.graph.equalise import spread
from pipeline.graph.kinds import kind, layer_of, shape_of, tensors_read

Kind = Literal[
    "hard-swish",
    "silu",
    "squeeze-excite",
    "per-tensor-depthwise",
    "mixed-concat",
    "mixed-output",
    "padded-max-pool",
]

#: Ranges that differ by more leave the narrow one less than four of the eight bits.
MIXED = 16.0
#: Channel ranges of a depthwise weight that differ by more cost the narrowest over a bit.
UNEQUAL = 2.0

_GATES = frozenset(("sigmoid", "hardsigmoid"))
_BOUNDED = _GATES | {"softmax", "tanh"}
_MAX_POOLS = frozenset(("max_pool1d", "max_pool2d", "max_pool3d"))
_PADS = frozenset(("pad", "constant_pad1d", "constant_pad2d", "constant_pad3d"))
_CONCATS = frozenset(("cat", "concat", "concatenate"))
_MOVES = frozenset(
    ("flatten", "reshape", "view", "permute", "transpose", "identity", "dropout", "contiguous")
)


class Finding(Record):
    """One structure that costs accuracy in an int8 file.

    Attributes:
        kind: by which tests and reports know it.
        where: the layer, or the value in the graph.
        what: that was found there, a sentence with its figure where one was measured.
        remedy: what to do.
    """

    kind: Kind
    where: str
    what: str
    remedy: str


@torch.no_grad()
def lint(
    network: fx.GraphModule, granularity: Granularity, images: Tensor | None = None
) -> list[Finding]:
    """Return what in a network hurts int8, in the order of the graph.

    Args:
        network: traced, best with its batch norms folded: their scales are in the weights
            that an int8 file stores.
        granularity: of the weights in the file.
        images: ``[n, c, h, w]``, on which ranges are measured; without, values of unlike
            range are found only where the operations before them say so.

    Raises:
        PareError: the network was not traced by ``pipeline.graph.trace``.
    """
    ranges = _Ranges(network).of(images) if images is not None else {}
    found: list[Finding] = []
    for node in network.graph.nodes:
        shape_of(node)
        for look in _LOOKS:
            finding = look(network, node, ranges)
            if finding is not None:
                found.append(finding)
                break
        if granularity == "per-tensor" and (uneven := _depthwise(network, node)):
            found.append(uneven)
    return found


class _Ranges(fx.Interpreter):
    """Runs a graph and notes the largest magnitude of each channel of each value."""

    def of(self, images: Tensor) -> dict[fx.Node, Tensor]:
        """Return the largest magnitudes for ``images``, ``[channels]`` for each value."""
        self.seen: dict[fx.Node, Tensor] = {}
        for batch in images.split(32):
            self.run(batch)
        return self.seen

    def run_node(self, node: fx.Node) -> Any:
        """Run one node."""
        result = super().run_node(node)
        if isinstance(result, Tensor) and result.is_floating_point() and result.dim() > 1:
            largest = result.abs().transpose(0, 1).flatten(1).amax(1)
            before = self.seen.get(node, largest)
            # A value whose axis 1 is no channel axis may have another length each time.
            same = before.shape == largest.shape
            self.seen[node] = torch.maximum(before, largest) if same else largest
        return result


Ranges = dict[fx.Node, Tensor]


def _activation(network: fx.GraphModule, node: fx.Node, _: Ranges) -> Finding | None:
    """Find hard-swish and SiLU: modules, functions, and products that spell them out."""
    name = kind(network, node)
    if name == "mul":
        name = _product(network, node)
    if name == "hardswish":
        return Finding(
            kind="hard-swish",
            where=_place(node),
            what="hard-swish: a short negative tail and a long positive one share 256 steps, "
            "and runtimes without an integer kernel compute it in float between conversions.",
            remedy="Train with ReLU or ReLU6 in its place, or fine-tune with "
            "quantize.qat_epochs; time the int8 file against float32 before choosing it.",
        )
    if name == "silu":
        return Finding(
            kind="silu",
            where=_place(node),
            what="SiLU: its values below zero, down to -0.28, are rounded with the step of "
            "the largest positive value, and sigmoid and product are rounded one by one.",
            remedy="Train with ReLU or ReLU6 in its place, or fine-tune with "
            "quantize.qat_epochs.",
        )
    return None


def _product(network: fx.GraphModule, node: fx.Node) -> str:
    """Return the activation that a product ``x * f(x)`` spells out, or ``mul``."""
    if len(node.args) < 2:
        return "mul"
    for one, other in (node.args[:2], node.args[1::-1]):
        if not (isinstance(one, fx.Node) and isinstance(other, fx.Node)):
            continue
        gate = kind(network, other)
        if gate in _GATES and other.all_input_nodes == [one]:
            return "silu" if gate == "sigmoid" else "hardswish"
        if _is_hard_sigmoid(network, other, one):
            return "hardswish"
    return "mul"


def _is_hard_sigmoid(network: fx.GraphModule, node: fx.Node, of: fx.Node) -> bool:
    """Tell whether a value is ``relu6(x + 3)``, divided by six or not yet."""
    while kind(network, node) in ("mul", "div", "truediv") and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    if kind(network, node) not in ("relu6", "hardtanh", "clamp", "clip"):
        return False
    shifted = node.all_input_nodes[0]
    return kind(network, shifted) == "add" and shifted.all_input_nodes == [of]


def _gate(network: fx.GraphModule, node: fx.Node, _: Ranges) -> Finding | None:
    """Find a gate of one value a channel, computed from the pooled image."""
    factors = tensors_read(node)
    if kind(network, node) != "mul" or len(factors) != 2:
        return None
    for gate, gated in (factors, factors[::-1]):
        small, large = shape_of(gate), shape_of(gated)
        places = math.prod(small[2:]) < math.prod(large[2:])
        source = _moved(network, gate)
        if kind(network, source) in _BOUNDED and len(small) == len(large) and places:
            return Finding(
                kind="squeeze-excite",
                where=_place(source),
                what="a squeeze-and-excite gate: one rounded factor multiplies a whole "
                "channel, so that its error is the same at every place and does not average "
                "out.",
                remedy="Leave the gate's two layers in float (quantize.max_accuracy_drop "
                "finds out whether that is needed), or choose a network without gates.",
            )
    return None


def _moved(network: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Return the value of which a node holds the same numbers in another shape."""
    while kind(network, node) in _MOVES and tensors_read(node):
        node = tensors_read(node)[0]
    return node


def _padding(network: fx.GraphModule, node: fx.Node, _: Ranges) -> Finding | None:
    """Find a max pool whose border was padded with a constant that is not zero."""
    if kind(network, node) not in _MAX_POOLS or not node.all_input_nodes:
        return None
    source = node.all_input_nodes[0]
    value = _pad_value(network, source)
    if not value:
        return None
    return Finding(
        kind="padded-max-pool",
        where=_place(source),
        what=f"padding with {value:g} before a max pool: the constant becomes part of the "
        "tensor's range and takes the steps that its values need.",
        remedy="Use the max pool's own padding, which is left out of the maximum, or pad "
        "with zeros behind a ReLU.",
    )


def _pad_value(network: fx.GraphModule, node: fx.Node) -> float:
    """Return the constant that a node pads with; zero for other modes and other nodes."""
    if kind(network, node) not in _PADS:
        return 0.0
    if node.op == "call_module":
        return float(getattr(network.get_submodule(str(node.target)), "value", 0.0))
    given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | node.kwargs
    value = given.get("value")
    if isinstance(given.get("mode"), int | float):  # aten.constant_pad_nd(x, pad, value)
        value = given["mode"]
    return float(value) if isinstance(value, int | float) else 0.0


def _concat(network: fx.GraphModule, node: fx.Node, ranges: Ranges) -> Finding | None:
    """Find a concatenation of values whose ranges are far apart."""
    if kind(network, node) not in _CONCATS:
        return None
    parts = tensors_read(node)
    measured = [float(ranges[part].max()) for part in parts if part in ranges]
    if measured:
        unlike = spread(torch.tensor(measured)) > MIXED
        said = ", ".join(f"{part.name} to {_top(ranges, part)}" for part in parts)
    else:
        bounded = [kind(network, _moved(network, part)) in _BOUNDED for part in parts]
        unlike = any(bounded) and not all(bounded)
        said = ", ".join(
            f"{part.name} {'in [-1, 1]' if small else 'without bounds'}"
            for part, small in zip(parts, bounded, strict=True)
        )
    if not unlike:
        return None
    return Finding(
        kind="mixed-concat",
        where=_place(node),
        what=f"values of unlike range share one scale: {said}.",
        remedy="Give them out as outputs of their own, or bring them to one range before "
        "they are joined (boxes as a part of the image, scores as they are).",
    )


def _top(ranges: Ranges, node: fx.Node) -> str:
    return f"{float(ranges[node].max()):.3g}" if node in ranges else "?"


def _output(network: fx.GraphModule, node: fx.Node, ranges: Ranges) -> Finding | None:
    """Find an output of channels of two kinds; a concatenation says it itself."""
    if node.op != "output":
        return None
    for value in tree_leaves(node.args[0]):
        if not isinstance(value, fx.Node) or value not in ranges:
            continue
        if kind(network, _moved(network, value)) in _CONCATS:
            continue
        unlike = gap(ranges[value])
        if unlike > MIXED:
            return Finding(
                kind="mixed-output",
                where=_place(value),
                what="its channels fall into two groups, whose ranges lie a factor of "
                f"{unlike:.3g} apart and share one scale.",
                remedy="Split it into outputs of their own, or scale its channels to one "
                "range and undo that behind the file.",
            )
    return None


def gap(ranges: Tensor) -> float:
    """Return the largest factor between ranges that are neighbours in order of size.

    The logits of a classifier have all sorts of ranges, boxes and scores have two.

    >>> gap(torch.tensor([1.0, 640.0, 2.0, 320.0]))
    160.0
    """
    used = ranges[ranges > 0].sort().values
    return float((used[1:] / used[:-1]).max()) if used.numel() > 1 else 1.0


def _depthwise(network: fx.GraphModule, node: fx.Node) -> Finding | None:
    """Find a depthwise convolution whose channels are unequal."""
    layer = layer_of(network, node)
    if layer is None or isinstance(layer, nn.Linear):
        return None
    if not layer.groups == layer.in_channels > 1:
        return None
    unlike = spread(layer.weight.detach().abs().flatten(1).amax(1))
    if unlike <= UNEQUAL:
        return None
    return Finding(
        kind="per-tensor-depthwise",
        where=str(node.target),
        what="one scale for a depthwise weight whose channel ranges differ by a factor of "
        f"{unlike:.3g}: the narrowest keeps {max(0.0, 8 - math.log2(unlike)):.1f} of 8 bits.",
        remedy="Use per-channel weights if the target takes them, else "
        "quantize.equalise, and quantize.qat_epochs where that is not enough.",
    )


def _place(node: fx.Node) -> str:
    """Name a layer as the network does, and any other value as the graph does."""
    return str(node.target) if node.op == "call_module" else node.name


_LOOKS: tuple[Callable[[fx.GraphModule, fx.Node, Ranges], Finding | None], ...] = (
    _activation,
    _gate,
    _padding,
    _concat,
    _output,
)
