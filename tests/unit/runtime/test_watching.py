import json
import os
import signal
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_classifier import classifier_file, coloured, encoded

from pipeline.runtime import camera, watching
from pipeline.runtime.__main__ import main
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.stopping import asked_to_stop
from pipeline.runtime.tensors import EngineError
from pipeline.runtime.watching import appearing


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "frames"
    place.mkdir()
    return place


class Looks(threading.Event):
    """Stops after some looks, and does something between two of them."""

    def __init__(self, *between):
        super().__init__()
        self._between = list(between)

    def wait(self, _timeout=None):
        if not self._between:
            return True
        self._between.pop(0)()
        return False


def nothing():
    pass


def seen(folder, *between):
    return [name for name, _ in appearing(folder, 1, once=False, stop=Looks(*between))]


def test_an_image_counts_when_it_no_longer_grows(folder):
    path = folder / "a.jpg"
    path.write_bytes(b"1")

    def grow():
        path.write_bytes(path.read_bytes() + b"2")

    assert seen(folder, grow, grow) == []
    assert seen(folder, grow, nothing, nothing) == ["a.jpg"]


def test_an_image_counts_once_and_again_when_it_changes(folder):
    path = folder / "a.png"
    path.write_bytes(b"1")
    assert seen(folder, *[nothing] * 5) == ["a.png"]
    assert seen(folder, nothing, lambda: path.write_bytes(b"22"), nothing) == ["a.png"] * 2


def test_renamed_images_are_seen(folder):
    partial = folder / "a.jpg.part"
    partial.write_bytes(b"1")
    assert seen(folder, nothing, nothing) == []
    rename = lambda: partial.rename(folder / "a.jpg")  # noqa: E731
    assert seen(folder, rename, nothing, nothing) == ["a.jpg"]


def test_what_is_not_of_this_folder_is_never_read(folder, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (folder / "link.png").symlink_to(secret)
    (folder / ".hidden.png").write_bytes(b"1")
    (folder / "text.txt").write_bytes(b"1")
    (folder / "empty.png").write_bytes(b"")
    (folder / "deeper.png").mkdir()
    (folder / "deeper.png" / "a.png").write_bytes(b"1")
    os.mkfifo(folder / "pipe.png")
    assert seen(folder, nothing, nothing) == []


@pytest.mark.parametrize("become", ["link", "pipe", "nothing"])
def test_what_becomes_something_else_is_not_read(folder, tmp_path, become):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    path = folder / "a.png"
    if become == "link":
        path.symlink_to(secret)
    elif become == "pipe":
        os.mkfifo(path)
    assert watching._read(folder, "a.png") is None


def test_a_folder_that_is_not_there_is_told(folder, tmp_path):
    with pytest.raises(EngineError, match="cannot be watched: No such file or directory"):
        seen(tmp_path / "none")
    with pytest.raises(EngineError, match="cannot be watched"):
        seen(folder, folder.rmdir)


def test_the_command_prints_a_line_for_each_and_ends(folder, tmp_path, capsys):
    model = str(classifier_file(tmp_path / "a.onnx"))
    (folder / "red.jpg").write_bytes(encoded(coloured("red"), "JPEG", quality=95))
    (folder / "bad.jpg").write_bytes(b"bad")
    line = ["watch", str(folder), "--model", model, "--once", "--every", "0.01"]
    assert main(line) == 0
    bad, red = map(json.loads, capsys.readouterr().out.splitlines())
    assert (red["image"], red["class"]) == ("red.jpg", "red")
    assert bad == {"image": "bad.jpg", "error": "the image is neither a JPEG nor a PNG."}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give a folder to watch, or --source."),
        (["DIR", "--source", "/dev/video0"], "give a folder to watch, or --source."),
        (["DIR", "--every", "0"], "give more than 0"),
        (["--source", "/etc/passwd"], "--source takes /dev/video0"),
        (["--source", "http://u:secret@host"], "--source takes /dev/video0"),
        (["--source", "/dev/video0"], "needs OpenCV, which is not installed"),
    ],
)
def test_refusals(folder, tmp_path, capsys, monkeypatch, arguments, told):
    monkeypatch.setitem(sys.modules, "cv2", None)
    model = str(classifier_file(tmp_path / "a.onnx"))
    given = [str(folder) if one == "DIR" else one for one in arguments]
    assert main(["watch", *given, "--model", model]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "secret" not in said


def test_asking_to_stop_sets_the_event_and_then_all_is_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with asked_to_stop() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
    assert signal.getsignal(signal.SIGTERM) is before


class Capture:
    """What OpenCV gives, with some frames and then none."""

    def __init__(self, source, frames=3, opened=True):
        self.source, self.left, self.opened, self.grabbed = source, frames, opened, 0
        self.released = False

    def isOpened(self):
        return self.opened

    def grab(self):
        self.left -= 1
        self.grabbed += 1
        return self.left >= 0

    def retrieve(self):
        return True, coloured("blue", (48, 64))[..., ::-1]  # blue first, as OpenCV has it

    def release(self):
        self.released = True


@pytest.fixture
def opencv(monkeypatch):
    made = []

    def capture(source, **options):
        made.append(Capture(source, **options))
        return made[-1]

    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=capture))
    return made


def test_a_camera_gives_a_line_each_frame_until_it_ends(opencv, tmp_path, capsys):
    model = str(classifier_file(tmp_path / "a.onnx"))
    line = ["watch", "--source", "/dev/video2", "--model", model, "--every", "0"]
    assert main(line) == 2
    captured = capsys.readouterr()
    assert [json.loads(one)["class"] for one in captured.out.splitlines()] == ["blue"] * 3
    assert captured.err == "/dev/video2 gives no more frames. Start again when it is back.\n"
    assert (opencv[0].source, opencv[0].released) == (2, True)


def test_frames_are_shown_as_images_are(opencv, tmp_path):
    classifier = Classifier(classifier_file(tmp_path / "a.onnx"))
    pixels = coloured("blue", (48, 64))
    shown = camera.shown(pixels[..., ::-1], classifier)
    assert np.array_equal(shown, classifier.decode(encoded(pixels)))
    assert not np.array_equal(camera.shown(pixels, classifier), shown)


def test_a_stream_that_fails_does_not_tell_its_password(monkeypatch):
    shut = SimpleNamespace(VideoCapture=lambda source: Capture(source, opened=False))
    monkeypatch.setitem(sys.modules, "cv2", shut)
    with pytest.raises(EngineError, match="the stream cannot be opened") as caught:
        next(camera.frames("rtsp://user:secret@camera/1", 0))
    assert "secret" not in str(caught.value)


def test_old_frames_are_dropped(monkeypatch):
    capture = Capture(0, frames=1000)
    ticks = iter(np.arange(0, 100, 0.25))
    monkeypatch.setattr(camera, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    camera._newest(capture, 1.0, "it")
    assert capture.grabbed == 4
