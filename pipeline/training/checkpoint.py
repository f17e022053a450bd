"""What a training leaves after each epoch, so that a killed one goes on from there."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.epoch import Epoch
from pipeline.core.errors import PareError


@dataclass(frozen=True)
class Best:
    """The most accurate network so far: its score, epoch, plain weights and masks."""

    score: float
    epoch: int
    state: dict[str, Tensor]
    masks: dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Everything the loop needs to go on as if it had never stopped."""

    phase: int
    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    method: dict[str, Tensor]
    history: list[Epoch]
    best: Best
    reference: Best

    def save(self, path: Path) -> None:
        """Write the checkpoint in full or not at all."""
        scratch = path.with_suffix(".partial")
        content = {
            **self.__dict__,
            "history": [epoch.model_dump() for epoch in self.history],
            "best": dict(self.best.__dict__),
            "reference": dict(self.reference.__dict__),
        }
        # Serialised in memory first: a full disk is then an OSError, whatever torch makes
        # of it, and never a file that ends in the middle.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        scratch.write_bytes(buffer.getbuffer())
        scratch.replace(path)

    def leave(self, path: Path) -> None:
        """Write it where other processes may write and read the same, unless it is there."""
        if not path.exists():
            own = path.with_name(f"{path.stem}.{os.getpid()}.pt")
            self.save(own)
            own.replace(path)

    def of_no_budget(self) -> Checkpoint:
        """Return the same for a training with another budget, which knows other accuracies."""
        bare = [epoch.model_copy(update={"pruned_accuracy": None}) for epoch in self.history]
        return replace(self, history=bare)

    @classmethod
    def load(cls, path: Path | None) -> Checkpoint | None:
        """Read a checkpoint; nothing, where there is none.

        Raises:
            PareError: the file is damaged. Hours of training are not forgotten in silence.
        """
        if path is None or not path.is_file():
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            return cls(
                **{
                    **content,
                    "history": [Epoch(**epoch) for epoch in content["history"]],
                    "best": Best(**content["best"]),
                    "reference": Best(**content["reference"]),
                }
            )
        except Exception as error:  # a damaged file fails in any way
            raise PareError(
                f"the training cannot be resumed from {path}: the file is damaged. Delete it, "
                "or run with --fresh, to train from the beginning."
            ) from error
