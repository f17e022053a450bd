import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from tiny_classifier import COLOURS, SIZE, classifier_file, coloured, encoded

from pipeline.runtime import classifier as room
from pipeline.runtime.classifier import Classifier, refuse_strange
from pipeline.runtime.images import ImageError
from pipeline.runtime.tensors import EngineError


@pytest.fixture(params=["onnx", "tflite"])
def path(request, tmp_path):
    return classifier_file(tmp_path / f"a.{request.param}")


def claiming(width, height):
    """Return a PNG of a few bytes that claims to be of any size."""

    def chunk(kind, data):
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels)


@pytest.mark.parametrize("colour", COLOURS)
def test_the_class_is_the_colour(path, colour):
    answer = Classifier(path).classify(encoded(coloured(colour)))
    told = answer.as_json()
    assert told["class"] == COLOURS[told["index"]] == colour
    assert told["top"][0]["class"] == colour
    assert sum(one["probability"] for one in told["top"]) == pytest.approx(1, abs=1e-5)
    assert told["milliseconds"] >= told["inference_milliseconds"] > 0


def test_images_are_prepared_as_the_file_says(tmp_path):
    """The mean and std of the metadata, by hand; with others the logits are seen to differ."""
    pixels = coloured("green")
    wanted = (pixels.astype(np.float64).mean((0, 1)) / 255 - 0.5) / 0.25
    found = Classifier(classifier_file(tmp_path / "a.onnx")).classify(encoded(pixels))
    other = Classifier(classifier_file(tmp_path / "b.onnx", mean=[0.5, 0.5, 0.501]))
    assert found.logits == pytest.approx(wanted, abs=1e-5)
    assert other.classify(encoded(pixels)).logits != pytest.approx(wanted, abs=1e-5)
    odds = np.exp(wanted)
    assert found.probabilities() == pytest.approx(odds / odds.sum(), abs=1e-6)


def test_the_orientation_that_a_camera_notes_is_not_applied(path):
    from PIL import Image

    pixels = coloured("red", (SIZE, 2 * SIZE))
    pixels[:, SIZE // 2 : SIZE] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    plain = Classifier(path).decode(encoded(pixels, "JPEG", quality=95))
    turned = Classifier(path).decode(encoded(pixels, "JPEG", quality=95, exif=exif))
    assert np.array_equal(plain, turned)
    assert not np.array_equal(plain, np.rot90(plain))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the image is empty."),
        (b"GIF89a" + bytes(50), "neither a JPEG nor a PNG"),
        (b"\xff\xd8\xff" + bytes(50), "cannot be decoded"),
        (encoded(coloured("red"))[:60], "cannot be decoded"),
        (encoded(coloured("red", (64, 64)), "JPEG")[:-200], "cannot be decoded"),
        (claiming(5000, 5000), "claims 5000 x 5000 pixels; at most 16,000,000 are decoded"),
        (claiming(100_000, 100_000), "cannot be decoded|claims"),
        (b"\xff\xd8\xff" + bytes(room.LARGEST), "more than 8,000,000 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
@pytest.mark.filterwarnings("error:Image size")  # as the program sets it
def test_hostile_images_are_refused_in_words(path, content, told):
    classifier = Classifier(path, most_pixels=16_000_000)
    with pytest.raises(ImageError, match=told) as caught:
        classifier.classify(content)
    assert "0x" not in str(caught.value)  # no address in memory
    assert classifier.classify(encoded(coloured("blue"))).as_json()["class"] == "blue"


def test_a_jpeg_of_many_scans_is_refused_and_a_progressive_one_is_not(path):
    progressive = encoded(coloured("red", (64, 64)), "JPEG", progressive=True)
    refuse_strange(progressive)
    assert 5 < progressive.count(b"\xff\xda") < 20
    start = progressive.index(b"\xff\xda")
    with pytest.raises(ImageError, match="more than 40 scans"):
        refuse_strange(progressive + progressive[start:] * 20)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"classes": ["one"]}, "names 1 classes and tells 3 apart"),
        ({"mean": None}, "does not say how its images are normalised"),
    ],
)
def test_a_file_that_says_too_little_is_refused_when_it_is_loaded(tmp_path, facts, told):
    with pytest.raises(EngineError, match=told):
        Classifier(classifier_file(tmp_path / "a.onnx", **facts))


def test_a_file_that_takes_no_images_is_refused(tmp_path):
    from tiny_files import tflite_file

    with pytest.raises(EngineError, match="no images of a known size"):
        Classifier(tflite_file(tmp_path / "a.tflite"))


def test_classes_without_names_are_numbers(tmp_path):
    assert Classifier(classifier_file(tmp_path / "a.onnx", classes=None)).classes == [*"012"]


def test_outputs_that_are_not_finite_are_no_answer(path, monkeypatch):
    classifier = Classifier(path)
    monkeypatch.setattr(classifier.engine, "run", lambda _images: np.float32([[np.nan, 1, 2]]))
    with pytest.raises(EngineError, match="not finite"):
        classifier.classify(encoded(coloured("red")))


def test_the_card_names_the_file_and_what_runs_it(path):
    card = Classifier(path).card()
    assert card["image"] == {"height": SIZE, "width": SIZE, "channels": 3}
    assert (card["classes"], len(card["sha256"])) == (COLOURS, 64)
    assert card["runtime_version"] != "unknown"


@pytest.mark.parametrize("module", ["pipeline", "pipeline.runtime.sessions"])
def test_onnxruntime_reports_to_nobody(module):
    ask = f"{module}.import_onnxruntime(); " if "sessions" in module else ""
    code = f"import os, {module}; {ask}print(os.environ['ORT_DISABLE_TELEMETRY'])"
    clean = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean
    )
    assert done.stdout == "1\n"
