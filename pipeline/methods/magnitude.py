"""Magnitude pruning after training, with or without fine-tuning (Han et al. 2015)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.core.budget import UNITS, Budget, Unit
from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.methods import Method, Phase, magnitudes, shares, top_k_by_layer, with_masks


class Magnitude(Method):
    """Train, keep the largest weights of all layers together, then train what is left.

    With several rounds the fraction ``budget^(r / rounds)`` is kept after r of them, so that
    each takes the same part of what is left, and each is followed by its share of the
    fine-tuning.

    Source:
        Han, Pool, Tran & Dally, Learning both Weights and Connections, NeurIPS 2015.
        Deviations: exactly the budget's number of weights instead of a threshold of so many
        standard deviations in each layer; one threshold for all layers, in one shot, unless
        ``scope`` and ``rounds`` say otherwise; the common ones (``pipeline.methods``).
    """

    class Params(Record):
        """Options of the method table.

        Attributes:
            finetune_epochs: epochs after the pruning, on top of ``train.epochs``; 0 for none.
                They are shared by the rounds; what does not divide goes to the last.
            finetune_lr_factor: of the recipe's learning rate in that phase.
            rounds: prunings, each with fine-tuning behind it; 1 is one-shot.
            scope: one threshold for the network, or the same rate in every layer.
        """

        finetune_epochs: int = Field(default=0, ge=0)
        finetune_lr_factor: float = Field(default=0.2, gt=0)
        rounds: int = Field(default=1, ge=1)
        scope: Literal["global", "layer"] = "global"

        @model_validator(mode="after")
        def _every_round_trains(self) -> Magnitude.Params:
            demand_epochs(self.rounds, self.finetune_epochs)
            return self

    params: Params
    starts_dense: ClassVar[bool] = True
    prunes: ClassVar[bool] = True
    units: ClassVar[frozenset[Unit]] = UNITS

    def __init__(
        self, params: Record, budget: Budget, shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(params, budget, shape)
        if self.params.scope == "layer" and budget.unit != "weights":
            raise PareError(
                f"method 'magnitude': scope = 'layer' gives every layer the same part of its "
                f"weights, whatever budget.{budget.unit} they cost. Set scope = 'global' or "
                "budget.weights."
            )

    def phases(self, epochs: int) -> list[Phase]:
        """Train densely, then fine-tune if asked to."""
        own = self.params
        after = finetuning(own.rounds, own.finetune_epochs, own.finetune_lr_factor)
        return super().phases(epochs) + after

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Prune, and hold the masks in the fine-tuning phases."""
        number = round_of(phase)
        if number:
            return with_masks(model, self._masks_after(model, number))
        return super().attach(model, phase)

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the weights of largest magnitude, exactly as many as the budget pays for."""
        return self._masks_after(model, self.params.rounds)

    def _masks_after(self, model: nn.Module, number: int) -> dict[str, Tensor]:
        """Return the masks after ``number`` prunings; none revives what is zero."""
        scores = magnitudes(model)
        part = self.part(model) ** (number / self.params.rounds)
        if self.params.scope == "global":
            return self.select(model, scores, part)
        masks = top_k_by_layer(scores, self.at_least(model, part))
        return self.guarded(model, masks, scores)


def demand_epochs(rounds: int, epochs: int) -> None:
    """Refuse rounds of pruning that no fine-tuning would tell apart.

    Raises:
        ValueError: there are several rounds, and fewer epochs than rounds.
    """
    if rounds > 1 and epochs < rounds:
        raise ValueError(
            f"rounds = {rounds} needs finetune_epochs of at least {rounds}, one epoch after "
            f"each pruning, not {epochs}"
        )


def finetuning(rounds: int, epochs: int, lr_factor: float) -> list[Phase]:
    """Share epochs among the rounds of pruning; what does not divide goes to the last.

    >>> [(phase.name, phase.epochs) for phase in finetuning(3, 8, 0.1)]
    [('finetune 1', 2), ('finetune 2', 2), ('finetune 3', 4)]
    """
    if not epochs:
        return []
    if rounds == 1:
        return [Phase(name="finetune", epochs=epochs, lr_factor=lr_factor)]
    return [
        Phase(name=f"finetune {n}", epochs=length, lr_factor=lr_factor)
        for n, length in enumerate(shares(epochs, rounds), start=1)
    ]


def round_of(phase: Phase) -> int:
    """Return the round of pruning a phase of ``finetuning`` begins with; 0 for others.

    >>> [round_of(Phase(name=n, epochs=1)) for n in ("train", "finetune", "finetune 12")]
    [0, 1, 12]
    """
    kind, _, number = phase.name.partition(" ")
    return int(number or 1) if kind == "finetune" else 0
