"""Metadata in TFLite files, read back by readers that share no code with the writer."""

import io
import json
import struct
import time
import zipfile

import numpy as np
import pytest
from tiny_tflite import FEATURES, dense, packed

from pipeline.core.errors import PareError
from pipeline.exporters.tflite_metadata import embed

FACTS = {
    "input_name": "input",
    "input_shape": [1, 32, 24, 3],
    "input_layout": "NHWC",
    "output_name": "logits",
    "output_shape": [1, 3],
    "mean": [0.5, 0.25, 0.125],
    "std": [0.2, 0.4, 0.1],
    "classes": ["cat", "dög", "a\nship"],
    "producer": "pare 0.0",
    "recipe_hash": "f00d",
    "licence": "CC0-1.0",
    "scheme": "int8",
    "dtype": "int8",
}


@pytest.fixture(scope="module")
def schema():
    return pytest.importorskip("ai_edge_litert.schema_py_generated")


class Table:
    """The least that reads a flatbuffer, field by field as the format says."""

    def __init__(self, data, at=None):
        self.data = data
        self.at = self.u32(0) if at is None else at

    def u32(self, at):
        return struct.unpack_from("<I", self.data, at)[0]

    def place(self, field):
        table = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        if 4 + 2 * field >= struct.unpack_from("<H", self.data, table)[0]:
            return None
        inside = struct.unpack_from("<H", self.data, table + 4 + 2 * field)[0]
        return self.at + inside if inside else None

    def number(self, field, form="<I"):
        place = self.place(field)
        return 0 if place is None else struct.unpack_from(form, self.data, place)[0]

    def pointed(self, field):
        place = self.place(field)
        return None if place is None else place + self.u32(place)

    def table(self, field):
        return Table(self.data, self.pointed(field))

    def tables(self, field):
        start = self.pointed(field)
        if start is None:
            return []
        places = range(start + 4, start + 4 + 4 * self.u32(start), 4)
        return [Table(self.data, place + self.u32(place)) for place in places]

    def bytes(self, field):
        start = self.pointed(field)
        return b"" if start is None else self.data[start + 4 : start + 4 + self.u32(start)]

    def text(self, field):
        return self.bytes(field).decode()

    def floats(self, field):
        start = self.pointed(field)
        return [*struct.unpack_from(f"<{self.u32(start)}f", self.data, start + 4)]


def entries(content):
    """Return the content of each metadata entry of a TFLite file by its name."""
    model = Table(content)
    buffers = model.tables(4)
    return {entry.text(0): buffers[entry.number(1)].bytes(0) for entry in model.tables(6)}


def standard(facts, schema):
    content = entries(embed(dense(schema), facts))["TFLITE_METADATA"]
    assert content[4:8] == b"M001"
    return Table(content)


def outputs(content, dtype):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    values = np.random.default_rng(0).integers(-100, 100, (1, FEATURES)).astype(dtype)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def alignments(content):
    """Return where the content of each buffer starts, modulo 64."""
    return [
        (buffer.pointed(0) + 4) % 64 for buffer in Table(content).tables(4) if buffer.place(0)
    ]


@pytest.mark.parametrize("integer", [True, False])
def test_a_file_with_metadata_runs_and_answers_the_same(schema, integer):
    content = dense(schema, integer=integer)
    dtype = np.int8 if integer else np.float32
    before = outputs(content, dtype)
    assert np.array_equal(outputs(embed(content, FACTS), dtype), before)
    spoiled = dense(schema, integer=integer, weights=np.eye(3, FEATURES))
    assert not np.array_equal(outputs(spoiled, dtype), before)


def test_every_tensor_is_kept_to_the_byte_and_to_its_place(schema):
    content = dense(schema, integer=True, entry="theirs")
    made = embed(content, FACTS)
    was, now = (schema.ModelT.InitFromPackedBuf(data, 0) for data in (content, made))
    kept = now.buffers[: len(was.buffers)]
    assert [bytes(b.data) if b.data is not None else None for b in kept] == [
        bytes(b.data) if b.data is not None else None for b in was.buffers
    ]
    assert (now.version, now.description) == (was.version, was.description)
    for one, other in zip(now.subgraphs[0].tensors, was.subgraphs[0].tensors, strict=True):
        assert (one.name, one.buffer, one.type) == (other.name, other.buffer, other.type)
        assert list(one.quantization.scale) == list(other.quantization.scale)
    assert alignments(made)[: len(alignments(content))] == alignments(content)


def test_what_is_added_is_aligned_as_the_schema_asks(schema):
    content = dense(schema)
    added = alignments(embed(content, FACTS))[len(alignments(content)) :]
    assert [place % 16 for place in added] == [0, 0]


def test_entries_of_the_converter_stay(schema):
    found = entries(embed(dense(schema, entry="min_runtime_version"), FACTS))
    assert [*found] == ["min_runtime_version", "TFLITE_METADATA", "pare"]
    assert found["min_runtime_version"] == b"told"


def test_all_facts_are_in_an_entry_of_their_own(schema):
    assert json.loads(entries(embed(dense(schema), FACTS))["pare"]) == FACTS


def test_the_standards_table_says_who_made_it_and_under_which_licence(schema):
    model = standard(FACTS, schema)
    assert model.text(0) == "image classifier"
    assert model.text(1) == "Image classifier, 3 classes, int8."
    assert (model.text(2), model.text(4), model.text(5)) == ("f00d", "pare 0.0", "CC0-1.0")
    assert model.text(7) == "1.0.0"


def test_the_standards_table_has_the_normalization_of_pixels_to_255(schema):
    (subgraph,) = standard(FACTS, schema).tables(3)
    (image,) = subgraph.tables(2)
    assert image.text(0) == "input"
    assert "NHWC 1x32x24x3" in image.text(1)
    (unit,) = image.tables(4)
    assert unit.number(0, "<B") == 1  # NormalizationOptions
    assert unit.table(1).floats(0) == [127.5, 63.75, 31.875]
    assert unit.table(1).floats(1) == pytest.approx([51.0, 102.0, 25.5])


def test_the_standards_table_has_the_image(schema):
    content = standard(FACTS, schema).tables(3)[0].tables(2)[0].table(3)
    assert content.number(0, "<B") == 2  # ImageProperties
    image = content.table(1)
    assert image.number(0, "<b") == 1  # RGB
    assert (image.table(1).number(0), image.table(1).number(1)) == (24, 32)


def test_the_standards_table_names_the_labels(schema):
    (output,) = standard(FACTS, schema).tables(3)[0].tables(3)
    (labels,) = output.tables(6)
    assert (output.text(0), labels.text(0)) == ("logits", "labels.txt")
    assert labels.number(2, "<b") == 2  # TENSOR_AXIS_LABELS


def test_a_file_that_takes_pixels_as_they_are_says_so(schema):
    image = standard(FACTS | {"preprocessing": "raw uint8"}, schema).tables(3)[0].tables(2)[0]
    options = image.tables(4)[0].table(1)
    assert (options.floats(0), options.floats(1)) == ([0.0], [1.0])
    assert "pixels as they are" in image.text(1)


def test_what_is_not_known_is_left_out(schema):
    model = standard({"producer": "pare 0.0"}, schema)
    (subgraph,) = model.tables(3)
    assert model.place(5) is None
    assert subgraph.tables(2)[0].tables(4) == []
    assert subgraph.tables(3)[0].tables(6) == []


def test_the_archive_at_the_end_opens_with_any_reader(schema):
    with zipfile.ZipFile(io.BytesIO(embed(dense(schema), FACTS))) as archive:
        assert archive.namelist() == ["labels.txt", "pare.json"]
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode().splitlines() == ["cat", "dög", "a ship"]
        assert json.loads(archive.read("pare.json")) == FACTS
        assert all(i.compress_type == zipfile.ZIP_STORED for i in archive.infolist())


def test_equal_facts_make_equal_files_whatever_the_time(schema, monkeypatch):
    content = dense(schema)
    first = embed(content, FACTS)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    assert embed(content, FACTS) == first
    assert embed(content, FACTS | {"recipe_hash": "f00e"}) != first


def test_a_large_file_takes_no_time(schema):
    weights = np.ones((3, 8_000_000), np.float32)
    content = dense(schema, weights=weights)
    assert len(content) > 90_000_000
    began = time.perf_counter()
    made = embed(content, FACTS)
    assert time.perf_counter() - began < 5
    assert len(made) - len(content) < 4096


def test_metadata_is_embedded_once(schema):
    made = embed(dense(schema), FACTS)
    with pytest.raises(PareError, match=r"already carries metadata \(TFLITE_METADATA, pare\)"):
        embed(made, FACTS)
    with pytest.raises(PareError, match=r"already carries metadata \(pare\)"):
        embed(dense(schema, entry="pare"), FACTS)


def test_weights_outside_of_the_tables_are_refused(schema):
    model = schema.ModelT.InitFromPackedBuf(dense(schema), 0)
    model.buffers[2].data, model.buffers[2].offset, model.buffers[2].size = None, 4096, 96
    with pytest.raises(PareError, match="outside of its tables"):
        embed(packed(model), FACTS)
    model.buffers[2].offset = 1  # the schema's other word for none
    assert embed(packed(model), FACTS)


def test_what_is_no_lite_file_is_refused(schema):
    with pytest.raises(PareError, match="not a TFLite file"):
        embed(b"nothing of the kind", FACTS)


@pytest.mark.parametrize("damage", [lambda c: c[:60], lambda c: b"\xff\xff\xff\x7f" + c[4:]])
def test_a_damaged_file_is_refused(schema, damage):
    with pytest.raises(PareError, match="is damaged"):
        embed(damage(dense(schema)), FACTS)


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_a_fact_that_is_no_plain_data_is_refused(schema, value):
    with pytest.raises(PareError, match="must be plain data"):
        embed(dense(schema), FACTS | {"extra": value})
