"""Delegates: small libraries of our own, which LiteRT itself loads or somebody refuses."""

import json
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
from tiny_classifier import COLOURS, classifier_file, coloured, encoded

from pipeline.runtime import golden, sessions
from pipeline.runtime.__main__ import main
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.delegates import Delegate
from pipeline.runtime.tensors import EngineError

#: A delegate that takes no operator, notes that it was asked, and answers as it is built to.
_SOURCE = """
#include <stdint.h>
#include <stdio.h>
#include <string.h>
struct delegate {
  void *data;
  int (*prepare)(void *, struct delegate *);
  void *unused[3];
  int64_t flags;
  void *builder;
};
static char noted[4096];
static int prepare(void *context, struct delegate *self) {
  (void)context, (void)self;
  FILE *file = *noted ? fopen(noted, "w") : NULL;
  if (file) fputs("asked", file), fclose(file);
  return ANSWER;
}
static struct delegate one = {.prepare = prepare};
void *tflite_plugin_create_delegate(char **keys, char **values, int count,
                                    void (*report)(const char *)) {
  for (int at = 0; at < count; at++)
    if (!strcmp(keys[at], "note")) strncpy(noted, values[at], sizeof noted - 1);
  if (!REFUSES) return &one;
  report("no NPU here");
  return NULL;
}
void tflite_plugin_destroy_delegate(void *delegate) { (void)delegate; }
"""

gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc builds the libraries of a test")


@pytest.fixture
def model(tmp_path):
    return classifier_file(tmp_path / "a.tflite")


@pytest.fixture(autouse=True)
def no_delegate_is_set(monkeypatch):
    for name in ("PARE_DELEGATE", "PARE_DELEGATE_OPTIONS"):
        monkeypatch.delenv(name, raising=False)


def library(folder, source, *flags):
    (folder / "d.c").write_text(source)
    made = folder / "libd.so"
    command = ["gcc", "-shared", "-fPIC", *flags, "-o", str(made), str(folder / "d.c")]
    subprocess.run(command, check=True, timeout=60)
    return made


def delegate(folder, *, refuses=0, answer=0):
    return library(folder, _SOURCE, f"-DREFUSES={refuses}", f"-DANSWER={answer}")


def told(capsys):
    captured = capsys.readouterr()
    return json.loads(captured.out.splitlines()[-1])


# --- in use -------------------------------------------------------------------------------


@gcc
def test_it_takes_part_and_every_command_says_so(model, tmp_path, capsys, monkeypatch):
    made, note = delegate(tmp_path), tmp_path / "note"
    given = ["--delegate", str(made), "--delegate-options", f"note:{note}"]
    image = tmp_path / "red.png"
    image.write_bytes(encoded(coloured("red")))
    assert main(["predict", "--model", str(model), *given, str(image)]) == 0
    found = told(capsys)
    assert (found["class"], found["delegate"]) == ("red", "libd.so")
    assert note.read_text() == "asked"
    vectors = golden.make(model, [coloured(colour) for colour in COLOURS])
    golden.beside(model).write_text(json.dumps(vectors))
    monkeypatch.setenv("PARE_DELEGATE", str(made))
    assert main(["selftest", str(model)]) == 0
    found = told(capsys)
    assert found["delegate"] == "libd.so"
    assert found["tolerance"] == 3  # another computer than the one that made the vectors
    quick = {"runs": 2, "seconds": 0, "repeats": 1, "warmup_runs": 1, "warmup_s": 0}
    assert main(["bench", str(model), "--settings", json.dumps(quick)]) == 0
    assert told(capsys)["result"]["delegate"] == "libd.so"
    assert Classifier(model, delegate=Delegate(made)).card()["delegate"] == "libd.so"


def test_without_one_every_command_says_so_too(model, tmp_path, capsys):
    vectors = golden.make(model, [coloured("red")])
    golden.beside(model).write_text(json.dumps(vectors))
    assert main(["selftest", str(model)]) == 0
    found = told(capsys)
    assert (found["delegate"], found["tolerance"]) == (None, 0)
    assert Classifier(model).card()["delegate"] is None


@gcc
def test_an_empty_name_is_none_whatever_the_environment_says(
    model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("PARE_DELEGATE", "/nowhere/vx.so")
    monkeypatch.setenv("PARE_DELEGATE_OPTIONS", "a:b")
    quick = {"runs": 2, "seconds": 0, "repeats": 1, "warmup_runs": 1, "warmup_s": 0}
    assert main(["bench", "--delegate=", str(model), "--settings", json.dumps(quick)]) == 0
    assert told(capsys)["result"]["delegate"] is None


# --- refused ------------------------------------------------------------------------------


def refusal(model, path, capsys, *more):
    image = model.with_name("red.png")
    image.write_bytes(encoded(coloured("red")))
    line = ["predict", "--model", str(model), "--delegate", str(path), *more, str(image)]
    assert main(line) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_one_that_is_not_there_is_named(model, tmp_path, capsys):
    said = refusal(model, tmp_path / "vx.so", capsys)
    assert said.startswith(f"no delegate at {tmp_path / 'vx.so'}. Install its library there")


def test_what_is_no_library_is_refused(model, tmp_path, capsys):
    (tmp_path / "vx.so").write_text("a note")
    assert "vx.so cannot be loaded (" in refusal(model, tmp_path / "vx.so", capsys)


@gcc
def test_a_library_that_is_no_delegate_is_refused(model, tmp_path, capsys):
    other = library(tmp_path, "int four(void) { return 4; }")
    said = refusal(model, other, capsys)
    assert "libd.so is no delegate: it has no tflite_plugin_create_delegate." in said


@gcc
def test_one_that_finds_no_device_is_refused_in_its_own_words(model, tmp_path, capsys):
    said = refusal(model, delegate(tmp_path, refuses=1), capsys)
    assert "libd.so refuses (" in said
    assert "no NPU here" in said


@gcc
def test_one_that_fails_on_the_file_is_refused(model, tmp_path, capsys):
    assert "libd.so refuses (" in refusal(model, delegate(tmp_path, answer=1), capsys)


def test_onnxruntime_takes_none(tmp_path, capsys):
    model = classifier_file(tmp_path / "a.onnx")
    said = refusal(model, tmp_path / "vx.so", capsys)
    assert "delegates are for .tflite files. Leave out --delegate and PARE_DELEGATE" in said


@pytest.mark.parametrize(
    ("options", "why"),
    [("cache", "option 'cache' of a delegate is not of the form key:value"),
     (":x", "option ':x' of a delegate is not")],
)  # fmt: skip
def test_options_that_say_nothing_are_refused(model, tmp_path, capsys, options, why):
    assert why in refusal(model, tmp_path / "vx.so", capsys, "--delegate-options", options)


def test_options_need_a_delegate():
    with pytest.raises(EngineError, match="options of a delegate, and no delegate"):
        Delegate.of("", "a:b")
    assert Delegate.of(None, None) is None


# --- the names of runtimes ----------------------------------------------------------------


def test_the_forerunner_of_litert_is_told_by_its_own_name(model, monkeypatch):
    from ai_edge_litert import interpreter

    older = types.ModuleType("tflite_runtime.interpreter")
    older.Interpreter = interpreter.Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", types.ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", older)
    monkeypatch.setattr(
        sessions, "version", lambda package: {"tflite-runtime": "2.14"}[package]
    )
    older_one = Classifier(model)
    assert older_one.card()["runtime"] == "tflite-runtime"
    assert older_one.card()["runtime_version"] == "2.14"
    assert older_one.logits(np.zeros((8, 8, 3), np.uint8)).shape == (3,)
    monkeypatch.undo()
    made = golden.make(model, [coloured("red")])
    assert made["runtime"]["name"] == "litert"
    # The same number of another runtime is another version.
    assert (
        golden.tolerance(older_one, {**made, "runtime": {"name": "litert", "version": "2.14"}})
        == 3
    )
