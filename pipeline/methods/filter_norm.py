"""Removal of whole filters of smallest norm, with or without retraining (Li et al. 2017)."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError, unknown
from pipeline.core.record import Record
from pipeline.graph.groups import ChannelGroup, channel_groups, group_masks
from pipeline.methods import FixedMask, Method, Phase, apparent, attached, plain, with_masks
from pipeline.methods.magnitude import demand_epochs, finetuning, round_of

Rate = Annotated[float, Field(ge=0, lt=1)]


class FilterNorm(Method):
    """Train, remove the filters of smallest norm in each layer, then train what is left.

    A filter leaves with its channel: the filters tied to it, and the kernels of the next
    layers that read it. Of n filters ``ceil(rate * n)`` leave, at least one stays. Without
    ``rate`` and ``rates``, the rate is the smallest, the same for all layers, whose network
    fits the budget; less than the budget may be kept then, never more.

    Source:
        Li, Kadav, Durdanovic, Samet & Graf, Pruning Filters for Efficient ConvNets, ICLR
        2017, arXiv:1608.08710, section 3; the rounding up is what table 1's ResNet-56 needs.
        Deviation: retraining has the recipe's schedule times a factor instead of a constant
        learning rate, and selects its epoch on the validation split, not on the test set.
        One rate for all layers that follows from the budget is ours, and so are widths in
        multiples. The common deviations (``pipeline.methods``), less the guard, which it
        does not need.
    """

    class Params(Record):
        """Options of the method table.

        Layers are named as in the network; a name stands for all that is inside it too
        (``blocks.3``), and may hold wildcards (``blocks.[0-8].conv1``).

        Attributes:
            norm: sum of magnitudes, or of squares.
            selection: the norm of the whole filter, or (``greedy``) without the kernels
                whose channels earlier layers lost.
            rate: fraction of the filters that leaves in each layer; by default the one that
                the budget demands, or none where ``rates`` are given.
            rates: the same for the layers named; where several match, the last one counts.
            skip: layers that lose no filter.
            residual: how layers that are added up are pruned: by the norms of the 1x1
                ``projection`` shortcut, as the paper's ResNet-34; or not at all, so that
                only the ``first`` convolution of a block is. Sums without a projection are
                never pruned.
            rounds: parts in which the layers are pruned, from the first to the last, each
                with retraining behind it; 1 is the paper's prune once and retrain.
            finetune_epochs: epochs after the pruning, on top of ``train.epochs``; 0 for none.
                They are shared by the rounds; what does not divide goes to the last.
            finetune_lr_factor: of the recipe's learning rate in that phase.
        """

        norm: Literal["l1", "l2"] = "l1"
        selection: Literal["independent", "greedy"] = "independent"
        rate: Rate | None = None
        rates: dict[str, Rate] = Field(default_factory=dict)
        skip: list[str] = Field(default_factory=list)
        residual: Literal["projection", "first"] = "projection"
        rounds: int = Field(default=1, ge=1)
        finetune_epochs: int = Field(default=0, ge=0)
        finetune_lr_factor: float = Field(default=0.2, gt=0)

        @model_validator(mode="after")
        def _every_round_trains(self) -> FilterNorm.Params:
            demand_epochs(self.rounds, self.finetune_epochs)
            return self

    params: Params
    starts_dense: ClassVar[bool] = True
    prunes: ClassVar[bool] = True
    chooses_rate: ClassVar[bool] = True
    whole_channels: ClassVar[bool] = True

    def __init__(
        self, params: Record, budget: Budget, shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(params, budget, shape)
        self._layers: list[_Layer] = []
        self._round = 0

    def phases(self, epochs: int) -> list[Phase]:
        """Train densely, then fine-tune if asked to."""
        own = self.params
        after = finetuning(own.rounds, own.finetune_epochs, own.finetune_lr_factor)
        return super().phases(epochs) + after

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Hold the masks in the fine-tuning phases; refuse what cannot be kept beforehand."""
        self._round = round_of(phase)
        removed = self._removed(model)
        if not self._round:
            return super().attach(model, phase)
        done = len(removed) * self._round // self.params.rounds
        leaving = [group for groups in removed[:done] for group in groups]
        return with_masks(model, group_masks(leaving, apparent(model)))

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the filters of largest norm of each layer, and what belongs to them."""
        if self._round == self.params.rounds:
            return {name: fixed.mask.clone() for name, fixed, _ in attached(model, FixedMask)}
        removed = [group for groups in self._removed(model) for group in groups]
        return group_masks(removed, apparent(model))

    def _removed(self, model: nn.Module) -> list[list[ChannelGroup]]:
        """Return what each layer loses.

        Raises:
            PareError: an option names what is not there, or the budget is exceeded.
        """
        if not self._layers:
            self._layers = self._find_layers(model)
        weights = apparent(model)
        kernels = {
            layer.leader: weights[layer.leader].double().cpu() for layer in self._layers
        }
        rates = [self.params.rate or 0.0]
        free = [layer for layer in self._layers if self._own_rate(layer) is None]
        if self.params.rate is None and not self.params.rates:
            rates = _rates(free)

        def choose(rate: float) -> list[list[ChannelGroup]]:
            return self._choose(kernels, rate)

        def kept(rate: float) -> int:
            removed = [group for groups in choose(rate) for group in groups]
            return sum(int(m.sum()) for m in group_masks(removed, weights).values())

        limit = self.kept(model)
        place = bisect.bisect_left(rates, True, key=lambda rate: kept(rate) <= limit)
        if place == len(rates):
            raise self._excess(kept(rates[-1]), limit, model)
        return choose(rates[place])

    def _choose(self, kernels: Mapping[str, Tensor], rate: float) -> list[list[ChannelGroup]]:
        """Return the groups of smallest norm of each layer, in the order of the layers."""
        lost: dict[str, list[Tensor]] = defaultdict(list)
        removed = []
        for layer in self._layers:
            kernel = kernels[layer.leader]
            if self.params.selection == "greedy" and layer.leader in lost:
                kernel = kernel.index_fill(1, torch.cat(lost[layer.leader]), 0)
            own = self._own_rate(layer)
            whole = len(layer.groups)
            count = _count(rate if own is None else own, whole, self.budget.multiple)
            order = layer.scores(filter_norms(kernel, self.params.norm)).argsort(stable=True)
            leaving = [layer.groups[i] for i in order[:count].tolist()]
            for group in leaving:
                for name, columns in group.reads.items():
                    lost[name].append(columns)
            removed.append(leaving)
        return removed

    def _own_rate(self, layer: _Layer) -> float | None:
        matching = [rate for name, rate in self.params.rates.items() if layer.is_in(name)]
        return matching[-1] if matching else None

    def _find_layers(self, model: nn.Module) -> list[_Layer]:
        """Return the layers that may lose filters, in the order of the forward pass.

        Raises:
            PareError: there is none, fewer than rounds, or an option names none of them.
        """
        if self.shape is None:
            raise PareError(
                "method 'filter_norm' looks at the network's graph and needs the shape of "
                "one image: pipeline.methods.create(choice, budget, shape)."
            )
        own, bare = self.params, plain(model)
        known = [weight.removesuffix(".weight") for weight in apparent(bare)]
        for name in (*own.skip, *own.rates):
            if not any(_matches(layer, name) for layer in known):
                raise unknown("layer", name, known)
        found = _layers(bare, channel_groups(bare, self.shape), own.residual)
        layers = [layer for layer in found if not any(layer.holds(name) for name in own.skip)]
        if not found:
            raise PareError(
                "method 'filter_norm': no convolution of this network can lose a filter. "
                "Choose another method."
            )
        if len(layers) < own.rounds:
            raise PareError(
                f"method.rounds = {own.rounds}, but the network has {len(layers)} layers "
                "whose filters can be removed. Ask for fewer rounds, skip less, or choose "
                "another method."
            )
        for name in own.rates:
            if not any(layer.is_in(name) for layer in found):
                raise PareError(
                    f"method.rates names {name!r}, which holds no layer whose filters can be "
                    f"removed. Those are: {', '.join(layer.name for layer in found)}."
                )
        return layers

    def _excess(self, kept: int, limit: int, model: nn.Module) -> PareError:
        own = self.params
        by_budget = own.rate is None and not own.rates
        how = "one filter left in each layer" if by_budget else "the given rates"
        total = sum(weight.numel() for weight in apparent(model).values())
        return PareError(
            f"{how} keeps {kept} of {total} weights ({kept / total:.2%}), over the {limit} "
            f"of budget.weights = {self.budget.weights}. Ask for at least "
            f"{math.ceil(1e4 * kept / total) / 1e4:.4f}"
            + (", or skip fewer layers." if by_budget else ", or raise the rates.")
        )


@dataclass(frozen=True, eq=False)
class _Layer:
    """A convolution whose filters may leave, and what leaves with each of them."""

    leader: str
    groups: list[ChannelGroup]

    @property
    def name(self) -> str:
        return self.leader.removesuffix(".weight")

    def is_in(self, name: str) -> bool:
        """Tell whether a name in the options means this layer."""
        return _matches(self.name, name)

    def holds(self, name: str) -> bool:
        """Tell whether a name means one of the layers that lose filters with this one."""
        written = {weight for group in self.groups for weight in group.writes}
        return any(_matches(weight.removesuffix(".weight"), name) for weight in written)

    def scores(self, norms: Tensor) -> Tensor:
        """Return the norm of each group, ``[groups]``, of those of the filters ``[out]``."""
        return torch.stack([norms[group.writes[self.leader]].sum() for group in self.groups])


def filter_norms(kernel: Tensor, norm: str) -> Tensor:
    """Return the norm of each filter of ``[out, in, kh, kw]``.

    >>> filter_norms(torch.tensor([[[[3.0, -4.0]]]]), "l1").tolist()
    [7.0]
    >>> filter_norms(torch.tensor([[[[3.0, -4.0]]]]), "l2").tolist()
    [5.0]
    """
    flat = kernel.flatten(1)
    return flat.abs().sum(1) if norm == "l1" else flat.square().sum(1).sqrt()


def _matches(layer: str, name: str) -> bool:
    return layer == name or layer.startswith(f"{name}.") or fnmatchcase(layer, name)


def _count(rate: float, filters: int, multiple: int) -> int:
    """Return how many of the filters leave; the tiny term keeps a tenth of 30 at 3.

    >>> _count(0.5, 30, multiple=1), _count(0.5, 30, multiple=8), _count(0.0, 30, multiple=8)
    (15, 14, 0)
    """
    kept = filters - min(filters - 1, math.ceil(rate * filters - 1e-9))
    return filters - min(filters, -(-kept // multiple) * multiple)


def _rates(layers: Sequence[_Layer]) -> list[float]:
    """Return every rate at which one of the layers loses one filter more, ascending."""
    sizes = {len(layer.groups) for layer in layers}
    return sorted({count / size for size in sizes for count in range(size)} | {0.0})


def _layers(model: nn.Module, groups: Sequence[ChannelGroup], residual: str) -> list[_Layer]:
    """Gather the groups whose filters are ranked by the same convolution."""
    shared = {name for group in groups if len(group.reads) > 1 for name in group.reads}
    found: dict[str, list[ChannelGroup]] = {}
    for group in groups:
        makers = [name for name in group.writes if _is_dense(model, name)]
        leaders = makers
        if len(makers) > 1:
            # The last convolution of a bottleneck is 1x1 too, but nobody else reads its input.
            leaders = [name for name in makers if name in shared and _is_1x1(model, name)]
            leaders = leaders if residual == "projection" else []
        if leaders and isinstance(_owner(model, leaders[0]), nn.Conv2d):
            found.setdefault(leaders[0], []).append(group)
    return [_Layer(leader, members) for leader, members in found.items()]


def _owner(model: nn.Module, weight: str) -> nn.Module:
    return model.get_submodule(weight.removesuffix(".weight"))


def _is_dense(model: nn.Module, weight: str) -> bool:
    """Tell whether a layer makes channels of its own; a depthwise one passes them on."""
    owner = _owner(model, weight)
    return not isinstance(owner, nn.Conv2d) or owner.groups == 1


def _is_1x1(model: nn.Module, weight: str) -> bool:
    return model.get_parameter(weight).shape[2:] == (1, 1)
