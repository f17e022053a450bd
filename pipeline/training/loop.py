"""One loop for all methods: the method says what is trained, the loop how."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.core.epoch import Epoch
from pipeline.core.errors import PareError
from pipeline.core.recipe import TrainOptions
from pipeline.data import Dataset
from pipeline.methods import Method, Phase, plain, snapshot
from pipeline.training.batches import Share, batch_count, shares
from pipeline.training.checkpoint import Best, Checkpoint
from pipeline.training.distillation import Teacher
from pipeline.training.evaluation import accuracy
from pipeline.training.processes import (
    demand_agreement,
    fabric_for,
    mean_over_processes,
    share_random_state,
)
from pipeline.training.recalibration import pruned_network, recalibrated
from pipeline.training.schedule import optimizer_for, scheduler_for
from pipeline.training.whole_batch_norm import whole_batch_norms

Progress = Callable[[int, int, Epoch], None]


@dataclass(frozen=True)
class Trained:
    """What a training found, selected on the validation split.

    Attributes:
        model: apparent weights of the epoch that is best once pruned, with batch norm
            statistics of their own.
        masks: the weights of it that are kept.
        best_epoch: its number.
        reference: the most accurate network seen, whatever it spent: what the accuracy of
            the pruned one is compared with.
        reference_epoch: its number; 0 for the network the training started from.
        reference_validation: its top-1 on the validation split.
        attached: the network after the last epoch, with all that the method attached to it.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    history: list[Epoch]
    best_epoch: int
    reference: nn.Module
    reference_epoch: int
    reference_validation: float
    attached: nn.Module


def train(
    model: nn.Module,
    method: Method,
    data: Dataset,
    options: TrainOptions,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    teacher: nn.Module | None = None,
    dense_end: Path | None = None,
) -> Trained:
    """Train ``model`` with ``method`` and keep the epoch that is best once pruned.

    Kept is the last of those epochs of the final phase whose *pruned* network is most
    accurate on the validation split: what is selected is what will be shipped.

    With ``options.devices`` above one this is one of several processes that train the same
    network, which have all been started (``pipeline.training.launcher``) and call this with
    the same arguments; each returns the same.

    Args:
        model: freshly drawn or loaded weights; it is not changed.
        method: what is attached, added to the loss, and kept.
        data: its training split is trained on, its validation split selects.
        options: of the loop.
        seed: of shuffling and augmentation; every epoch draws from its own generator, so
            that a resumed training repeats what an unbroken one does.
        checkpoint: written after each epoch, and continued from if it exists.
        progress: called after each epoch with epochs done, epochs in all, and its record,
            and at the start of a continued training for each epoch that was done before;
            what it raises stops the training, which can be continued. Of several processes
            the first one's is called.
        teacher: trained network to learn from beside the labels, as the options weigh it.
        dense_end: where the end of the first phase is left, as a checkpoint that a training
            with another budget can go on from; for methods that start densely.

    Raises:
        PareError: this machine has not what the options ask for, or the checkpoint is
            damaged.
    """
    fabric = fabric_for(options)
    fabric.launch()
    loop = _Loop(fabric, method, data, options, seed, checkpoint, progress, teacher, dense_end)
    with _reproducible(seed, deterministic=options.deterministic):
        return loop.run(model)


class _Loop:
    """The state of one training: where it is, what it has seen, the best so far."""

    def __init__(
        self,
        fabric: Fabric,
        method: Method,
        data: Dataset,
        options: TrainOptions,
        seed: int,
        checkpoint: Path | None,
        progress: Progress | None,
        teacher: nn.Module | None,
        dense_end: Path | None,
    ) -> None:
        self.fabric, self.method, self.data, self.options = fabric, method, data, options
        self.seed, self.path, self.progress = seed, checkpoint, progress
        self.dense_end = dense_end
        self.teacher = teacher and Teacher(
            teacher, options.teacher_weight, options.teacher_temperature, fabric.device
        )
        self.phases = method.phases(options.epochs)
        self.resumed = Checkpoint.load(checkpoint)
        self.history = list(self.resumed.history) if self.resumed else []
        self.best = self.resumed.best if self.resumed else None
        self.reference = self.resumed.reference if self.resumed else None

    def run(self, model: nn.Module) -> Trained:
        """Train all phases that are left."""
        first = self.resumed.phase if self.resumed else 0
        for done in range(1, len(self.history) + 1):
            self._report(done)
        if self.reference is None:
            self.reference = Best(self._accuracy(model), 0, snapshot(model), {})
        for number, phase in enumerate(self.phases):
            before, model = model, self.method.attach(model, phase)
            if number >= first:
                resumed = bool(self.resumed) and number == first
                event = number > 0 and not resumed
                lost = self._lost(self._accuracy(before), model) if event else None
                self._train_phase(model, number, phase, lost)
        assert self.best is not None, "a training has at least one epoch"
        return Trained(
            model=_with(model, self.best.state),
            masks=self.best.masks,
            history=self.history,
            best_epoch=self.best.epoch,
            reference=_with(model, self.reference.state),
            reference_epoch=self.reference.epoch,
            reference_validation=self.reference.score,
            attached=copy.deepcopy(model).cpu().eval(),
        )

    def _accuracy(self, model: nn.Module) -> float:
        return accuracy(model, self.data.validation, self.data)

    def _lost(self, before: float, after: nn.Module) -> float | None:
        """Return the instability of a pruning event, where there was anything to lose."""
        return (before - self._accuracy(after)) / before if before else None

    def _train_phase(
        self, model: nn.Module, number: int, phase: Phase, lost: float | None
    ) -> None:
        options = self.options
        groups = self.method.parameter_groups(model, options.lr * phase.lr_factor)
        optimizer = optimizer_for(groups, options)
        steps = self._steps
        scheduler = scheduler_for(optimizer, options, phase.epochs * steps, steps)
        start = 0
        if self.resumed and number == self.resumed.phase:
            start = self.resumed.epoch
        else:
            self.best = None
        wrapped, wrapped_optimizer = self.fabric.setup(model, optimizer)
        if self.resumed and number == self.resumed.phase:
            # After the setup, so that the optimizer's state is where the weights are.
            model.load_state_dict(self.resumed.model)
            optimizer.load_state_dict(self.resumed.optimizer)
            scheduler.load_state_dict(self.resumed.scheduler)
            self.method.restore(self.resumed.method)
        for epoch in range(start, phase.epochs):
            began = time.monotonic()
            losses, within = self._train_epoch(
                wrapped, model, wrapped_optimizer, scheduler, phase, epoch
            )
            share_random_state(self.fabric)
            done = (epoch + 1) / phase.epochs
            after = self._measured(self.method.after_epoch, model, done, epoch_ends=True)
            self._demand_numbers(losses[0])  # what the method has to say of them comes first
            demand_agreement(self.fabric, model, self.method.state(), len(self.history) + 1)
            events = [event for event in (lost, within, after) if event is not None]
            lr, lost = float(optimizer.param_groups[0]["lr"]), None
            seconds = time.monotonic() - began
            self._assess(model, phase, losses, lr, seconds, max(events, default=None))
            if self.fabric.is_global_zero:
                at = (number, epoch + 1, model, optimizer, scheduler)
                if self.path:
                    self._checkpoint(*at).save(self.path)
                if self.dense_end and (number, epoch + 1) == (0, phase.epochs):
                    self._checkpoint(*at).of_no_budget().leave(self.dense_end)
            self._report(len(self.history))

    def _measured(
        self,
        act: Callable[[nn.Module, float], None],
        model: nn.Module,
        progress: float,
        *,
        epoch_ends: bool,
    ) -> float | None:
        """Let the method act; return what it cost at once if it pruned."""
        prunes = self.method.prunes_now(model, progress, epoch_ends=epoch_ends)
        before = self._accuracy(model) if prunes else 0.0
        act(model, progress)
        return self._lost(before, model) if prunes else None

    def _train_epoch(
        self,
        wrapped: Any,
        model: nn.Module,
        optimizer: Any,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        phase: Phase,
        epoch: int,
    ) -> tuple[tuple[float, float], float | None]:
        """Run one pass over the training split.

        Returns:
            Mean task and budget loss over all processes, and what a pruning in between cost
            at once.
        """
        wrapped.train()
        device, steps = self.fabric.device, self._steps
        lost: float | None = None
        sums = torch.zeros(2, device=device)
        with whole_batch_norms(
            model, rank=self.fabric.global_rank, world=self.fabric.world_size
        ):
            for step, share in enumerate(self._shares()):
                progress = (epoch + step / steps) / phase.epochs
                task = self._task_loss(wrapped, share)
                extra = self.method.loss(model, progress)
                self.fabric.backward(task if extra is None else task + extra)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                scheduler.step()
                event = self._measured(
                    self.method.after_step, model, progress, epoch_ends=False
                )
                lost = event if lost is None else lost
                sums[0] += task.detach()
                if extra is not None:
                    sums[1] += extra.detach()
        task_sum, budget_sum = mean_over_processes(self.fabric, sums).tolist()
        return (task_sum / steps, budget_sum / steps), lost

    def _task_loss(self, wrapped: Any, share: Share) -> Tensor:
        """Return the loss of this process's share, whose mean over them is the batch's."""
        images = share.images.to(self.fabric.device)
        outputs = wrapped(images)
        task = F.cross_entropy(
            outputs,
            share.labels.to(self.fabric.device),
            label_smoothing=self.options.label_smoothing,
        )
        if self.teacher:
            task = self.teacher.blend(task, outputs, images)
        return task * share.weight

    def _demand_numbers(self, loss: float) -> None:
        """Refuse to go on from a loss that is no number.

        Raises:
            PareError: says what to lower.
        """
        if not math.isfinite(loss):
            raise PareError(
                f"the training diverged in epoch {len(self.history) + 1}: its loss is not a "
                f"number. Lower train.lr ({self.options.lr:g}), or warm up "
                "(train.warmup_epochs)."
            )

    def _shares(self) -> Iterator[Share]:
        """Yield this process's share of the next epoch, which draws from its own generator."""
        return shares(
            self.data,
            self.options,
            self.seed + 1_000_003 * len(self.history),
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )

    @property
    def _steps(self) -> int:
        return batch_count(self.data, self.options, self.fabric.world_size)

    def _assess(
        self,
        model: nn.Module,
        phase: Phase,
        losses: tuple[float, float],
        lr: float,
        seconds: float,
        instability: float | None,
    ) -> None:
        """Evaluate the network as trained and as pruned, and remember the best."""
        model.eval()  # a method that samples while training has one answer now
        masks = self.method.masks(model)
        of_run = (self.data, self.options, self.seed)
        trained = recalibrated(plain(model), *of_run)
        bare = pruned_network(trained, masks, *of_run)
        trained_accuracy = self._accuracy(trained)
        pruned_accuracy = trained_accuracy if bare is trained else self._accuracy(bare)
        entry = Epoch(
            phase=phase.name,
            epoch=len(self.history) + 1,
            task_loss=losses[0],
            budget_loss=losses[1],
            accuracy=trained_accuracy,
            pruned_accuracy=pruned_accuracy,
            cost=self.method.cost(model),
            lr=lr,
            seconds=seconds,
            instability=instability,
        )
        self.history.append(entry)
        state = snapshot(trained)
        if self.best is None or pruned_accuracy >= self.best.score:
            kept = {name: mask.cpu() for name, mask in masks.items()}
            self.best = Best(pruned_accuracy, entry.epoch, state, kept)
        if self.reference is None or entry.accuracy >= self.reference.score:
            self.reference = Best(entry.accuracy, entry.epoch, state, {})

    def _checkpoint(
        self, number: int, epoch: int, model: nn.Module, optimizer: Any, scheduler: Any
    ) -> Checkpoint:
        assert self.best is not None
        assert self.reference is not None
        return Checkpoint(
            phase=number,
            epoch=epoch,
            model=model.state_dict(),
            optimizer=optimizer.state_dict(),
            scheduler=scheduler.state_dict(),
            method=self.method.state(),
            history=self.history,
            best=self.best,
            reference=self.reference,
        )

    def _report(self, done: int) -> None:
        """Tell of an epoch, which may be one of a training that is continued."""
        if self.progress and self.fabric.is_global_zero:
            total = sum(phase.epochs for phase in self.phases)
            self.progress(done, total, self.history[done - 1])


def _with(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Return a plain copy on the CPU with the given weights, in evaluation mode."""
    final = plain(model).cpu()
    final.load_state_dict(state)
    return final.eval()


@contextmanager
def _reproducible(seed: int, *, deterministic: bool) -> Iterator[None]:
    """Seed torch and ask for deterministic kernels, and leave both as they were."""
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warned_only)
