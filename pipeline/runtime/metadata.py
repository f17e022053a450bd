"""What a model file says about itself, read without running it and without an engine.

This room ships to devices: the standard library is all it takes to learn how an image must
be prepared and what the classes are called.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.runtime.tensors import EngineError

FACTS_FILE = "pare.json"
LABELS_FILE = "labels.txt"
LARGEST = 1_000_000  # bytes of one piece of metadata; the longest list of classes is 30 kB
_LARGEST_SUM = 10 * LARGEST
_DEEPEST = 20  # lists in lists; facts are lists of words at most

# The fields of ONNX's messages that metadata is in, and those that stand for a model.
_PROPS, _KEY, _VALUE = 14, 1, 2
_GRAPH = 7
_STANDARD = {2: "producer_name", 3: "producer_version"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Words, whatever they look like: a digest of digits alone is no number.
_WORDS = frozenset(
    {
        "input_name", "output_name", "input_layout", "producer", "producer_name",
        "producer_version", "recipe_hash", "licence", "license", "format",
        "scheme", "dtype", "weights", "activations", "granularity", "io_dtype", "author",
        "version", "name", "description", "preprocessing", "input_dtype", "output_dtype",
        "method", "variant", "exporter",
    }
)  # fmt: skip


#: What a damaged archive makes Python's reader raise.
_BROKEN = (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError, ValueError)


def read_metadata(path: Path, *, beside: bool = True) -> dict[str, Any]:
    """Return what a file says about itself, by name; an empty dict where it says nothing.

    A ``.tflite`` file carries ``pare.json`` in the zip archive at its end; where it has none,
    the side-car ``<file>.json`` beside it is read. An ``.onnx`` file carries
    ``metadata_props``, whose values are decoded where they are JSON, and the name of the
    program that wrote it. Nothing of the file is executed.

    Args:
        path: the file.
        beside: whether a side-car counts.

    Raises:
        EngineError: no such file, another format, a damaged file, or one piece of metadata
            that is larger than 1 MB.
    """
    readers: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
        ".onnx": _onnx_facts,
        ".tflite": _tflite_facts,
    }
    if path.suffix not in readers:
        known = ", ".join(readers)
        raise EngineError(f"{path}: no metadata known for {path.suffix!r}. Known: {known}.")
    if not path.is_file():
        raise EngineError(f"no file at {path}. Check the path.")
    return readers[path.suffix](path, beside)


def _tflite_facts(path: Path, beside: bool) -> dict[str, Any]:
    packed = _zipped(path, FACTS_FILE)
    if packed is not None:
        return _table(packed, f"{path} ({FACTS_FILE})")
    labels = _zipped(path, LABELS_FILE)
    known = {"classes": labels.decode(errors="replace").splitlines()} if labels else {}
    return known | (_side_car(path) if beside else {})


def _zipped(path: Path, name: str) -> bytes | None:
    """Return a file of the archive at the end of a file, or ``None`` where it has none."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error):
        return None  # weights may look like the end of an archive
    with archive:
        found = [info for info in archive.infolist() if info.filename == name]
        if not found:
            return None
        if found[-1].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise EngineError(f"{path} ({name}) is packed in an unknown way. It is not read.")
        try:
            # The archive's own word on the size is not believed.
            with archive.open(found[-1]) as stream:
                return _bounded(stream.read(LARGEST + 1), f"{path} ({name})")
        except _BROKEN as error:
            raise EngineError(
                f"{path}: the archive at its end is damaged ({error}). Export the file again."
            ) from error


def _side_car(path: Path) -> dict[str, Any]:
    beside = path.with_name(f"{path.name}.json")
    if not beside.is_file():
        return {}
    with beside.open("rb") as stream:
        return _table(_bounded(stream.read(LARGEST + 1), str(beside)), str(beside))


def _bounded(content: bytes, where: str) -> bytes:
    if len(content) > LARGEST:
        raise EngineError(
            f"{where} is larger than {LARGEST:,} bytes, which no metadata is. It is not read."
        )
    return content


def _table(content: bytes, where: str) -> dict[str, Any]:
    try:
        found = _flat(json.loads(content, parse_constant=_refuse))
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{where} is not JSON: {error}. Export the file again.") from error
    if not isinstance(found, dict):
        raise EngineError(f"{where} holds no table of facts. Export the file again.")
    return found


def _onnx_facts(path: Path, _beside: bool) -> dict[str, Any]:
    """Walk the outermost message of an ONNX file; weights are stepped over unread."""
    own: dict[str, Any] = {}
    standard: dict[str, Any] = {}
    seen: set[int] = set()
    total = 0
    try:
        with path.open("rb") as stream:
            for field, size in _fields(stream, path.stat().st_size):
                seen.add(field)
                total += size if field == _PROPS else 0
                if total > _LARGEST_SUM:
                    raise EngineError(
                        f"{path} has more than {_LARGEST_SUM:,} bytes of metadata."
                    )
                if field == _PROPS:
                    pair = _words(stream, size, path)
                    own[pair.get(_KEY, "")] = pair.get(_VALUE, "")
                elif field in _STANDARD and size:
                    standard[_STANDARD[field]] = _text(stream, size, path)
    except (ValueError, EOFError) as error:
        raise EngineError(f"{path} is not a readable ONNX file: {error}.") from error
    if _GRAPH not in seen:
        raise EngineError(f"{path} is not a readable ONNX file: it holds no graph.")
    return standard | {key: _decoded(key, value) for key, value in own.items()}


def _fields(stream: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Yield number and size of each field; numbers have size 0 and are read already.

    Whatever the caller leaves of a field is stepped over.
    """
    while stream.tell() < end:
        tag = _varint(stream)
        field, kind = tag >> 3, tag & 7
        size = 0
        if kind == _VARINT:
            _varint(stream)
        elif kind in (_FIXED64, _FIXED32):
            stream.seek(8 if kind == _FIXED64 else 4, 1)
        elif kind == _BYTES:
            size = _varint(stream)
        else:
            raise ValueError(f"field {field} is of unknown kind {kind}")
        after = stream.tell() + size
        if after > end:
            raise EOFError(f"field {field} ends behind the end of the file")
        yield field, size
        stream.seek(after)


def _words(stream: BinaryIO, size: int, path: Path) -> dict[int, str]:
    """Read a message of texts by their field numbers."""
    found = {}
    for field, length in _fields(stream, stream.tell() + size):
        found[field] = _text(stream, length, path)
    return found


def _text(stream: BinaryIO, size: int, path: Path) -> str:
    content = stream.read(min(size, LARGEST + 1))
    return _bounded(content, f"{path}: a text").decode(errors="replace")


def _varint(stream: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise EOFError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number has more than ten bytes")


def _decoded(key: str, text: str) -> Any:
    """Return a value as plain data where it is JSON, else as the text it is."""
    if key in _WORDS:
        return text
    try:
        return _flat(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return text


def _flat(value: Any) -> Any:
    """Return a value that is not nested so deeply that printing it would break the stack."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            item
            for one in level
            if isinstance(one, (list, dict))
            for item in (one.values() if isinstance(one, dict) else one)
        ]
    if level:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")
