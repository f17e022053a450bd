"""Quantization-aware training: a compact network learns with int8's rounding in it.

The network arrives as the exporters take it: compacted, batch norms folded, in float. While
it trains, weights are rounded by a parametrization and values by modules in its graph, as
``pipeline.quantizers._simulation`` rounds them; gradients pass straight through. What comes
back is the same graph with other weights, each on the int8 grid of its layer, so that the
exporters' own rounding leaves them as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from pipeline.core.budget import Budget
from pipeline.core.epoch import Epoch
from pipeline.core.errors import PareError
from pipeline.core.recipe import TrainOptions
from pipeline.core.target import Granularity
from pipeline.core.target import Method as RangeMethod
from pipeline.data import Dataset
from pipeline.methods import Method, Phase, plain, register
from pipeline.quantizers._simulation import (
    Range,
    Rounding,
    instrumented,
    observe,
    rounded_weight,
    simulate,
    stored_values,
)
from pipeline.training.evaluation import accuracy
from pipeline.training.loop import Progress, train
from pipeline.training.processes import alone

#: Of the learning rate that the network was trained with (Wu et al. 2020, section 5.3).
LR_FACTOR = 0.01
#: Part of the training in which the ranges follow the values; then they are frozen.
MOVING = 0.5
#: Part of a range that each batch brings.
STEP = 0.01


@dataclass(frozen=True)
class Tuned:
    """What a quantization-aware training found, selected on the validation split.

    Attributes:
        network: the graph that was given, with the weights of the best epoch.
        history: of the epochs; their accuracy is that of simulated int8.
        best_epoch: its number; 0 where none was better than no training.
        before: accuracy on the validation split in simulated int8, before the training.
        after: the same of ``network``.
    """

    network: fx.GraphModule
    history: list[Epoch]
    best_epoch: int
    before: float
    after: float


def train_quantized(
    network: fx.GraphModule,
    data: Dataset,
    calibration: Tensor,
    options: TrainOptions,
    *,
    epochs: int,
    granularity: Granularity,
    seed: int,
    calibration_method: RangeMethod = "min-max",
    lr_factor: float = LR_FACTOR,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    teacher: nn.Module | None = None,
) -> Tuned:
    """Fine-tune a network for int8 and return the epoch that is best in simulated int8.

    Weights of convolutions and linear layers that are zero stay zero. Every epoch is assessed
    as it would ship: its weights rounded, its ranges taken anew from the calibration images.
    The same seed gives the same weights.

    Args:
        network: traced and compacted, batch norms folded (``fold_batch_norm``).
        data: its training split is trained on, its validation split selects.
        calibration: normalised images, float32 ``[n, c, h, w]``.
        options: of the loop that trained the network; rate and schedule are this one's own.
        epochs: of the fine-tuning.
        granularity: of the weights in the file.
        seed: of shuffling and augmentation.
        calibration_method: by which the file's ranges are found.
        lr_factor: of ``options.lr``, from which a cosine falls to zero.
        checkpoint: written after each epoch, and continued from if it exists.
        progress: called with epochs done, epochs in all, and a line of text.
        teacher: network to learn from beside the labels, such as the float one.

    Raises:
        PareError: no epochs, no calibration images, or a batch norm that is not folded.

    Source:
        Jacob et al., CVPR 2018, arXiv:1712.05877, section 3 (rounding in the forward pass,
        ranges by moving averages, batch norm folded); Wu et al. 2020, arXiv:2004.09602,
        section 5.3 (rate). Deviation: ranges start from calibration, so that none has to be
        waited for, and are frozen after half of the training.
    """
    _demand_trainable(network, epochs)
    own = copy.deepcopy(network)
    ranges = observe(own, calibration, calibration_method)
    before = accuracy(simulate(own, ranges, granularity), data.validation, data)
    names = [node.name for node in stored_values(own)]
    rounding = instrumented(own, names, lambda name: FollowedRange(ranges.values[name]))
    method = _Rounded(own, calibration, calibration_method, granularity)
    trained = train(
        rounding,
        method,
        data,
        _options(options, epochs, lr_factor),
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
        teacher=teacher,
    )
    best = trained.history[trained.best_epoch - 1].accuracy
    if best <= before:
        return Tuned(copy.deepcopy(network), trained.history, 0, before, before)
    tuned = _bare(network, trained.model)
    return Tuned(tuned, trained.history, trained.best_epoch, before, best)


def _demand_trainable(network: fx.GraphModule, epochs: int) -> None:
    if epochs < 1:
        raise PareError(f"quantize.qat_epochs = {epochs}: at least one epoch is needed.")
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    for name, module in network.named_modules():
        if isinstance(module, norms):
            raise PareError(
                f"quantization-aware training: batch norm {name!r} is not folded into a "
                "layer, and its statistics would change under the file. Fold the network "
                "with fold_batch_norm first; if it stays, since its layer has other "
                "readers, set quantize.qat_epochs = 0."
            )


def _options(options: TrainOptions, epochs: int, lr_factor: float) -> TrainOptions:
    """Return the loop's options for a short training at a low rate."""
    own = {
        "epochs": epochs,
        "lr": options.lr * lr_factor,
        "schedule": "cosine",
        "warmup_epochs": 0,
        "recalibration_batches": 0,
    }
    return alone(options).model_copy(update=own)


class FollowedRange(Rounding):
    """Rounds a value; while training, its range follows the batches until it is frozen."""

    step: Tensor

    def __init__(self, span: Range) -> None:
        super().__init__(span)
        # A buffer: a resumed training goes on from it, and no branch asks a GPU for it.
        self.register_buffer("step", torch.tensor(STEP))

    def forward(self, value: Tensor) -> Tensor:
        """Return the rounded value, of the same shape."""
        if self.training and value.is_floating_point():
            low, high = value.detach().float().aminmax()
            self.minimum.lerp_(low, self.step)
            self.maximum.lerp_(high, self.step)
        return super().forward(value)

    def freeze(self) -> None:
        """Let the range follow no longer."""
        self.step.zero_()


class RoundedWeight(nn.Module):
    """Parametrization that rounds a weight to int8 and holds its zeros."""

    mask: Tensor

    def __init__(self, weight: Tensor, granularity: Granularity) -> None:
        super().__init__()
        self._granularity: Granularity = granularity
        self.register_buffer("mask", weight.detach() != 0)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weight, of the same shape."""
        return rounded_weight(weight * self.mask, self._granularity)


class _Rounded(Method):
    """The method of this training: attached are the rounded weights of each layer."""

    def __init__(
        self,
        network: fx.GraphModule,
        calibration: Tensor,
        how: RangeMethod,
        granularity: Granularity,
    ) -> None:
        super().__init__(Method.Params(), Budget())
        self._network, self._images, self._how = network, calibration, how
        self._granularity: Granularity = granularity

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Return a copy whose weights are rounded wherever they are used."""
        rounded = super().attach(model, phase)
        register(rounded, lambda weight: RoundedWeight(weight, self._granularity))
        return rounded

    def after_step(self, model: nn.Module, progress: float) -> None:
        """Freeze the ranges after the first part of the training."""
        if progress >= MOVING:
            for module in _followed(model):
                module.freeze()

    def after_epoch(self, model: nn.Module, progress: float) -> None:
        """Take the ranges from calibration, as the file of this epoch's weights would."""
        del progress
        ranges = observe(_bare(self._network, plain(model)), self._images, self._how)
        for name, module in model.named_children():
            if isinstance(module, FollowedRange):
                span = ranges.values[name.removeprefix("int8_")]
                module.minimum.fill_(span.minimum)
                module.maximum.fill_(span.maximum)


def _followed(model: nn.Module) -> Sequence[FollowedRange]:
    return [module for module in model.modules() if isinstance(module, FollowedRange)]


def _bare(network: fx.GraphModule, trained: nn.Module) -> fx.GraphModule:
    """Return the graph without any rounding module, with the weights of the trained one."""
    bare = copy.deepcopy(network)
    state = trained.state_dict()
    bare.load_state_dict({name: state[name].cpu() for name in bare.state_dict()})
    return bare.eval()
