import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from tiny_classifier import COLOURS, classifier_file, coloured, encoded

from pipeline.runtime.__main__ import main


@pytest.fixture
def model(tmp_path):
    return str(classifier_file(tmp_path / "a.tflite"))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "images"
    (place / "deeper.png").mkdir(parents=True)
    for colour in COLOURS:
        (place / f"{colour}.PNG").write_bytes(encoded(coloured(colour)))
    (place / "notes.txt").write_text("no image")
    return place


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_folder_gives_a_line_for_each_image_by_name(model, folder, capsys):
    assert main(["predict", "--model", model, str(folder)]) == 0
    found = lines(capsys)
    assert [line["class"] for line in found] == ["blue", "green", "red"]
    assert found[0]["image"] == str(folder / "blue.PNG")
    assert all(line["probability"] > 0.5 and line["milliseconds"] > 0 for line in found)


def test_standard_input_is_one_image(model, capsys, monkeypatch):
    content = encoded(coloured("green", (90, 60)), "JPEG", quality=90)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert main(["predict", "--model", model, "-"]) == 0
    assert lines(capsys)[0]["class"] == "green"


def test_one_bad_image_does_not_stop_the_others(model, folder, capsys):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    assert main(["predict", "--model", model, str(folder)]) == 2
    captured = capsys.readouterr()
    found = [json.loads(line) for line in captured.out.splitlines()]
    assert [("error" in line) for line in found] == [False, True, False, False]
    assert "cannot be decoded" in found[1]["error"]
    assert captured.err.startswith("1 of 4 images could not be classified")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--model", "none.onnx", "IMAGE"], "no file at none.onnx"),
        (["--model", "MODEL", "none.jpg"], "no image at none.jpg. Check the path."),
        (["--model", "MODEL", "EMPTY"], "no JPEG or PNG in"),
        (["--model", "MODEL", "--threads", "0", "IMAGE"], "an engine needs at least 1"),
        (["IMAGE"], "no model is named. Name one, or set PARE_MODEL"),
    ],
)
def test_what_the_user_can_solve_is_one_sentence(
    model, folder, tmp_path, capsys, monkeypatch, given, told
):
    monkeypatch.delenv("PARE_MODEL", raising=False)
    (tmp_path / "empty").mkdir()
    named = {
        "MODEL": model,
        "IMAGE": str(folder / "red.PNG"),
        "EMPTY": str(tmp_path / "empty"),
    }
    assert main(["predict", *(named.get(one, one) for one in given)]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_missing_package_is_named(model, folder):
    code = (
        "import sys; sys.modules['PIL'] = None; from pipeline.runtime.__main__ import main; "
        f"sys.exit(main(['predict', '--model', {model!r}, {str(folder)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "PIL is not installed; the runtime needs it. Install PIL.\n"


def test_a_bug_keeps_its_traceback(model, folder, monkeypatch):
    from pipeline.runtime import predicting

    monkeypatch.setattr(predicting, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["predict", "--model", model, str(folder)])


def test_the_file_of_one_archive_does_the_same(model, folder, tmp_path):
    from pipeline.profilers.transports.payload import runtime

    program = tmp_path / "pare-runtime.pyz"
    program.write_bytes(runtime())
    done = subprocess.run(
        [sys.executable, program, "predict", "--model", model, str(folder / "red.PNG")],
        capture_output=True, text=True, check=True, cwd=tmp_path, env={"PATH": ""},
    )  # fmt: skip
    assert json.loads(done.stdout)["class"] == "red"
