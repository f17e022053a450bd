"""One epoch of a training, as it is recorded, shown, tracked and searched by."""

from __future__ import annotations

from pipeline.core.record import Record


class Epoch(Record):
    """What one epoch reached.

    Attributes:
        task_loss: mean cross-entropy over the training batches.
        budget_loss: mean of what the method added.
        accuracy: of the network as trained, on the validation split, in [0, 1].
        pruned_accuracy: of the same network with its masks applied; not known of epochs of
            a dense training that was taken over from a run with another budget.
        instability: accuracy lost at once to the pruning event before, in or at the end of
            this epoch, ``(before - after) / before`` on the validation split (Bartoldson et
            al. 2020), with the batch norm statistics of before: they are recalibrated only
            for what is assessed. Nothing in an epoch without such an event.
        cost: part of the whole network's cost, in the budget's unit, that the soft gates
            spend, where a method has them.
        lr: at the end of the epoch.
    """

    phase: str
    epoch: int
    task_loss: float
    budget_loss: float
    accuracy: float
    pruned_accuracy: float | None
    cost: float | None
    lr: float
    seconds: float
    instability: float | None = None
