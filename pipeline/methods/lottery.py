"""Lottery tickets: rounds of training, pruning and rewinding (Frankle & Carbin 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.graph.counting import PRUNABLE
from pipeline.methods import (
    Method,
    Phase,
    magnitudes,
    plain,
    shares,
    snapshot,
    top_k_by_layer,
    with_masks,
)


class Lottery(Method):
    """Train, prune the smallest weights, set the rest back to where they began, repeat.

    After r of R prunings the fraction ``budget^(r / R)`` is kept, so that each round takes
    the same part of what is left; the recipe's epochs are shared by the R + 1 rounds.

    Source:
        Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019; rewinding to a later
        step: Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019,
        arXiv:1903.01611. Deviations: the rate follows from the budget and the number of
        rounds instead of 20 % a round; the epochs of one training are shared by the rounds
        instead of a whole training each; one threshold for the network by default (the
        paper prunes its small networks layer by layer, ``scope = "layer"``, and ResNet and
        VGG globally); the common ones (``pipeline.methods``).
    """

    class Params(Record):
        """Options of the method table.

        Attributes:
            rounds: prunings; 1 is one-shot.
            reset: where the weights that are left start again: ``init``, the weights at
                ``rewind_steps`` (``rewind``), newly drawn ones of the same distribution
                (``reinit``, the paper's control), or where they are (``continued``).
            rewind_steps: optimizer steps into the first round, for ``reset = "rewind"``.
            scope: one threshold for the network, or the same rate in every layer.
            output_rate_factor: of the rate of the last layer, with ``scope = "layer"``
                (the paper prunes it at half the rate).
            conv_rate_factor: of the rate of convolutions, with ``scope = "layer"`` (the
                paper prunes 10 % of Conv2's and Conv4's convolutions, 15 % of Conv6's, and
                20 % of their linear layers a round: 0.5 and 0.75).
        """

        rounds: int = Field(default=3, ge=1)
        reset: Literal["init", "rewind", "reinit", "continued"] = "init"
        rewind_steps: int = Field(default=100, ge=1)
        scope: Literal["global", "layer"] = "global"
        output_rate_factor: float = Field(default=1.0, ge=0, le=1)
        conv_rate_factor: float = Field(default=1.0, ge=0, le=1)

    params: Params
    starts_dense: ClassVar[bool] = True
    prunes: ClassVar[bool] = True

    def __init__(
        self, params: Record, budget: Budget, shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(params, budget, shape)
        self._start: dict[str, Tensor] = {}
        self._steps = 0

    def phases(self, epochs: int) -> list[Phase]:
        """Share the epochs among the rounds; what does not divide goes to the last.

        >>> method = Lottery(Lottery.Params(rounds=2), Budget(weights=0.1))
        >>> [(phase.name, phase.epochs) for phase in method.phases(10)]
        [('round 0', 3), ('round 1', 3), ('round 2', 4)]
        """
        lengths = shares(epochs, self.params.rounds + 1)
        return [Phase(name=f"round {n}", epochs=length) for n, length in enumerate(lengths)]

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Prune what the last round trained and set the rest back."""
        number = int(phase.name.removeprefix("round "))
        if number == 0:
            self._start = snapshot(model)
            return super().attach(model, phase)
        masks = self._masks_after(model, number)
        return with_masks(self._reset(model, number), masks)

    def after_step(self, model: nn.Module, progress: float) -> None:
        """Remember the weights to rewind to.

        Raises:
            PareError: at the second step, if the first round has fewer than are asked for.
        """
        if self._steps == 1 and self.params.reset == "rewind" and progress > 0:
            self._demand(round(1 / progress))
        self._steps += 1
        if self.params.reset == "rewind" and self._steps == self.params.rewind_steps:
            self._start = snapshot(plain(model))

    def _demand(self, steps: int) -> None:
        """Refuse to rewind to where the first round does not come."""
        if self.params.rewind_steps > steps:
            raise PareError(
                f"method.rewind_steps = {self.params.rewind_steps}, but the first round has "
                f"{steps} optimizer steps. Lower it, or train longer."
            )

    def after_epoch(self, model: nn.Module, progress: float) -> None:
        """Refuse a step that the first round, now over, did not have.

        Raises:
            PareError: names the step and the number of them.
        """
        del model
        if self.params.reset == "rewind" and progress >= 1:
            self._demand(self._steps)

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep what the last pruning keeps, exactly the budget's number."""
        return self._masks_after(model, self.params.rounds)

    def state(self) -> dict[str, Tensor]:
        """Return the weights to go back to, and how many steps were made."""
        return {**self._start, "lottery.steps": torch.tensor(self._steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self._start = {k: v for k, v in state.items() if k != "lottery.steps"}
        self._steps = int(state["lottery.steps"])

    def _masks_after(self, model: nn.Module, number: int) -> dict[str, Tensor]:
        """Return the masks after ``number`` prunings; none revives what is zero."""
        scores, own = magnitudes(model), self.params
        part = self.budget.weights ** (number / own.rounds)
        if own.scope == "global":
            return self.select(model, scores, part)
        masks = top_k_by_layer(
            scores, self.at_least(model, part), own.output_rate_factor, own.conv_rate_factor
        )
        return self.guarded(model, masks, scores)

    def _reset(self, model: nn.Module, number: int) -> nn.Module:
        bare = plain(model)
        if self.params.reset == "continued":
            return bare
        if self.params.reset == "reinit":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(number)
                for module in bare.modules():
                    if isinstance(module, (*PRUNABLE, nn.BatchNorm1d, nn.BatchNorm2d)):
                        module.reset_parameters()
            return bare
        bare.load_state_dict(self._start)
        return bare
