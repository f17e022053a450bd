"""Where trials run: the two ways, what they have in common, and which one is taken."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Protocol

from pipeline.core.epoch import Epoch
from pipeline.core.errors import PareError
from pipeline.search.feed import Feed
from pipeline.search.folder import SearchDir
from pipeline.search.trial import Outcome, Trial

#: What a trial was seen to take at its highest, a converter beside it; 10^9 bytes.
TRIAL_GB = 3.0
_SPARE_GB = 1.5


class Watcher(Protocol):
    """Who is told what happens."""

    def began(self, trial: Trial) -> None:
        """Say that a trial has begun, or has begun anew where its worker was lost."""

    def epoch(self, trial: Trial, epoch: Epoch, total: int) -> None:
        """Say what an epoch of ``total`` reached."""

    def ended(self, outcome: Outcome) -> None:
        """Say what became of a trial."""


class Engine(Protocol):
    """Runs what a feed asks for until nothing will come any more."""

    workers: int

    def run(self, feed: Feed, folder: SearchDir, watcher: Watcher) -> None:
        """Run trials; what fails in one is its outcome.

        Raises:
            Interrupted: on Ctrl-C; the same search goes on from there.
        """


def chosen(workers: int | None, address: str | None, *, cpus: int = 1) -> Engine:
    """Return Ray where it is there and of use, and one trial after another elsewhere.

    Args:
        workers: trials at a time; as many as cores and memory, or the cluster, allow where
            not given.
        address: of a Ray cluster; a local one is started where there is none.
        cpus: cores of each trial.

    Raises:
        PareError: a cluster, or several workers, are asked for and Ray is not installed.
    """
    from pipeline.search.sequential import Sequential

    there = importlib.util.find_spec("ray") is not None
    if not there and (address or (workers or 1) > 1):
        raise PareError(
            "Ray is not installed, which runs trials side by side. Install it: pip install "
            "'pare[sweep]'; or leave --ray out and set --workers 1."
        )
    count = workers if address else workers or fitting_workers(cpus)
    if not there or (address is None and count == 1):
        return Sequential()
    from pipeline.search.on_ray import OnRay

    return OnRay(count, cpus, address)


def fitting_workers(cpus: int = 1) -> int:
    """Return how many trials this machine has cores and memory for."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    by_memory = int((_available_gb() - _SPARE_GB) / TRIAL_GB)
    return max(1, min((cores or 1) // cpus, by_memory))


def _available_gb() -> float:
    """Return the memory that is free for a program, of 10^9 bytes; plenty where unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("1e6")
    kilobytes = next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
    return kilobytes * 1024 / 1e9
