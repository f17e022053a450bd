"""The folder of a search: one run a trial, what became of each, and one search at a time."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.core.errors import PareError
from pipeline.core.rundir import only_writer, read_json, write_json
from pipeline.search.trial import Outcome, Trial

_OUTCOMES = "outcomes"
_RECORD = "search.json"
_WORKERS = ".workers"


class SearchDir:
    """``trials/<name>`` are the runs, ``outcomes/<name>.json`` says what became of them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, trial: str) -> Path:
        """Return the folder of a trial's run."""
        return self.path / "trials" / trial

    @property
    def shelf(self) -> Path:
        """The folder of what the runs have in common beside whole stages."""
        return self.path / "shelf"

    def runs(self) -> list[Path]:
        """Return the folders of all runs that were begun."""
        return sorted(path for path in (self.path / "trials").glob("*") if path.is_dir())

    def outcome(self, trial: str) -> Outcome | None:
        """Return what became of a trial; nothing where that is unknown or unreadable."""
        try:
            return Outcome.model_validate(read_json(self._of(trial)))
        except (OSError, ValueError, ValidationError):
            return None

    def keep(self, outcome: Outcome) -> None:
        """Record what became of a trial, in full or not at all."""
        path = self._of(outcome.trial)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, outcome.model_dump(mode="json"))

    def describe(self, kind: str, trials: list[Trial], **more: Any) -> None:
        """Write what the search is: its kind and its trials, for whoever reads it later."""
        listed = [trial.model_dump(mode="json", exclude={"recipe"}) for trial in trials]
        write_json(self.path / _RECORD, {"kind": kind, **more, "trials": listed})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against a second search.

        Raises:
            PareError: another process searches in it, or it cannot be written.
        """
        with only_writer(self.path, "search"):
            self.shelf.mkdir(exist_ok=True)
            yield

    @contextmanager
    def working(self) -> Iterator[None]:
        """Say, in a worker's process, that it works in the folder, as long as it does."""
        with (self.path / _WORKERS).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def await_workers(self, seconds: float = 60) -> None:
        """Wait until no worker of a search that was killed is left.

        Raises:
            PareError: one of them does not end.
        """
        end = time.monotonic() + seconds
        with (self.path / _WORKERS).open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise PareError(
                            f"a worker of an earlier search still runs in {self.path}. End "
                            "it, or choose another folder with --out."
                        ) from None
                    time.sleep(0.2)
                else:
                    return

    def _of(self, trial: str) -> Path:
        return self.path / _OUTCOMES / f"{trial}.json"
