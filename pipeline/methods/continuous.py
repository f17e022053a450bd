"""Continuous sparsification: soft masks that harden within each round (Savarese 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.core.budget import Budget
from pipeline.core.record import Record
from pipeline.graph.counting import prunable_count
from pipeline.methods import (
    Method,
    Phase,
    attached,
    beside,
    magnitudes,
    plain,
    register,
    shares,
    snapshot,
    undecayed,
    with_masks,
)


class SoftMask(nn.Module):
    """Parametrization ``w sigma(beta s) / sigma(s_0)`` with a trained s for each weight."""

    beta: Tensor

    def __init__(self, start: Tensor, initial: float) -> None:
        super().__init__()
        self.s = nn.Parameter(start)
        self.register_buffer("beta", torch.ones(()))
        self.scale = 1 / torch.tensor(initial).sigmoid().item()

    def forward(self, weight: Tensor) -> Tensor:
        """Map latent to apparent weights, same shape."""
        return weight * (self.beta * self.s).sigmoid() * self.scale


class Continuous(Method):
    """Search a ticket in rounds of growing beta, then train it from its early weights.

    In each round beta grows from 1 to ``beta`` exponentially; between rounds s becomes
    ``min(beta s, s_0)``, so that what was removed stays hard to revive while what was kept
    starts anew. The ticket, the budget's number of largest s, is then trained from the
    weights of ``rewind_epochs`` into the first round.

    Source:
        Savarese, Silva & Maire, Winning the Lottery with Continuous Sparsification,
        NeurIPS 2020, arXiv:1912.04427. Deviations: the ticket takes the budget's number of
        weights instead of all with s > 0; every convolution and linear layer has a mask;
        beta is applied between rounds as the paper says (the public code resets it first);
        the common ones (``pipeline.methods``).
    """

    class Params(Record):
        """Options of the method table.

        Attributes:
            rounds: of the search; the ticket's training is one more share of the epochs.
            beta: at the end of each round.
            initial: value of s at the start; larger is denser.
            penalty: coefficient of the sum of the masks (the paper's lambda).
            rewind_epochs: epochs into the first round whose weights the ticket starts from.
        """

        rounds: int = Field(default=2, ge=1)
        beta: float = Field(default=200.0, gt=1)
        initial: float = 0.0
        penalty: float = Field(default=1e-8, ge=0)
        rewind_epochs: int = Field(default=1, ge=0)

    params: Params
    prunes: ClassVar[bool] = True

    def __init__(
        self, params: Record, budget: Budget, shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(params, budget, shape)
        self._early: dict[str, Tensor] = {}
        self._epochs = 0

    def phases(self, epochs: int) -> list[Phase]:
        """Share the epochs among the rounds and the ticket; the rest is the ticket's.

        >>> method = Continuous(Continuous.Params(rounds=2), Budget(weights=0.1))
        >>> [(phase.name, phase.epochs) for phase in method.phases(10)]
        [('round 0', 3), ('round 1', 3), ('ticket', 4)]
        """
        count = self.params.rounds
        names = [*(f"round {n}" for n in range(count)), "ticket"]
        lengths = shares(epochs, count + 1)
        return [Phase(name=n, epochs=e) for n, e in zip(names, lengths, strict=True)]

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Give each weight its s, carry s over to the next round, or set the ticket up."""
        if phase.name == "ticket":
            masks = self.masks(model)
            bare = plain(model)
            bare.load_state_dict(self._early)
            return with_masks(bare, masks)
        if phase.name != "round 0":
            return self._next_round(model)
        own = super().attach(model, phase)
        self._early = snapshot(own)
        initial = self.params.initial
        register(own, lambda w: SoftMask(torch.full_like(w, initial).detach(), initial))
        return own

    def _next_round(self, model: nn.Module) -> nn.Module:
        own = super().attach(model, Phase(name="copy", epochs=1))
        with torch.no_grad():
            for _, mask, _ in attached(own, SoftMask):
                mask.s.copy_((mask.beta * mask.s).clamp(max=self.params.initial))
                mask.beta.fill_(1.0)
        return own

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, object]]:
        """Train s at the same rate as the weights, without decay."""
        soft = [mask.s for _, mask, _ in attached(model, SoftMask)]
        rest = beside(model, soft, lr)
        return [rest, undecayed(soft, lr)] if soft else [rest]

    def loss(self, model: nn.Module, progress: float) -> Tensor | None:
        """Return the penalty on the sum of the masks."""
        del progress
        sums = [
            (mask.beta * mask.s).sigmoid().sum() for _, mask, _ in attached(model, SoftMask)
        ]
        return self.params.penalty * torch.stack(sums).sum() if sums else None

    def after_step(self, model: nn.Module, progress: float) -> None:
        """Let beta grow from 1 to its end within the round."""
        for _, mask, _ in attached(model, SoftMask):
            mask.beta.fill_(self.params.beta**progress)

    def after_epoch(self, model: nn.Module, progress: float) -> None:
        """Harden the masks at the end of a round; keep the early weights."""
        self.after_step(model, progress)
        self._epochs += 1
        if self._epochs == self.params.rewind_epochs:
            latent = {
                name: w.detach().cpu().clone() for name, _, w in attached(model, SoftMask)
            }
            self._early = {**snapshot(plain(model)), **latent}

    def cost(self, model: nn.Module) -> float | None:
        """Return the sum of the masks as a fraction of all weights, while they are soft."""
        sums = [(m.beta * m.s).sigmoid().sum().item() for _, m, _ in attached(model, SoftMask)]
        total = prunable_count(model)
        return sum(sums) / total if sums else None

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the weights of largest s, or what the ticket keeps: the budget's number."""
        soft = {name: mask for name, mask, _ in attached(model, SoftMask)}
        scores = magnitudes(model)
        if soft:
            scores = {name: soft[name].s.detach() for name in scores}
        return self.select(model, scores)

    def state(self) -> dict[str, Tensor]:
        """Return the early weights, and how many epochs were made."""
        return {**self._early, "continuous.epochs": torch.tensor(self._epochs)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self._early = {k: v for k, v in state.items() if k != "continuous.epochs"}
        self._epochs = int(state["continuous.epochs"])
