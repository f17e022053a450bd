"""What a TFLite file says about itself, in the places where other tools look for it.

Three readers are served: Netron and Google's metadata library (the standard's own table,
buffer ``TFLITE_METADATA``), whoever wants all facts (buffer ``pare``, JSON), and a device
with nothing but a standard library (``labels.txt`` and ``pare.json`` in a zip archive at
the end of the file, the place the standard has for files that belong to a model).

Source:
    metadata_schema.fbs 1.1.0 of tensorflow/tflite-support; schema.fbs 3c of LiteRT.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from pipeline.core.errors import PareError
from pipeline.runtime.metadata import FACTS_FILE, LABELS_FILE

STANDARD_ENTRY = "TFLITE_METADATA"
OWN_ENTRY = "pare"

_TAKES = b"TFL3"
_SPEAKS = b"M001"
_LARGEST = 2**31 - 1  # offsets of a flatbuffer are followed as signed 32-bit numbers
_ALIGNMENT = 64  # of all that stands in the file, a multiple of any that its tables need

# Fields of the root table of a TFLite file; all but the first are offsets.
_VERSION, _BUFFERS, _METADATA = 0, 4, 6
_ROOT_FIELDS = 10
_BUFFER_OFFSET = 1
_OUTSIDE = (8, 9)  # groups of buffers in other files

# Numbers of the standard's unions and enumerations.
_IMAGE_PROPERTIES = 2
_NORMALIZATION = 1
_AXIS_LABELS = 2
_COLOURS = {1: 2, 3: 1}  # channels: GRAYSCALE, RGB
_PIXELS = 255.0
_RAW = "raw uint8"
_NEVER = (1980, 1, 1, 0, 0, 0)  # the first moment a zip archive can name


def embed(content: bytes, facts: Mapping[str, Any]) -> bytes:
    """Return a TFLite file with its metadata in it; equal bytes from equal arguments.

    The file's own bytes are kept as they are, one after the other, behind a new root that
    points into them: no tensor is touched, or loses the alignment it has.

    Args:
        content: the file, as its converter wrote it.
        facts: plain data, as :meth:`pipeline.core.signature.Signature.metadata` gives it.
            ``mean`` and ``std`` are of pixels in [0, 1]; the standard's table has them for
            pixels of 0 to 255. Where ``preprocessing`` is ``raw uint8`` the file takes
            pixels as they are, and the standard's table says mean 0, std 1.

    Raises:
        PareError: not a TFLite file, damaged, already with metadata, larger than 2 GB with
            it, or with buffers that lie outside of its tables.
    """
    builder_class = _builder()
    root = _Root(content)
    builder = builder_class(4096)
    entries = [
        (STANDARD_ENTRY, _model_metadata(facts, builder_class(1024))),
        (OWN_ENTRY, _as_json(facts)),
    ]
    head, holes = _head(builder, root, entries)
    if len(head) + len(content) > _LARGEST:
        raise PareError("a TFLite file with its metadata must stay below 2 GB. It is not.")
    for place, target in holes:
        struct.pack_into("<I", head, place, len(head) + target - place)
    return _with_files(bytes(head) + content, facts)


class _Root:
    """The root table of a TFLite file: where in the file each of its fields points."""

    def __init__(self, content: bytes) -> None:
        if content[4:8] != _TAKES:
            raise PareError("this is not a TFLite file, so no metadata can be put into it.")
        self._content = content
        try:
            self._read()
        except (struct.error, IndexError) as error:
            raise PareError(
                f"the TFLite file is damaged: {error}. Convert the network again."
            ) from error

    def _read(self) -> None:
        root = self._number("<I", 0)
        if self._fields(root) > _ROOT_FIELDS:
            raise PareError(
                "the TFLite file is of a newer schema than this version of pare knows. "
                "Use an older converter or a newer pare."
            )
        self.version = self._number("<I", self._place(root, _VERSION) or 0, absent=0)
        self.pointers = {
            field: self._target(place)
            for field in range(_VERSION + 1, _ROOT_FIELDS)
            if (place := self._place(root, field))
        }
        self.buffers = self._vector(_BUFFERS)
        self.metadata = self._vector(_METADATA)
        self._refuse_outside()
        self._refuse_twice()

    def _refuse_outside(self) -> None:
        moved = [p for table in self.buffers if (p := self._place(table, _BUFFER_OFFSET))]
        if any(self._number("<Q", place) > 1 for place in moved) or any(
            field in self.pointers for field in _OUTSIDE
        ):
            raise PareError(
                "the TFLite file keeps weights outside of its tables, as files above 2 GB do; "
                "moving them would break it. It can't carry metadata."
            )

    def _refuse_twice(self) -> None:
        names = {self._text(table) for table in self.metadata}
        found = sorted(names & {STANDARD_ENTRY, OWN_ENTRY})
        if found:
            raise PareError(
                f"the TFLite file already carries metadata ({', '.join(found)}). Put it into "
                f"the file that the converter wrote."
            )

    def _number(self, form: str, place: int, absent: int | None = None) -> int:
        if absent is not None and not place:
            return absent
        return int(struct.unpack_from(form, self._content, place)[0])

    def _target(self, place: int) -> int:
        return place + self._number("<I", place)

    def _fields(self, table: int) -> int:
        vtable = table - self._number("<i", table)
        return (self._number("<H", vtable) - 4) // 2

    def _place(self, table: int, field: int) -> int | None:
        """Return where a field of a table stands, or ``None`` where the table has none."""
        vtable = table - self._number("<i", table)
        if field >= self._fields(table):
            return None
        inside = self._number("<H", vtable + 4 + 2 * field)
        return table + inside if inside else None

    def _vector(self, field: int) -> list[int]:
        """Return where each table of a vector of tables stands."""
        start = self.pointers.get(field)
        if start is None:
            return []
        count = self._number("<I", start)
        if start + 4 + 4 * count > len(self._content):
            raise IndexError("a list is longer than the file")
        return [self._target(start + 4 + 4 * index) for index in range(count)]

    def _text(self, table: int) -> str:
        place = self._place(table, 0)
        if place is None:
            return ""
        start = self._target(place)
        size = self._number("<I", start)
        return self._content[start + 4 : start + 4 + size].decode(errors="replace")


def _head(
    builder: Any, root: _Root, entries: Sequence[tuple[str, bytes]]
) -> tuple[bytearray, list[tuple[int, int]]]:
    """Build what goes before the old file: a new root, two lists, and the new buffers.

    Returns:
        The bytes, padded, and the holes in them: each its own place and the place in the
        old file that it has to point to.
    """
    made = [_entry(builder, name, data, len(root.buffers) + i) for i, (name, data) in
            enumerate(entries)]  # fmt: skip
    buffers = _list(builder, len(root.buffers), [buffer for buffer, _ in made])
    metadata = _list(builder, len(root.metadata), [entry for _, entry in made])
    builder.StartObject(_ROOT_FIELDS)
    builder.PrependUint32Slot(_VERSION, root.version, 0)
    kept = [field for field in root.pointers if field not in (_BUFFERS, _METADATA)]
    for field in kept:
        builder.PrependUint32Slot(field, _LARGEST, 0)  # a hole, filled once all is in place
    builder.PrependUOffsetTRelativeSlot(_BUFFERS, buffers, 0)
    builder.PrependUOffsetTRelativeSlot(_METADATA, metadata, 0)
    builder.Finish(builder.EndObject(), _TAKES)
    head = bytearray(builder.Output())
    head += bytes(-len(head) % _ALIGNMENT)
    new = _Table(head)
    holes = [(new.place(field), root.pointers[field]) for field in kept]
    for field, targets in ((_BUFFERS, root.buffers), (_METADATA, root.metadata)):
        first = new.items(field)
        holes += [(first + 4 * index, target) for index, target in enumerate(targets)]
    return head, holes


class _Table:
    """The root table of bytes just built, to find the holes in it."""

    def __init__(self, content: bytearray) -> None:
        self._content = content
        (self._root,) = struct.unpack_from("<I", content, 0)
        self._vtable = self._root - struct.unpack_from("<i", content, self._root)[0]

    def place(self, field: int) -> int:
        (inside,) = struct.unpack_from("<H", self._content, self._vtable + 4 + 2 * field)
        return int(self._root + inside)

    def items(self, field: int) -> int:
        place = self.place(field)
        return int(place + struct.unpack_from("<I", self._content, place)[0] + 4)


def _entry(builder: Any, name: str, data: bytes, buffer: int) -> tuple[int, int]:
    """Write one buffer and the metadata entry that names it; return where both stand."""
    content = _bytes(builder, data)
    builder.StartObject(3)
    builder.PrependUOffsetTRelativeSlot(0, content, 0)
    made = builder.EndObject()
    named = builder.CreateString(name)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, named, 0)
    builder.PrependUint32Slot(1, buffer, 0)
    return made, builder.EndObject()


def _bytes(builder: Any, data: bytes) -> int:
    """Write bytes at a multiple of 16, as the schema asks of every buffer."""
    builder.StartVector(1, len(data), 16)
    builder.head = builder.head - len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data
    return int(builder.EndVector())


def _list(builder: Any, holes: int, made: Sequence[int]) -> int:
    """Write a list of tables: holes for those of the old file, then the new ones."""
    builder.StartVector(4, holes + len(made), 4)
    for offset in reversed(made):
        builder.PrependUOffsetTRelative(offset)
    for _ in range(holes):
        builder.PrependUint32(_LARGEST)
    return int(builder.EndVector())


def _model_metadata(facts: Mapping[str, Any], builder: Any) -> bytes:
    """Write the standard's table: ModelMetadata with one subgraph, an input, an output."""
    subgraph = _table(
        builder,
        {
            2: _tables(builder, [_input(builder, facts)]),
            3: _tables(builder, [_output(builder, facts)]),
        },
    )
    scheme, classes = facts.get("scheme"), facts.get("classes") or ()
    described = f"Image classifier, {len(classes)} classes" if classes else "Image network"
    texts = {
        0: str(facts.get("name") or "image classifier"),
        1: f"{described}, {scheme}." if scheme else f"{described}.",
        2: str(facts.get("recipe_hash") or ""),
        4: str(facts.get("producer") or ""),
        5: str(facts.get("licence") or ""),
        7: "1.0.0",
    }
    fields = {field: builder.CreateString(text) for field, text in texts.items() if text}
    builder.Finish(_table(builder, {**fields, 3: _tables(builder, [subgraph])}, of=8), _SPEAKS)
    return bytes(builder.Output())


def _input(builder: Any, facts: Mapping[str, Any]) -> int:
    """Write the input's table: an image, its size, and how its pixels are normalised."""
    raw = facts.get("preprocessing") == _RAW
    mean = [0.0] if raw else [float(m) * _PIXELS for m in facts.get("mean") or ()]
    std = [1.0] if raw else [float(s) * _PIXELS for s in facts.get("std") or ()]
    units = []
    if mean and std:
        options = _table(builder, {0: _floats(builder, mean), 1: _floats(builder, std)})
        builder.StartObject(2)
        builder.PrependUint8Slot(0, _NORMALIZATION, 0)
        builder.PrependUOffsetTRelativeSlot(1, options, 0)
        units.append(builder.EndObject())
    fields = {
        0: builder.CreateString(str(facts.get("input_name") or "input")),
        1: builder.CreateString(_of_input(facts, raw=raw)),
        3: _image(builder, facts),
    }
    return _table(builder, fields | ({4: _tables(builder, units)} if units else {}), of=7)


def _of_input(facts: Mapping[str, Any], *, raw: bool) -> str:
    shape = "x".join("n" if size is None else str(size) for size in _shape(facts))
    layout = facts.get("input_layout", "NHWC")
    pixels = "pixels as they are, 0 to 255" if raw else "(pixel - mean) / std, pixels 0 to 255"
    return f"{layout} {shape}: {pixels}." if shape else f"{layout}: {pixels}."


def _shape(facts: Mapping[str, Any]) -> Sequence[int | None]:
    return facts.get("input_shape") or ()


def _image(builder: Any, facts: Mapping[str, Any]) -> int:
    """Write that the input is an image, of which colours and which size."""
    shape = _shape(facts)
    size = None
    colours = 0
    if len(shape) == 4:
        is_last = facts.get("input_layout", "NHWC") == "NHWC"
        height, width, channels = shape[1:] if is_last else (*shape[2:], shape[1])
        colours = _COLOURS.get(channels or 0, 0)
        builder.StartObject(2)
        builder.PrependUint32Slot(0, width or 0, 0)
        builder.PrependUint32Slot(1, height or 0, 0)
        size = builder.EndObject()
    builder.StartObject(2)
    builder.PrependInt8Slot(0, colours, 0)
    if size is not None:
        builder.PrependUOffsetTRelativeSlot(1, size, 0)
    properties = builder.EndObject()
    builder.StartObject(3)
    builder.PrependUint8Slot(0, _IMAGE_PROPERTIES, 0)
    builder.PrependUOffsetTRelativeSlot(1, properties, 0)
    return int(builder.EndObject())


def _output(builder: Any, facts: Mapping[str, Any]) -> int:
    """Write the output's table: logits, and the file that has their names."""
    fields = {
        0: builder.CreateString(str(facts.get("output_name") or "output")),
        1: builder.CreateString("One number a class, the largest is the answer."),
    }
    if facts.get("classes"):
        name = builder.CreateString(LABELS_FILE)
        says = builder.CreateString("The name of each class, a line each.")
        builder.StartObject(4)
        builder.PrependUOffsetTRelativeSlot(0, name, 0)
        builder.PrependUOffsetTRelativeSlot(1, says, 0)
        builder.PrependInt8Slot(2, _AXIS_LABELS, 0)
        fields[6] = _tables(builder, [builder.EndObject()])
    return _table(builder, fields, of=7)


def _table(builder: Any, fields: Mapping[int, int], of: int | None = None) -> int:
    builder.StartObject(max(fields) + 1 if of is None else of)
    for field, offset in fields.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    return int(builder.EndObject())


def _tables(builder: Any, offsets: Sequence[int]) -> int:
    return _list(builder, 0, offsets)


def _floats(builder: Any, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())


def _with_files(content: bytes, facts: Mapping[str, Any]) -> bytes:
    """Append the files that belong to the model, as an archive any zip reader opens."""
    packed = io.BytesIO()
    packed.write(content)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_STORED) as archive:
        classes = facts.get("classes")
        if classes:
            lines = "".join(f"{' '.join(str(name).split())}\n" for name in classes)
            archive.writestr(_file(LABELS_FILE), lines.encode())
        archive.writestr(_file(FACTS_FILE), _as_json(facts))
    return packed.getvalue()


def _file(name: str) -> zipfile.ZipInfo:
    """Describe a file of the archive the same way on every machine, at every time."""
    info = zipfile.ZipInfo(name, _NEVER)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    return info


def _as_json(facts: Mapping[str, Any]) -> bytes:
    """Return the facts as JSON in ASCII, so that any reader takes them.

    Raises:
        PareError: a fact is no plain data.
    """
    try:
        return (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise PareError(f"metadata must be plain data: {error}.") from error


def _builder() -> Any:
    try:
        return import_module("flatbuffers").Builder
    except ModuleNotFoundError as error:
        raise PareError(
            "writing metadata into TFLite files needs flatbuffers, which is not installed. "
            "Install it with `pip install 'pare[tflite]'`."
        ) from error
