"""Weight reparametrization under a budget (Dupont, Sahbi & Michel 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.core.record import Record
from pipeline.graph.ranking import lamp, thresholds
from pipeline.methods import Method, Phase, attached, register
from pipeline.methods._channels import ByChannel
from pipeline.methods._gates import OPEN, Gate, half_way
from pipeline.methods._paper import Paper
from pipeline.methods._scheduled import Options, Scheduled


class Reparam(Scheduled):
    """Train apparent weights ``w h_t(w)`` under a budget; prune once, without fine-tuning.

    The pit is scheduled: in each layer its half-way point lies between the weights that the
    budget pays for at this point of the training and those it does not, on a cubic ramp from
    all to the budget's. At first weights are soft, so that what fell into the pit can come
    back; then the gates are a mask, the latent weights become the apparent ones, and
    the network that is trained on is the pruned one. Weights are ranked over all layers by
    LAMP scores, which no scale of a layer changes and which leave each layer its largest
    weight.

    Source:
        Dupont, Sahbi & Michel, Weight Reparametrization for Budget-Aware Network Pruning,
        ICIP 2021, arXiv:2107.03909. Deviations of the scheduled mode: t follows the budget
        on the ramp of Zhu & Gupta 2017 (arXiv:1710.01878) instead of a loss; hard masks
        before the end; LAMP scores (Lee et al., ICLR 2021, arXiv:2010.07611). ``mode =
        "paper"`` has the published gate and loss; not stated there and chosen here: the
        mixing coefficient and its ramp, the scope of t, the rate at which t is learnt, and
        the global rule by which weights are selected. In both, the common deviations
        (``pipeline.methods``).
    """

    class Params(Options):
        """Options of the method table.

        Attributes:
            mode: ``scheduled``, where the pit follows the budget; or ``paper``, where its
                width is trained under a budget loss.
            n: even exponent of the pit.
            granularity: scheduled: prune single weights, or whole channels together with all
                that is tied to them.
            soft: scheduled: fraction of the training after which the gates are a mask; by
                default 0.9 where a twentieth of the weights is kept and 0.5 for a hundredth,
                as the fewer are left, the longer they need alone; 0.6 for channels.
            end: scheduled: fraction of that time at which the budget is reached; by default
                0.9 where a tenth of the weights or more is kept and two thirds for a
                twentieth or less, for the same reason; all of it for channels.
            scale_free: scheduled: compare what no scale of a layer changes (LAMP scores of
                weights, norms of channels relative to their layer's); without, magnitudes.
            mixing: paper: coefficient lambda of the budget loss.
            ramp: paper: fraction of the training over which the coefficient grows linearly to
                its value; 0 applies it from the first step.
            t: paper: initial inverse width of the pit.
            scope: paper: one t for the network, or one per layer.
            learn_t: paper: train t by the optimizer (``t_lr_factor`` of its rate, no decay).
            t_lr_factor: paper: of the learning rate.
        """

    @classmethod
    def variant(cls, params: Record) -> type[Method]:
        """Return the class that obeys the options."""
        assert isinstance(params, Options)
        if params.mode == "paper":
            return Paper
        return ByChannel if params.granularity == "channel" else cls

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Register an open gate on the weight of every convolution and linear layer."""
        own = super().attach(model, phase)
        register(own, lambda weight: Gate(weight.detach(), self.params.n))
        return own

    def is_hard(self, model: nn.Module) -> bool:
        """Tell whether the gates are a mask already."""
        return all(gate.hard for _, gate, _ in attached(model, Gate))

    def widen(self, model: nn.Module, part: float) -> None:
        """Put each layer's half-way point between what is paid for and what is not."""
        sizes = {name: latent.abs() for name, _, latent in attached(model, Gate)}
        prices = self.prices(model)
        spend = part * prices.whole - prices.fixed
        borders = thresholds(sizes, prices.weight, spend, scale_free=self.params.scale_free)
        for name, gate, _ in attached(model, Gate):
            t = half_way(self.params.n) / borders[name]
            gate.t.copy_(torch.nan_to_num(t, posinf=OPEN).clamp(max=OPEN))

    def harden(self, model: nn.Module) -> None:
        """Mask what is not paid for, and let the latent weights be the apparent ones."""
        masks = self.masks(model)
        for name, gate, latent in attached(model, Gate):
            latent.mul_(gate.gates(latent))  # exact: deep in the pit it is small, not zero
            gate.mask.copy_(masks[name])
            gate.hard = True

    @torch.no_grad()
    def cost(self, model: nn.Module) -> float:
        """Return what the gates spend as a part of the whole network's cost."""
        prices = self.prices(model)
        gates = {name: gate.gates(latent) for name, gate, latent in attached(model, Gate)}
        return prices.cost(gates) / prices.whole

    @torch.no_grad()
    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the weights of largest score that the budget pays for; hard masks stay."""
        if self.is_hard(model):
            return {name: gate.mask.clone() for name, gate, _ in attached(model, Gate)}
        sizes = {name: latent.abs() for name, _, latent in attached(model, Gate)}
        return self.select(model, lamp(sizes) if self.params.scale_free else sizes)
