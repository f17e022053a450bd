"""Optimizers and learning-rate schedules, as the recipe says."""

from __future__ import annotations

from typing import Any

from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from pipeline.core.recipe import TrainOptions


def optimizer_for(groups: list[dict[str, Any]], options: TrainOptions) -> Optimizer:
    """Return the optimizer over parameter groups that bring their own rates."""
    if options.optimizer == "adam":
        return Adam(groups, lr=options.lr, weight_decay=options.weight_decay)
    return SGD(
        groups,
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.momentum > 0,
    )


def scheduler_for(
    optimizer: Optimizer, options: TrainOptions, total: int, steps_per_epoch: int
) -> LRScheduler:
    """Return the schedule over ``total`` steps, stepped after each batch.

    ``milestones`` of the step schedule are fractions of the training; a warm-up grows the
    rate linearly from a tenth.
    """
    warmup = min(options.warmup_epochs * steps_per_epoch, total - 1)
    rest = total - warmup
    main: LRScheduler
    if options.schedule == "cosine":
        main = CosineAnnealingLR(optimizer, T_max=rest)
    elif options.schedule == "step":
        steps = [max(1, round(fraction * total) - warmup) for fraction in options.milestones]
        main = MultiStepLR(optimizer, steps, gamma=options.gamma)
    else:
        main = ConstantLR(optimizer, factor=1.0)
    if not warmup:
        return main
    ramp = LinearLR(optimizer, start_factor=0.1, total_iters=warmup)
    return SequentialLR(optimizer, [ramp, main], milestones=[warmup])
