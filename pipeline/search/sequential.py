"""One trial after another, in this process: what there is without Ray."""

from __future__ import annotations

from pipeline.core.epoch import Epoch
from pipeline.search.engine import Watcher
from pipeline.search.feed import Feed
from pipeline.search.folder import SearchDir
from pipeline.search.one_run import run_trial
from pipeline.search.trial import Trial


class Sequential:
    """The engine of one worker."""

    workers = 1

    def run(self, feed: Feed, folder: SearchDir, watcher: Watcher) -> None:
        """Run trials until the feed has no more; see ``Engine``."""
        while trial := feed.next():
            watcher.began(trial)
            outcome = run_trial(trial, folder, _Told(trial, feed, watcher))
            feed.told(outcome)
            watcher.ended(outcome)


class _Told:
    """Hands a trial's epochs on, and says whether it is to go on."""

    def __init__(self, trial: Trial, feed: Feed, watcher: Watcher) -> None:
        self._trial, self._feed, self._watcher = trial, feed, watcher

    def __call__(self, epoch: Epoch, total: int) -> bool:
        self._watcher.epoch(self._trial, epoch, total)
        return self._feed.epoch(self._trial.name, epoch)
