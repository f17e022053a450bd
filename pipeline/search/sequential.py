"""One trial after another, in this process: what there is without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.core.epoch import Epoch
from pipeline.search.engine import Watcher
from pipeline.search.feed import Feed
from pipeline.search.folder import SearchDir
from pipeline.search.one_run import run_trial
from pipeline.search.trial import Trial


class Sequential:
    """The engine of one worker.

    Args of the constructor: the threads of a training; torch's own choice where not given.
    """

    workers = 1

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def run(self, feed: Feed, folder: SearchDir, watcher: Watcher) -> None:
        """Run trials until the feed has no more; see ``Engine``."""
        with _threads(self._threads):
            while trial := feed.next():
                watcher.began(trial)
                outcome = run_trial(trial, folder, _Told(trial, feed, watcher))
                feed.told(outcome)
                watcher.ended(outcome)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Give torch so many threads, and take them back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Told:
    """Hands a trial's epochs on, and says whether it is to go on."""

    def __init__(self, trial: Trial, feed: Feed, watcher: Watcher) -> None:
        self._trial, self._feed, self._watcher = trial, feed, watcher

    def __call__(self, epoch: Epoch, total: int) -> bool:
        self._watcher.epoch(self._trial, epoch, total)
        return self._feed.epoch(self._trial.name, epoch, total)
