"""What a finished stage leaves behind, as a record."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.core.record import Record, digest

ENGINES = (
    "pare",
    "torch",
    "torchvision",
    "lightning-fabric",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tensorflow",
    "onnx2tf",
    "litert-torch",
    "ai-edge-quantizer",
    "ai-edge-litert",
    "numpy",
)


class Provenance(Record):
    """Where an artifact comes from, in full.

    Attributes:
        key: identity of the result: options, inputs, targets and code.
        parent: key of the stage before.
        parent_record: digest of that stage's record; another execution under the same key
            is another parent.
    """

    stage: str
    key: str
    parent: str | None
    parent_record: str | None = None
    parameters: dict[str, Any]
    seed: int
    git_commit: str | None
    versions: dict[str, str]
    seconds: float
    finished_utc: str


class Artifact(Record):
    """The result of one stage: its files by name with their hashes, and its figures."""

    kind: str
    files: dict[str, str]
    metrics: dict[str, Any]
    provenance: Provenance

    @property
    def digest(self) -> str:
        """Digest of the whole record, different for each execution of a stage."""
        return digest(self.model_dump(mode="json"))

    def follows(self, parent: Artifact | None) -> bool:
        """Tell whether this was made from ``parent``, the result of the stage before."""
        own = self.provenance
        if parent is None:
            return own.parent is None
        same = own.parent_record in (None, parent.digest)
        return own.parent == parent.provenance.key and same

    def broken_file(self, folder: Path) -> str | None:
        """Return the name of a file that is missing or changed, or nothing."""
        for name, expected in self.files.items():
            path = folder / name
            if not path.is_file() or sha256(path) != expected:
                return name
        return None


def sha256(path: Path) -> str:
    """Return the hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the version of Python and of each engine that is installed."""
    found = {"python": platform.python_version()}
    for name in ENGINES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> str | None:
    """Return the commit checked out at ``folder``, or nothing outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
