"""One counting function for the training loss, the pruner, the compactor and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.graph.plan import CutPlan, LayerCut

PRUNABLE = (nn.Conv2d, nn.Linear)


class LayerCount(Record):
    """What one convolution or linear layer holds and costs for one image.

    Attributes:
        weights: elements of the weight tensor.
        kept: non-zero elements, or those of the mask where one is given.
        macs: multiply-accumulates of the dense layer.
        kept_macs: multiply-accumulates through kept weights only.
        outputs: channels or features that the layer makes.
        groups: of a convolution.
    """

    name: str
    kind: str
    weights: int
    kept: int
    macs: int
    kept_macs: int
    outputs: int
    groups: int = 1


class Count(Record):
    """The layers of a network and their sums."""

    layers: list[LayerCount]
    parameters: int

    @property
    def weights(self) -> int:
        """Prunable weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def kept(self) -> int:
        """Prunable weights that are kept."""
        return sum(layer.kept for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense layers for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def kept_macs(self) -> int:
        """Multiply-accumulates through kept weights for one image."""
        return sum(layer.kept_macs for layer in self.layers)


def predict(before: Count, plan: CutPlan) -> dict[str, int]:
    """Return the weights each layer will have when a plan has been carried out."""
    found = {}
    for layer in before.layers:
        cut = plan.layers.get(layer.name)
        found[layer.name] = layer.weights if cut is None else _left(layer, cut)
    return found


def _left(layer: LayerCount, cut: LayerCut) -> int:
    """Return the weights between kept inputs and outputs of the same group."""
    outputs, inputs = (
        Counter(index // (width // layer.groups) for index in kept)
        for kept, width in (
            (cut.kept_outputs, cut.outputs_before),
            (cut.kept_inputs, cut.inputs_before),
        )
    )
    kernels = (
        layer.groups
        * (cut.outputs_before // layer.groups)
        * (cut.inputs_before // layer.groups)
    )
    joined = sum(outputs[part] * inputs[part] for part in range(layer.groups))
    return layer.weights // kernels * joined


def demand_predicted(before: Count, after: Count, plan: CutPlan) -> None:
    """Refuse a compaction that did not do what its plan says.

    Raises:
        PareError: names the first layer whose weights are not those that were planned.
    """
    expected = predict(before, plan)
    for layer in after.layers:
        # A functional call is counted only where it has become a layer.
        if layer.weights != expected.get(layer.name, layer.weights):
            raise PareError(
                f"layer {layer.name!r} has {layer.weights} weights after compaction, planned "
                f"were {expected[layer.name]}. Nothing was replaced; please report this "
                "network."
            )


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights a budget counts, by parameter name: convolutions and linear layers.

    A weight that two layers share is one weight, under its first name.

    >>> sorted(prunable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))))
    ['0.weight']
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, PRUNABLE):
            key = id(_latent(module))
            if key not in seen:
                found[f"{name}.weight" if name else "weight"] = module.weight
                seen.add(key)
    return found


def prunable_count(model: nn.Module) -> int:
    """Return how many weights a budget counts, without computing apparent weights.

    >>> prunable_count(nn.Linear(3, 2))
    6
    """
    latent = {
        id(weight): weight.numel()
        for module in model.modules()
        if isinstance(module, PRUNABLE) and isinstance(weight := _latent(module), Tensor)
    }
    return sum(latent.values())


def _latent(module: nn.Module) -> object:
    """Return the parameter behind a weight, which may be parametrized."""
    if parametrize.is_parametrized(module, "weight"):
        return module.parametrizations.weight.original  # type: ignore[union-attr]  # set by torch
    return module.weight


@torch.no_grad()
def count(
    model: nn.Module, shape: tuple[int, ...], masks: Mapping[str, Tensor] | None = None
) -> Count:
    """Count weights and multiply-accumulates of a network by running one blank image.

    Args:
        model: any network; left as it was.
        shape: of one input image, ``(c, h, w)``.
        masks: what counts as kept, by parameter name; without, what is not zero.
    """
    positions = output_positions(model, shape)
    layers = []
    owners = {name.removesuffix("weight").removesuffix(".") for name in prunable(model)}
    for name, module in model.named_modules():
        if not isinstance(module, PRUNABLE) or name not in positions or name not in owners:
            continue
        weight = module.weight
        mask = (masks or {}).get(f"{name}.weight")
        kept = int((weight != 0).sum() if mask is None else mask.sum())
        layers.append(
            LayerCount(
                name=name,
                kind=type(module).__name__.removeprefix("Parametrized"),
                weights=weight.numel(),
                kept=kept,
                macs=weight.numel() * positions[name],
                kept_macs=kept * positions[name],
                outputs=weight.shape[0],
                groups=getattr(module, "groups", 1),
            )
        )
    return Count(layers=layers, parameters=sum(p.numel() for p in model.parameters()))


def output_positions(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Return how often each layer's weights are used for one image."""
    found: dict[str, int] = {}

    def note(name: str) -> object:
        def hook(module: nn.Module, _inputs: object, output: Tensor) -> None:
            width = output.shape[-1] if isinstance(module, nn.Linear) else output.shape[1]
            found[name] = found.get(name, 0) + output[0].numel() // width

        return hook

    handles = [
        module.register_forward_hook(note(name))  # type: ignore[arg-type]  # a plain hook
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE)
    ]
    training = model.training
    first = next(model.parameters())
    try:
        model.eval()(torch.zeros(1, *shape, dtype=first.dtype, device=first.device))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found
