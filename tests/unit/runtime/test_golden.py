import copy
import json

import numpy as np
import pytest
from tiny_classifier import COLOURS, SIZE, classifier_file, coloured

from pipeline.runtime import golden
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.tensors import EngineError

IMAGES = [coloured(colour) for colour in COLOURS]


@pytest.fixture
def integer(tmp_path):
    path = classifier_file(tmp_path / "a.tflite", weights="int8")
    return Classifier(path), golden.make(path, IMAGES)


@pytest.fixture
def real(tmp_path):
    path = classifier_file(tmp_path / "a.onnx")
    return Classifier(path), golden.make(path, IMAGES)


def spoiled(made, by):
    other = copy.deepcopy(made)
    other["vectors"][1]["logits"][2] += by
    return other


def elsewhere(made):
    return {**made, "runtime": {"name": "litert", "version": "2.14.0"}}


@pytest.mark.parametrize("kind", ["integer", "real"])
def test_a_file_answers_as_it_did(kind, request):
    classifier, made = request.getfixturevalue(kind)
    found = golden.verify(classifier, json.loads(json.dumps(made)))
    assert (found["passed"], found["vectors"], found["worst"]) == (True, 3, 0)
    assert [one["class"] for one in made["vectors"]] == COLOURS
    assert made == golden.make(classifier.path, IMAGES)


def test_integers_are_stored_as_they_are(integer):
    classifier, made = integer
    stored = made["vectors"][0]["logits"]
    assert all(isinstance(value, int) for value in stored)
    steps = classifier.logits(IMAGES[0]) / classifier.engine.output_step
    assert stored == pytest.approx(steps, abs=1e-3)


def test_integers_are_held_to_no_step_here_and_to_three_elsewhere(integer):
    classifier, made = integer
    assert golden.verify(classifier, spoiled(made, 0))["passed"]
    found = golden.verify(classifier, spoiled(made, 1))
    assert not found["passed"]
    assert found["why"] == "the logits of golden image 1 differ by 1 (steps), over 0."
    assert golden.verify(classifier, elsewhere(spoiled(made, 3)))["passed"]
    assert not golden.verify(classifier, elsewhere(spoiled(made, 4)))["passed"]


@pytest.mark.parametrize(("part", "passes"), [(0.9e-4, True), (1.1e-4, False)])
def test_floats_are_held_to_a_ten_thousandth_of_the_largest(real, part, passes):
    classifier, made = real
    largest = float(np.abs(classifier.logits(IMAGES[1])).max())
    assert golden.verify(classifier, spoiled(made, part * largest))["passed"] == passes


def test_another_file_is_seen_before_it_is_run(real, tmp_path):
    _, made = real
    other = Classifier(classifier_file(tmp_path / "b.onnx", mean=[0.5, 0.5, 0.51]))
    found = golden.verify(other, made)
    assert not found["passed"]
    assert "the golden vectors are of" in found["why"]


def test_classes_that_tolerance_cannot_tell_apart_may_each_come_first(tmp_path):
    path = classifier_file(tmp_path / "a.tflite")
    close = coloured("red")
    close[..., 1] = close[..., 0] - 3  # about one step of a logit
    made = golden.make(path, [close, coloured("red")])
    assert [one["probable"] for one in made["vectors"]] == [[0, 1], [0]]


def test_what_is_no_golden_image_is_refused(tmp_path):
    path = classifier_file(tmp_path / "a.onnx")
    with pytest.raises(EngineError, match="0 golden images; give 1 to 16"):
        golden.make(path, [])
    with pytest.raises(EngineError, match="17 golden images"):
        golden.make(path, IMAGES[:1] * 17)
    with pytest.raises(EngineError, match=rf"give uint8 \[{SIZE}, {SIZE}, 3\]"):
        golden.make(path, [coloured("red", (SIZE, SIZE + 1))])


def test_a_golden_file_has_a_largest_size(tmp_path, monkeypatch):
    path = classifier_file(tmp_path / "a.onnx")
    monkeypatch.setattr(golden, "LARGEST", 500)
    with pytest.raises(EngineError, match="more than 500 bytes"):
        golden.make(path, IMAGES)
    golden.beside(path).write_text(" " * 501)
    with pytest.raises(EngineError, match="larger than 500 bytes"):
        golden.read(golden.beside(path))


def test_what_is_written_is_read(real):
    classifier, made = real
    place = golden.beside(classifier.path)
    assert place.name == "a.onnx.golden.json"
    with pytest.raises(EngineError, match="no golden vectors at"):
        golden.read(place)
    place.write_text(json.dumps(made))
    assert golden.read(place) == made


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": "pare-golden/9"}, "'pare-golden/1' is known"),
        ({"vectors": []}, "it has 0 vectors"),
        ({"vectors": [{"png": "", "index": 0, "probable": [0]}]}, "'logits'"),
        ({"tolerance": {"unit": "miles"}}, "unknown unit"),
        ({"tolerance": None}, "not subscriptable"),
        ({"file": {}}, "'sha256'"),
    ],
)
def test_a_golden_file_that_is_none_is_refused(real, tmp_path, change, told):
    place = tmp_path / "golden.json"
    place.write_text(json.dumps({**real[1], **change}))
    with pytest.raises(EngineError, match=told):
        golden.read(place)


def test_a_damaged_golden_image_is_told(real):
    classifier, made = real
    made["vectors"][0]["png"] = "!"
    with pytest.raises(EngineError, match="a golden image is damaged"):
        golden.verify(classifier, made)
    made["vectors"][0]["png"] = "AAAA"
    with pytest.raises(EngineError, match="a golden image: the image is neither"):
        golden.verify(classifier, made)
