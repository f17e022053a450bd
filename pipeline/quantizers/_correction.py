"""Bias correction: the mean error that rounded weights make, taken back in the bias."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.core.target import Granularity
from pipeline.graph.kinds import Layer, layer_of, layers, shape_of
from pipeline.quantizers._simulation import rounded_weight


class LayerShift(Record):
    """By how much the bias of one layer was moved.

    Attributes:
        largest: shift of a channel, in absolute value.
        mean: absolute shift over the channels.
        relative: root mean square of the shifts as a fraction of that of the layer's
            output, which is what the mean error was before.
    """

    layer: str
    channels: int
    largest: float
    mean: float
    relative: float


@dataclass(frozen=True)
class Corrected:
    """The network with its weights as they were and its biases moved, and by how much."""

    network: fx.GraphModule
    layers: list[LayerShift]


@torch.no_grad()
def correct_bias(
    network: fx.GraphModule, images: Tensor, granularity: Granularity
) -> Corrected:
    """Return a copy whose layers, with rounded weights, give the mean output of float ones.

    Layer by layer in the order of the graph: each sees what the layers before it, rounded
    and corrected, make of the images. The weights stay in float, to be rounded by whoever
    writes the file; as a float network the copy is less accurate than the argument, and for
    weights of another granularity the biases are wrong. What goes is the mean error; accuracy
    mostly follows, and has to be measured. A layer without a bias gets one; one that is called
    twice is left alone.

    Args:
        network: traced, with batch norms folded.
        images: of calibration, ``[n, c, h, w]``; all at once, for two copies of the network.
        granularity: of the weights in the file.

    Raises:
        PareError: there are no images, or an output is not finite.

    Source:
        Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction,
        ICCV 2019, arXiv:1906.04721, section 4.2 and appendix D (the empirical form).
    """
    if not len(images):
        raise PareError("bias correction: there are no images to estimate the error on.")
    own = copy.deepcopy(network)
    run = _Corrector(own, granularity)
    run.run(_Two(images, images))
    return Corrected(own, run.shifts)


@dataclass(frozen=True)
class _Two:
    """One value of the float network and of the rounded one."""

    plain: Any
    rounded: Any


class _Corrector(fx.Interpreter):
    """Runs a graph twice at once, with float and rounded weights; moves biases on its way."""

    def __init__(self, network: fx.GraphModule, granularity: Granularity) -> None:
        super().__init__(network)
        self.extra_traceback = False  # an error of ours says all the user needs
        self._network, self._granularity = network, granularity
        self._once = set(layers(network))
        self.shifts: list[LayerShift] = []

    def run_node(self, node: fx.Node) -> Any:
        """Run one node for both networks."""
        if node.op in ("placeholder", "get_attr"):
            return super().run_node(node)
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        layer = layer_of(self._network, node)
        if layer is not None:
            return self._layer(node, layer, args[0])
        act = getattr(self, node.op)
        made = [
            act(node.target, *tree_map(one, (args, kwargs), is_leaf=_is_two))
            for one in (_plain, _rounded)
        ]
        if node.op == "output":
            return made[1]
        # What is no tensor, such as a size, is the same for both.
        same = not any(isinstance(leaf, Tensor) for leaf in tree_leaves(made[0]))
        return made[0] if same else _Two(*made)

    def _layer(self, node: fx.Node, layer: Layer, value: Any) -> _Two:
        """Run a layer and its rounded form, and move its bias by the difference of means."""
        rounded = copy.deepcopy(layer)
        rounded.weight.copy_(rounded_weight(layer.weight, self._granularity))
        made = _Two(layer(_plain(value)), rounded(_rounded(value)))
        if str(node.target) not in self._once:
            return made
        axis = len(shape_of(node)) - 1 if isinstance(layer, nn.Linear) else 1
        shift = _mean(made.plain - made.rounded, axis)
        if not bool(torch.isfinite(shift).all()):
            raise PareError(
                f"bias correction: the output of layer {node.target!r} is not finite on the "
                "calibration images. Check the network's weights and the images."
            )
        before = torch.zeros_like(shift) if layer.bias is None else layer.bias
        layer.bias = nn.Parameter(before + shift)
        scale = float(made.plain.square().mean().sqrt())
        self.shifts.append(
            LayerShift(
                layer=str(node.target),
                channels=shift.numel(),
                largest=float(shift.abs().max()),
                mean=float(shift.abs().mean()),
                relative=float(shift.square().mean().sqrt()) / (scale or 1.0),
            )
        )
        along = [-1 if number == axis else 1 for number in range(made.plain.dim())]
        return _Two(made.plain, made.rounded + shift.view(along))


def _mean(values: Tensor, axis: int) -> Tensor:
    """Return the mean over all but one axis, ``[channels]``."""
    return values.transpose(0, axis).flatten(1).mean(1)


def _is_two(value: Any) -> bool:
    return isinstance(value, _Two)


def _plain(value: Any) -> Any:
    return value.plain if isinstance(value, _Two) else value


def _rounded(value: Any) -> Any:
    return value.rounded if isinstance(value, _Two) else value
