import json
import zipfile

import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.runtime import metadata
from pipeline.runtime.metadata import read_metadata
from pipeline.runtime.tensors import EngineError

FACTS = {"classes": ["a", "b"], "mean": [0.5], "recipe_hash": "0123", "input_shape": [1, 8]}


def save_onnx(path, props, **model):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
    )
    made = helper.make_model(graph, **model)
    helper.set_model_props(made, props)
    onnx.save(made, str(path))
    return path


def save_lite(path, files, compression=zipfile.ZIP_STORED):
    """Write what stands for a model, with an archive at its end."""
    path.write_bytes(b"....TFL3" + bytes(1000))
    with zipfile.ZipFile(path, "a", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


# --- ONNX -----------------------------------------------------------------------------


def test_the_props_of_an_onnx_file_are_decoded(tmp_path):
    props = {
        "classes": '["a", "b"]',
        "output_step": "0.125",
        "static": "true",
        "producer": "pare 1",
        "free": "half {json",
    }
    found = read_metadata(save_onnx(tmp_path / "a.onnx", props, producer_name="torch"))
    assert found == {
        "producer_name": "torch",
        "classes": ["a", "b"],
        "output_step": 0.125,
        "static": True,
        "producer": "pare 1",
        "free": "half {json",
    }


@pytest.mark.parametrize("text", ["0123", "12", "1e5", "null", "[1]"])
def test_a_digest_stays_a_text_whatever_it_looks_like(tmp_path, text):
    assert read_metadata(save_onnx(tmp_path / "a.onnx", {"recipe_hash": text})) == {
        "recipe_hash": text
    }


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[" * 100_000])
def test_what_is_no_plain_json_stays_a_text(tmp_path, text):
    assert read_metadata(save_onnx(tmp_path / "a.onnx", {"k": text}))["k"] == text


def test_a_file_without_props_says_nothing(tmp_path):
    assert read_metadata(save_onnx(tmp_path / "a.onnx", {})) == {}


def test_the_walk_reads_what_onnx_itself_reads(tmp_path):
    props = {f"key {i}": f"wert ü {i}" for i in range(300)}
    path = save_onnx(tmp_path / "a.onnx", props, producer_version="1.2", doc_string="long")
    loaded = onnx.load(str(path))
    assert read_metadata(path) == {"producer_version": "1.2"} | {
        prop.key: prop.value for prop in loaded.metadata_props
    }


def test_no_weight_is_read(tmp_path, monkeypatch):
    path = save_onnx(tmp_path / "a.onnx", {"k": "v"})
    model = onnx.load(str(path))
    weight = helper.make_tensor(
        "w", TensorProto.UINT8, [5_000_000], bytes(5_000_000), raw=True
    )
    model.graph.initializer.append(weight)
    onnx.save(model, str(path))
    read = []
    text = metadata._text
    monkeypatch.setattr(
        metadata,
        "_text",
        lambda stream, size, path: read.append(size) or text(stream, size, path),
    )
    assert read_metadata(path) == {"k": "v"}
    assert sum(read) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"nothing of the kind", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a", b"\xff" * 20],
)
def test_a_damaged_onnx_file_is_refused(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(EngineError, match="not a readable ONNX file"):
        read_metadata(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("size", "fits"), [(metadata.LARGEST, True), (metadata.LARGEST + 1, False)]
)
def test_a_text_of_an_onnx_file_has_a_bound(tmp_path, size, fits):
    path = save_onnx(tmp_path / "a.onnx", {"k": "x" * size})
    if fits:
        assert len(read_metadata(path)["k"]) == size
    else:
        with pytest.raises(EngineError, match="larger than 1,000,000 bytes"):
            read_metadata(path)


def test_all_props_together_have_a_bound(tmp_path):
    few = {str(i): "x" * 900_000 for i in range(11)}
    assert len(read_metadata(save_onnx(tmp_path / "a.onnx", few))) == 11
    many = few | {"more": "x" * 900_000}
    with pytest.raises(EngineError, match="more than 10,000,000 bytes of metadata"):
        read_metadata(save_onnx(tmp_path / "a.onnx", many))


# --- TFLite ---------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_facts_of_a_lite_file_are_in_its_archive(tmp_path, compression):
    files = {"labels.txt": "x\n", "pare.json": json.dumps(FACTS)}
    assert read_metadata(save_lite(tmp_path / "a.tflite", files, compression)) == FACTS


def test_without_an_archive_the_side_car_tells(tmp_path):
    (tmp_path / "a.tflite").write_bytes(b"....TFL3" + bytes(100))
    assert read_metadata(tmp_path / "a.tflite") == {}
    (tmp_path / "a.tflite.json").write_text(json.dumps(FACTS))
    assert read_metadata(tmp_path / "a.tflite") == FACTS
    assert read_metadata(tmp_path / "a.tflite", beside=False) == {}


def test_the_archive_counts_before_the_side_car(tmp_path):
    path = save_lite(tmp_path / "a.tflite", {"pare.json": json.dumps(FACTS)})
    (tmp_path / "a.tflite.json").write_text('{"classes": ["other"]}')
    assert read_metadata(path) == FACTS


def test_labels_of_another_tool_are_taken(tmp_path):
    path = save_lite(tmp_path / "a.tflite", {"labels.txt": "cat\ndog\n"})
    assert read_metadata(path) == {"classes": ["cat", "dog"]}


def test_weights_that_look_like_the_end_of_an_archive_are_none(tmp_path):
    content = b"....TFL3" + bytes(100) + b"PK\x05\x06" + b"\xff" * 40
    (tmp_path / "a.tflite").write_bytes(content)
    assert read_metadata(tmp_path / "a.tflite") == {}


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (1, False)])
def test_a_file_of_the_archive_has_a_bound(tmp_path, spare, fits):
    content = json.dumps({"k": ""})
    filled = json.dumps({"k": "x" * (metadata.LARGEST - len(content) + spare)})
    path = save_lite(tmp_path / "a.tflite", {"pare.json": filled}, zipfile.ZIP_DEFLATED)
    if fits:
        assert read_metadata(path)
    else:
        with pytest.raises(EngineError, match=r"pare\.json\) is larger than 1,000,000 bytes"):
            read_metadata(path)


def test_a_side_car_has_a_bound(tmp_path):
    (tmp_path / "a.tflite").write_bytes(b"....TFL3")
    (tmp_path / "a.tflite.json").write_text(" " * metadata.LARGEST + "{}")
    with pytest.raises(EngineError, match="larger than 1,000,000 bytes"):
        read_metadata(tmp_path / "a.tflite")


@pytest.mark.parametrize("text", ["[1]", "no json", '{"a": NaN}', "[" * 100_000])
def test_facts_that_are_no_table_are_refused(tmp_path, text):
    path = save_lite(tmp_path / "a.tflite", {"pare.json": text})
    with pytest.raises(EngineError, match=r"pare\.json\) (is not JSON|holds no table)"):
        read_metadata(path)


def test_a_damaged_archive_is_refused(tmp_path):
    path = save_lite(tmp_path / "a.tflite", {"pare.json": json.dumps(FACTS)})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"classes", b"clAsses"))
    with pytest.raises(EngineError, match="the archive at its end is damaged"):
        read_metadata(path)


def test_an_unusual_packing_is_refused(tmp_path):
    path = save_lite(tmp_path / "a.tflite", {"pare.json": "{}" * 99}, zipfile.ZIP_BZIP2)
    with pytest.raises(EngineError, match="packed in an unknown way"):
        read_metadata(path)


# --- both -----------------------------------------------------------------------------


def test_files_nobody_knows_are_refused(tmp_path):
    with pytest.raises(EngineError, match=r"no metadata known for '\.h5'"):
        read_metadata(tmp_path / "a.h5")
    with pytest.raises(EngineError, match="no file at"):
        read_metadata(tmp_path / "a.onnx")
