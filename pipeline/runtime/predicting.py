"""What a file says of images: one line of JSON each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.runtime.classifier import LARGEST, Classifier
from pipeline.runtime.delegates import Delegate
from pipeline.runtime.images import ImageError
from pipeline.runtime.tensors import EngineError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


def run(
    path: Path, given: Sequence[str], threads: int, delegate: Delegate | None = None
) -> int:
    """Classify images; what is wrong with one is told in its line, and the rest goes on.

    Args:
        path: the file.
        given: images, folders of images, or ``-`` for one image on the standard input.
        threads: of the engine.
        delegate: to hand operators to.

    Returns:
        0, or 2 where an image could not be classified.

    Raises:
        EngineError: the file can't be loaded or run, or there is no such image.
    """
    images = [(name, image) for one in given for name, image in _listed(one)]
    classifier = Classifier(path, threads, delegate=delegate)
    failed = 0
    for name, image in images:
        found = classified(classifier, image)
        tell({"image": name, **found})
        failed += "error" in found
    if failed:
        told = (
            f"{failed} of {len(images)} images could not be classified; their lines say why."
        )
        sys.stderr.write(f"{told}\n")
    return 2 if failed else 0


def classified(classifier: Classifier, image: Path | BinaryIO) -> dict[str, Any]:
    """Return the answer for one image as plain data, or ``error`` in words."""
    try:
        found = classifier.classify(_content(image)).as_json()
    except ImageError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"it cannot be read: {error.strerror}."}
    return {**found, "delegate": classifier.engine.delegate}


def tell(line: Mapping[str, Any]) -> None:
    """Print one line of JSON at once, so that a pipe sees it when it is made."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _listed(given: str) -> Iterator[tuple[str, Path | BinaryIO]]:
    if given == "-":
        yield given, sys.stdin.buffer
        return
    path = Path(given)
    if not path.is_dir():
        if not path.exists():
            raise EngineError(f"no image at {given}. Check the path.")
        yield given, path
        return
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise EngineError(f"no JPEG or PNG in {given}. Check the path.")
    yield from ((str(one), one) for one in found)


def _content(image: Path | BinaryIO) -> bytes:
    """Return an encoded image, one byte more than is taken where it is larger."""
    if not isinstance(image, Path):
        return image.read(LARGEST + 1)
    with image.open("rb") as stream:
        return stream.read(LARGEST + 1)
