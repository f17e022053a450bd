"""Trackers: where the curves and figures of a run can be watched; one file each.

A tracker looks on. It is told what the terminal is told, is no part of any stage's key, and
one that fails is left out for the rest of the run, which goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pipeline.core.epoch import Epoch
from pipeline.core.errors import PareError
from pipeline.core.plugins import Room
from pipeline.core.recipe import Recipe
from pipeline.core.record import digest
from pipeline.core.rundir import read_json, write_json

#: A file of the room is a tracker; its key is one of the table ``[track]``.
TRACKERS = Room("tracking", "tracker")

_FOLDER = "tracking"
_TOLD = "told.json"
#: The curves: of the training, and of the one with rounded weights.
TRAINING, ROUNDED = "epoch", "qat"
#: By which one of a list of figures is known.
_NAMES = ("file", "name", "id")
#: What a curve is no place for: the report has it layer by layer, the recipe as it was set.
_DETAILS = frozenset({"class_histogram", "data", "layers", "options"})

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Place:
    """Where a tracker writes.

    Attributes:
        folder: of the run's trackers.
        run: the name of the run's folder.
        experiment: what runs are grouped by.
        address: what the recipe says at the tracker's key.
    """

    folder: Path
    run: str
    experiment: str
    address: Any


class Tracker(Protocol):
    """What each file of the room has as its one public class, built from a ``Place``."""

    #: Modules it needs, and the command that installs them.
    NEEDS: ClassVar[tuple[str, ...]]
    INSTALL: ClassVar[str]

    def begin(self, params: Mapping[str, Scalar]) -> None:
        """Start with the recipe; all epochs of the run follow, the first one first."""

    def epoch(self, curve: str, epoch: Epoch) -> None:
        """Take one epoch of a curve; what is known of an earlier run's is replaced."""

    def finish(self, figures: Mapping[str, float]) -> None:
        """Take the figures of the finished stages."""

    def stop(self) -> None:
        """Note that the run was broken off, and may be continued."""

    def close(self) -> None:
        """Let go of what is open; nothing follows."""


class Reporter(Protocol):
    """Whom the run talks to beside the trackers; see ``pipeline.stages.runner``."""

    def stage(self, number: int, name: str, text: str, seconds: float | None) -> None:
        """Hear that a stage is finished, or skipped."""

    def progress(self, done: int, total: int, epoch: Epoch) -> None:
        """Hear of an epoch."""

    def warn(self, text: str) -> None:
        """Hear a warning."""


class Tracking:
    """A reporter that tells the trackers of a recipe what it is told."""

    def __init__(self, recipe: Recipe, run: Path, reporter: Reporter) -> None:
        """Build the trackers; nothing is written yet.

        Raises:
            PareError: a tracker is asked for that is not installed.
        """
        self._reporter = reporter
        self._folder = run / _FOLDER
        self._params = parameters(recipe)
        self._trackers = _trackers(recipe, self._folder)
        self._open = dict(self._trackers)
        self._curve = TRAINING
        self._told: set[str] = set()

    def stage(self, number: int, name: str, text: str, seconds: float | None) -> None:
        """Pass it on; epochs that come now are not the training's any more."""
        self._curve = ROUNDED
        self._reporter.stage(number, name, text, seconds)

    def progress(self, done: int, total: int, epoch: Epoch) -> None:
        """Tell the trackers of an epoch, and pass it on."""
        self._epoch(self._curve, epoch)
        self._reporter.progress(done, total, epoch)

    def warn(self, text: str) -> None:
        """Pass it on."""
        self._reporter.warn(text)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Tell the trackers where a run is broken off."""
        try:
            yield
        except BaseException:
            if self._told:
                self._each(lambda tracker: tracker.stop())
            raise

    def finish(self, metrics: Mapping[str, Mapping[str, Any]], history: Path) -> None:
        """Tell the trackers what the finished stages reached, unless they know it all.

        Args:
            metrics: of the stages, by name.
            history: file of the training's epochs, for a run that did not train now.
        """
        figures = {f"{stage}/{k}": v for stage, m in metrics.items() for k, v in flat(m)}
        known = digest([self._params, figures])
        knowing = {key for key, told in self._noted().items() if told == known}
        self._open = {key: t for key, t in self._open.items() if key not in knowing}
        if not self._open:
            return
        if TRAINING not in self._told:
            for epoch in read_json(history):
                self._epoch(TRAINING, Epoch(**epoch))
        self._each(lambda tracker: tracker.finish(figures))
        self._note(dict.fromkeys(knowing | self._open.keys(), known))

    def _epoch(self, curve: str, epoch: Epoch) -> None:
        if not self._told:
            self._note({})  # what was told in full is not any more, until it is again
            self._each(lambda tracker: tracker.begin(self._params))
        self._told.add(curve)
        self._each(lambda tracker: tracker.epoch(curve, epoch))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        """Let each tracker act; one that cannot is told of once and asked no more."""
        for key, tracker in list(self._open.items()):
            try:
                act(tracker)
            except Exception as error:  # a full disk, a server that is away, anything
                del self._open[key]
                with suppress(Exception):
                    tracker.close()
                first = str(error).strip().partition("\n")[0] or type(error).__name__
                self._reporter.warn(
                    f"{key} tracks this run no longer: {first}. The run itself goes on; the "
                    "same command tries again."
                )

    def _noted(self) -> dict[str, str]:
        """Return what each tracker was told in full, as a digest."""
        try:
            return dict(read_json(self._folder / _TOLD))
        except (OSError, ValueError, TypeError):  # none yet, or harmed: told again
            return {}

    def _note(self, told: Mapping[str, str]) -> None:
        """Note it for the next time; a note that cannot be written costs no more than that."""
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / _TOLD, dict(told))


def parameters(recipe: Recipe) -> dict[str, Scalar]:
    """Return what a run is made of, one value a key of the recipe, such as ``train.lr``."""
    values = recipe.model_dump(mode="json", exclude={"track"}, exclude_none=True)
    return dict(_leaves(values))


def numbers(epoch: Epoch) -> dict[str, float]:
    """Return the figures of an epoch by name; those that it has not are left out."""
    values = epoch.model_dump(exclude={"phase", "epoch"})
    return {name: value for name, value in values.items() if value is not None}


def flat(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the finite numbers in nested tables by their path, such as ``after.macs``.

    Details are left out (``_DETAILS``). One of a list is known by its file or name; lists of
    anything else are passed over.

    >>> dict(flat({"a": {"b": 1}, "files": [{"file": "x.onnx", "bytes": 2}], "c": "d"}))
    {'a.b': 1.0, 'files.x.onnx.bytes': 2.0}
    """
    for key, value in values.items():
        if key in _DETAILS:
            continue
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", number) for inner, number in flat(value))
        elif isinstance(value, list):
            named = {name: one for one in value if (name := _name_of(one)) is not None}
            yield from ((f"{key}.{inner}", number) for inner, number in flat(named))
        elif _is_number(value):
            yield key, float(value)


def _is_number(value: Any) -> bool:
    is_any = isinstance(value, int | float) and not isinstance(value, bool)
    return is_any and math.isfinite(value)


def _name_of(one: Any) -> str | None:
    if not isinstance(one, Mapping):
        return None
    return next((str(one[key]) for key in _NAMES if key in one), None)


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in _leaves(value))
        elif isinstance(value, str | int | float):
            yield key, value
        else:
            yield key, json.dumps(value)


def _trackers(recipe: Recipe, folder: Path) -> dict[str, Tracker]:
    """Return the trackers that the recipe asks for, by key."""
    found = {}
    for key in TRACKERS.plugins():
        address = getattr(recipe.track, key, None)
        if address:
            kind, _ = TRACKERS.load(key)
            _demand_installed(kind, key)
            found[key] = kind(
                Place(folder, folder.parent.name, recipe.track.experiment, address)
            )
    return found


def _demand_installed(kind: type[Tracker], key: str) -> None:
    missing = [name for name in kind.NEEDS if find_spec(name) is None]
    if missing:
        raise PareError(
            f"track.{key} needs {', '.join(missing)}, which is not installed. Run: "
            f"{kind.INSTALL}, or leave track.{key} out of the recipe."
        )
