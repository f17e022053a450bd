"""What the scheduled forms of the reparametrization share: options, ramp, hard masks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.core.budget import UNITS, Budget, Unit
from pipeline.core.record import Record
from pipeline.methods import Method, cubic_ramp

_UPDATES = 100  # of the gates in a training
_OF_MODE = {
    "scheduled": ("granularity", "soft", "end", "scale_free"),
    "paper": ("mixing", "ramp", "t", "scope", "learn_t", "t_lr_factor"),
}


class Options(Record):
    """Options of ``reparam``, where they are described."""

    mode: Literal["scheduled", "paper"] = "scheduled"
    n: int = Field(default=4, ge=2, multiple_of=2)
    granularity: Literal["weight", "channel"] = "weight"
    soft: float | None = Field(default=None, gt=0, le=1)
    end: float | None = Field(default=None, gt=0, le=1)
    scale_free: bool = True
    mixing: float = Field(default=1.0, ge=0)
    ramp: float = Field(default=0.0, ge=0, le=1)
    t: float = Field(default=100.0, gt=0)
    scope: Literal["global", "layer"] = "global"
    learn_t: bool = True
    t_lr_factor: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _are_of_the_mode(self) -> Options:
        """Refuse what would be ignored."""
        other = "scheduled" if self.mode == "paper" else "paper"
        for name in _OF_MODE[other]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is an option of mode = {other!r}, not {self.mode!r}")
        return self


class Scheduled(Method, ABC):
    """Soft gates that follow the budget on a ramp, and hard ones towards the end."""

    params: Options
    prunes: ClassVar[bool] = True
    units: ClassVar[frozenset[Unit]] = UNITS

    def __init__(
        self, params: Record, budget: Budget, shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(params, budget, shape)
        self._update = -1

    @abstractmethod
    def widen(self, model: nn.Module, part: float) -> None:
        """Let the gates spend a part of the network's whole cost."""

    @abstractmethod
    def harden(self, model: nn.Module) -> None:
        """Make the gates a mask of what the budget pays for."""

    @abstractmethod
    def is_hard(self, model: nn.Module) -> bool:
        """Tell whether the gates are a mask already."""

    def prunes_now(
        self, model: nn.Module, progress: float, *, epoch_ends: bool = False
    ) -> bool:
        """Tell whether the gates are about to become masks."""
        del epoch_ends
        return progress >= self.soft(self.part(model)) and not self.is_hard(model)

    @torch.no_grad()
    def after_step(self, model: nn.Module, progress: float) -> None:
        """Let the gates follow the budget, and make them masks when it is time.

        They move a hundred times in a training, however long: a ranking of all weights
        costs more than a step of a small network.
        """
        if self.prunes_now(model, progress):
            self.harden(model)
        elif int(progress * _UPDATES) != self._update and not self.is_hard(model):
            self._update = int(progress * _UPDATES)
            self.widen(model, self.left(progress, self.part(model)))

    def after_epoch(self, model: nn.Module, progress: float) -> None:
        """Let the gates be where the next epoch begins, so that all of its steps agree."""
        self.after_step(model, progress)

    def soft(self, final: float) -> float:
        """Return the fraction of the training after which the gates are a mask.

        >>> from pipeline.methods.reparam import Reparam
        >>> method = Reparam(Options(), Budget())
        >>> [round(method.soft(part), 2) for part in (1.0, 0.05, 0.02, 0.01, 0.001)]
        [0.9, 0.9, 0.67, 0.5, 0.5]
        """
        return self.default_soft(final) if self.params.soft is None else self.params.soft

    def default_soft(self, final: float) -> float:
        """Return that fraction where no option says it: the less is left, the smaller."""
        return min(0.9, max(0.5, 0.5 + 0.4 * math.log(final / 0.01, 5)))

    def end(self, final: float) -> float:
        """Return the fraction of the soft time at which the budget is reached.

        >>> from pipeline.methods.reparam import Reparam
        >>> method = Reparam(Options(), Budget())
        >>> [round(method.end(part), 2) for part in (1.0, 0.1, 0.07, 0.05, 0.01)]
        [0.9, 0.9, 0.78, 0.67, 0.67]
        """
        return self.default_end(final) if self.params.end is None else self.params.end

    def default_end(self, final: float) -> float:
        """Return that fraction where no option says it: the less is left, the smaller."""
        return min(0.9, max(2 / 3, 2 / 3 + 0.7 / 3 * math.log2(final / 0.05)))

    def left(self, progress: float, final: float) -> float:
        """Return the part of the network that the cubic ramp leaves (Zhu & Gupta 2017).

        >>> from pipeline.methods.reparam import Reparam
        >>> method = Reparam(Options(soft=0.5, end=1.0), Budget())
        >>> [round(method.left(p, 0.1), 3) for p in (0.0, 0.25, 0.5, 0.75)]
        [1.0, 0.213, 0.1, 0.1]
        """
        return cubic_ramp(progress / (self.end(final) * self.soft(final)), final)

    def state(self) -> dict[str, Tensor]:
        """Return when the gates last moved."""
        return {"reparam.update": torch.tensor(self._update)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take it back."""
        self._update = int(state["reparam.update"])
