"""A run on disk: one folder a stage, written aside and renamed. Presence is completion."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.artifact import Artifact, sha256
from pipeline.core.errors import PareError

_RECORD = "stage.json"
_KEY = "key"

#: What a stage needs to be continued; no part of its result, removed when that is in place.
CHECKPOINT = "checkpoint.pt"
SCRATCH = frozenset({_KEY, CHECKPOINT})


class RunDir:
    """The folder of one run.

    A stage works in ``<n>-<stage>.partial`` and takes its final name when all of its files
    and their hashes are written. Killed at any moment, the folder holds the last finished
    state of every stage, and what a resumable stage left in its partial folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, number: int, stage: str) -> Path:
        """Return the folder of a finished stage, whether or not it exists."""
        return self.path / f"{number}-{stage}"

    def finished(self, number: int, stage: str, key: str | None = None) -> Artifact | None:
        """Return what a stage left, if it is whole and has the key (any, by default)."""
        folder = self.folder(number, stage)
        try:
            text = (folder / _RECORD).read_text(encoding="utf-8")
            artifact = Artifact.model_validate_json(text)
        except (OSError, ValueError):
            return None
        if key is not None and artifact.provenance.key != key:
            return None
        return None if artifact.broken_file(folder) else artifact

    def open_partial(self, number: int, stage: str, key: str, *, resumable: bool) -> Path:
        """Return an empty folder to work in, or the one that a stopped stage left.

        Only a resumable stage with the same key goes on with what it finds.
        """
        partial = self._partial(number, stage)
        same = _read(partial / _KEY) == key
        if not (resumable and same):
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        (partial / _KEY).write_text(key, encoding="utf-8")
        return partial

    def commit(self, number: int, stage: str, artifact: Artifact) -> None:
        """Put a stage's folder in its place, in the stead of an older one.

        What later stages made from the older one stays until they commit; its provenance
        says that it is not made from this one. Killed before the last rename, the partial
        folder can still be continued.
        """
        partial, final = self._partial(number, stage), self.folder(number, stage)
        write_json(partial / _RECORD, artifact.model_dump(mode="json"))
        old = final.with_name(final.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        partial.rename(final)
        shutil.rmtree(old, ignore_errors=True)
        for name in SCRATCH:
            (final / name).unlink(missing_ok=True)

    def files(self, number: int, stage: str) -> dict[str, str]:
        """Return the hash of every file in the partial folder, by its relative path."""
        partial = self._partial(number, stage)
        return {
            str(path.relative_to(partial)): sha256(path)
            for path in sorted(partial.rglob("*"))
            if path.is_file() and path.name not in SCRATCH | {_RECORD}
        }

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run against a second process.

        Raises:
            PareError: another process is working in the folder, or it cannot be written.
        """
        with only_writer(self.path, "process"):
            yield

    def _partial(self, number: int, stage: str) -> Path:
        return self.path / f"{number}-{stage}.partial"


@contextmanager
def only_writer(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder, made where there is none, against a second writer.

    Args:
        folder: that is written.
        what: the word for who else may hold it, ``process`` or ``search``.

    Raises:
        PareError: another one holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise PareError(f"cannot write to {folder}: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PareError(
                f"another {what} is running in {folder}. Wait for it, or choose "
                "another folder with --out."
            ) from None
        yield


def device_profiles(run: Path, target: str) -> Path:
    """Return the folder of a run that holds what a target's device measured of its files."""
    return run / "profiles" / target


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in full or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in full or not at all."""
    scratch = path.with_name(path.name + ".partial")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file that this program wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def is_full(error: BaseException) -> bool:
    """Tell whether an error, or one it came from, means that no more can be written."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
        ):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
