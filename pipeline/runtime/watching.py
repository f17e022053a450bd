"""A folder into which a camera drops images: one line of JSON for each that is complete."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from pipeline.runtime.classifier import LARGEST, Classifier
from pipeline.runtime.delegates import Delegate
from pipeline.runtime.predicting import SUFFIXES, classified, tell
from pipeline.runtime.stopping import asked_to_stop
from pipeline.runtime.tensors import EngineError

#: Size and time of the last change: a file with the same two is taken as the same.
Stamp = tuple[int, int]


def run(
    path: Path,
    folder: Path,
    threads: int,
    poll_s: float,
    once: bool,
    delegate: Delegate | None = None,
) -> int:
    """Classify images as they appear, until asked to stop; those already there count as new.

    Args:
        path: the file.
        folder: where the images appear.
        threads: of the engine.
        poll_s: seconds between two looks at the folder.
        once: stop when all that is there was looked at.
        delegate: to hand operators to.

    Raises:
        EngineError: the file can't be loaded or run, or the folder is not there.
    """
    if poll_s <= 0:
        raise EngineError(f"a pause of {poll_s} s between two looks; give more than 0.")
    classifier = Classifier(path, threads, delegate=delegate)
    with asked_to_stop() as stop:
        for name, content in appearing(folder, poll_s, once, stop):
            found = (
                {"error": "it vanished, or is no file of this folder."}
                if content is None
                else classified(classifier, BytesIO(content))
            )
            tell({"image": name, **found})
    return 0


def appearing(
    folder: Path, poll_s: float, once: bool, stop: threading.Event
) -> Iterator[tuple[str, bytes | None]]:
    """Yield name and content of each new image, when it no longer changes.

    An image is complete when two looks find the same size and time of change; it may be
    written in place or renamed into the folder. Hidden files, links, other endings than those
    of JPEG and PNG, and what lies in folders of the folder are never read.

    Raises:
        EngineError: the folder is not there, or no longer.
    """
    done: dict[str, Stamp] = {}
    last: dict[str, Stamp] = {}
    while True:
        now = _images(folder)
        done = {name: stamp for name, stamp in done.items() if name in now}
        for name, stamp in sorted(now.items()):
            if stop.is_set():
                return
            if last.get(name) == stamp != done.get(name):
                done[name] = stamp
                yield name, _read(folder, name)
        if once and all(done.get(name) == stamp for name, stamp in now.items()):
            return
        last = now
        if stop.wait(poll_s):
            return


def _images(folder: Path) -> dict[str, Stamp]:
    """Return the images of a folder that have any content."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stamp = _stamp(entry)
                if stamp and stamp[0]:
                    found[entry.name] = stamp
    except OSError as error:
        raise EngineError(f"{folder} cannot be watched: {error.strerror}.") from error
    return found


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in SUFFIXES:
        return None
    try:
        if not entry.is_file(follow_symlinks=False):
            return None
        told = entry.stat(follow_symlinks=False)
    except OSError:  # gone since it was listed
        return None
    return told.st_size, told.st_mtime_ns


def _read(folder: Path, name: str) -> bytes | None:
    """Return a file's content, or ``None`` where it is gone or has become something else.

    It is opened as what it was seen to be: a link put in its place is not followed, and a
    pipe does not block.
    """
    try:
        number = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(number, "rb") as stream:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            return None
        return stream.read(LARGEST + 1)
