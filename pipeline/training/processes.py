"""What several processes that train one network need of each other."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.strategy import Strategy
from torch import Tensor, nn

from pipeline.core.errors import PareError
from pipeline.core.recipe import TrainOptions

_UNUSED = "ddp_find_unused_parameters_true"
#: Each process holds the whole network in all of these, as methods and budgets need it.
_STRATEGIES = ("auto", "ddp", _UNUSED)


def fabric_for(options: TrainOptions) -> Fabric:
    """Return the link to the hardware that the options name.

    Raises:
        PareError: this machine has not what they ask for.
    """
    try:
        return Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            strategy=_strategy(options),
            precision=options.precision,
        )
    except PareError:
        raise
    except Exception as error:  # refused in many ways, by each part of it
        asked = ", ".join(
            f"train.{name} = {getattr(options, name)!r}"
            for name in ("accelerator", "devices", "strategy", "precision")
        )
        raise PareError(f"this machine cannot train with {asked}: {error}") from error


def check_processes(options: TrainOptions) -> None:
    """Refuse options that several processes cannot share a training by.

    Raises:
        PareError: a batch that does not divide, or a strategy that splits the network.
    """
    count, size = options.devices, options.batch_size
    if count == 1:
        return
    if size % count:
        lower = size - size % count
        near = f"{lower} or {lower + count}" if lower else str(count)
        raise PareError(
            f"train.batch_size = {size} does not divide among train.devices = {count} "
            f"processes: it is the size of the whole batch, of which each takes an equal "
            f"share. Set train.batch_size = {near}."
        )
    if options.strategy not in _STRATEGIES:
        raise PareError(
            f"train.strategy = {options.strategy!r}: where train.devices = {count}, each "
            f"process holds the whole network. Choose {', '.join(_STRATEGIES)}."
        )


def alone(options: TrainOptions) -> TrainOptions:
    """Return the same options for a training in this process."""
    if options.devices == 1:
        return options
    return options.model_copy(update={"devices": 1, "strategy": "auto"})


def mean_over_processes(fabric: Fabric, value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes; itself where there is one."""
    if fabric.world_size == 1:
        return value
    mean = fabric.all_reduce(value.clone(), reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean


def share_random_state(fabric: Fabric) -> None:
    """Let the random numbers of all processes go on from where those of the first stand.

    Shares of unequal size, such as of a short last batch, draw unequally many of them.
    """
    if fabric.world_size == 1:
        return
    device = fabric.device
    torch.set_rng_state(_of_first(torch.get_rng_state(), device))
    if device.type == "cuda":
        state = _of_first(torch.cuda.get_rng_state(device), device)
        torch.cuda.set_rng_state(state, device)


def demand_agreement(
    fabric: Fabric, model: nn.Module, state: Mapping[str, Tensor], epoch: int
) -> None:
    """Refuse to go on where the processes' networks or methods differ by a single bit.

    Args:
        fabric: the processes.
        model: with all that the method attached to it.
        state: of the method.
        epoch: that was just trained.

    Raises:
        PareError: in every process.
    """
    if fabric.world_size == 1:
        return
    own = torch.tensor(_digest({**model.state_dict(), **state}), device=fabric.device)
    digests = fabric.all_gather(own)
    assert isinstance(digests, Tensor)
    apart = (digests != digests[0]).nonzero().flatten().tolist()
    if apart:
        raise PareError(
            f"after epoch {epoch} the networks of the {fabric.world_size} training processes "
            f"differ: {', '.join(f'that of process {rank}' for rank in apart)} from that of "
            "process 0. What the method, the network or the loss computes depends on the "
            "process, or on kernels that are not deterministic. Set train.devices = 1, or "
            "train.deterministic = true."
        )


def _strategy(options: TrainOptions) -> str | Strategy:
    if options.devices == 1:
        return options.strategy
    check_processes(options)
    if "WORLD_SIZE" not in os.environ:
        raise PareError(
            f"train.devices = {options.devices}: this is one process and nobody started the "
            "others. Train by a run (`pare train`), which does."
        )
    # Buffers are not sent from the first process to the others, as DDP does by default: that
    # would cover up masks that have come apart.
    return DDPStrategy(
        cluster_environment=TorchElasticEnvironment(),
        broadcast_buffers=False,
        find_unused_parameters=options.strategy == _UNUSED,
    )


def _of_first(value: Tensor, device: torch.device) -> Tensor:
    """Return the tensor as the first process has it, on the CPU."""
    sent = value.to(device)
    dist.broadcast(sent, src=0)
    return sent.cpu()


def _digest(tensors: Mapping[str, Tensor]) -> int:
    """Return 63 bits that change with every bit of the tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(name.encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return int.from_bytes(found.digest()[:8], "big") >> 1
