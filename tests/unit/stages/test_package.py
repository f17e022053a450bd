"""`pare package` with an engine that plays a part: what is refused, written and kept."""

from __future__ import annotations

import json
import shlex
from contextlib import contextmanager

import pytest
from fast_run import pare
from packaged_run import FILES, FakeEngine, finished_run, only, server

from pipeline.core.errors import PareError
from pipeline.core.rundir import read_json
from pipeline.core.target import Target
from pipeline.stages.image_engine import NoEngine
from pipeline.stages.package import Order, package

TFLITE, ONNX = FILES
PI, ZERO = "raspberry-pi-4b", "raspberry-pi-zero-2w"
CHOSEN = {
    PI: TFLITE, ZERO: ONNX, "generic-x86": ONNX, "android-midrange": TFLITE, "stm32h7": TFLITE,
    "raspberry-pi-5": None,
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path, CHOSEN)


@pytest.fixture
def engine(tmp_path, monkeypatch):
    return only(FakeEngine(tmp_path / "bin", "docker", "podman", "buildah"), monkeypatch)


def order(run, name=PI, **how):
    return Order(run=run, target=Target.load(name), **how)


@contextmanager
def container(engine, colour):
    """Let the engine's containers answer a colour, alone and over loopback."""
    told = {"class": colour}
    with server(readyz=(200, {}), healthz=(200, {}), predict=(200, told)) as address:
        answers = {"out": json.dumps(told)}
        rules = [(["port"], {"out": f"{address}\n"}), (["run", "predict"], answers)]
        engine.plays(*rules)
        yield rules


def colour_of(run):
    """The class of the first golden image, which the engine has to give."""
    found = package(order(run, context_only=True))
    golden = read_json(run / "packages" / PI / "context/model/model.tflite.golden.json")
    assert found["kind"] == "context"
    return golden["vectors"][0]["class"]


# --- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "how", "told"),
    [
        ("smart-camera-rk3588", {}, "was not judged for smart-camera-rk3588, only for"),
        ("raspberry-pi-5", {}, "no file of .* fits raspberry-pi-5. Every file is too slow."),
        ("stm32h7", {}, "stm32h7 runs no containers. Take the file itself: .*tflite"),
        (PI, {"platform": "linux/s390x"}, "does not run linux/s390x, only linux/arm64"),
        (ZERO, {"platform": "linux/arm/v7"}, "onnxruntime has no wheel for linux/arm/v7"),
        (
            PI,
            {"file": "model.huge.onnx"},
            f"huge.onnx is no file of .* that fits {PI}. Those are: {TFLITE}, {ONNX}.",
        ),
        (PI, {"engine": "kaniko"}, "no engine 'kaniko'. Known: docker, podman, buildah"),
    ],
)
def test_what_is_refused_is_a_sentence(run, engine, name, how, told):
    with pytest.raises(PareError, match=told):
        package(order(run, name, **how))
    assert not list(run.glob("packages/*/package.json"))
    assert engine.calls == []


def test_a_run_that_is_not_finished_is_refused(run, tmp_path):
    (run / "6-profile" / "stage.json").unlink()
    for folder in (run, tmp_path / "nothing"):
        with pytest.raises(PareError, match=r"is not a finished run. Finish it: pare run"):
            package(order(folder))


def test_without_an_engine_there_is_the_context_and_the_exact_command(run, monkeypatch):
    only(FakeEngine(run / "bin"), monkeypatch)
    with pytest.raises(
        NoEngine, match="docker or podman or buildah is not installed"
    ) as caught:
        package(order(run, base="debian:pinned"))
    assert caught.value.exit_code == 4
    record = read_json(run / "packages" / PI / "package.json")
    assert record["kind"] == "context"
    assert record["command"] in str(caught.value)
    line = shlex.split(record["command"])
    assert line[:3] == ["DOCKER_BUILDKIT=1", "docker", "build"]
    assert line[line.index("--platform") + 1] == "linux/arm64"
    assert {"BASE=debian:pinned", "LARGEST_MB=200"} <= set(line)
    assert f"io.pare.target={PI}" in line
    assert line[-1] == record["context"]


def test_the_engine_that_is_asked_for_has_to_be_there(run, monkeypatch):
    only(FakeEngine(run / "bin", "podman"), monkeypatch)
    with pytest.raises(NoEngine, match=r"^docker is not installed. Install one of them"):
        package(order(run, engine="docker"))
    assert package(order(run, context_only=True))["kind"] == "context"


# --- what may fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "answer", "told"),
    [
        (
            ["build"],
            {"code": 1, "err": "no space left"},
            "docker build failed:\nno space left",
        ),
        (["image", "inspect"], {"code": 1, "err": "gone"}, "docker image failed:\ngone"),
        (
            ["selftest"],
            {"code": 1, "out": '{"why": "differs"}'},
            "its self-test failed .*differs",
        ),
        (["selftest"], {"out": "Killed"}, "answers 'Killed', which is no JSON object"),
        (
            ["predict"],
            {"code": 137},
            r"predict failed in it \(exit code 137\): it said nothing",
        ),
        (["predict"], {"out": '{"class": "?"}'}, "calls a golden image '\\?', which is '"),
    ],
)
def test_an_image_that_fails_leaves_no_record(run, engine, words, answer, told):
    plays = {"out": json.dumps({"class": colour_of(run)})}
    engine.plays((words, answer), (["run", "predict"], plays))
    with pytest.raises(PareError, match=f"(?s){told}"):
        package(order(run))
    assert not (run / "packages" / PI / "package.json").exists()


def test_killed_half_way_an_older_record_is_not_taken_for_the_new_one(run, engine):
    colour_of(run)
    assert (run / "packages" / PI / "package.json").exists()

    def killed(line):
        if line.startswith("building"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        package(order(run), killed)
    assert not (run / "packages" / PI / "package.json").exists()


# --- what is kept -------------------------------------------------------------------------


def test_an_image_is_built_tested_and_recorded(run, engine):
    with container(engine, colour_of(run)):
        said = []
        found = package(order(run, engine="docker"), said.append)
    assert found == read_json(run / "packages" / PI / "package.json")
    assert found["kind"] == "image"
    assert (found["bytes_on_disk"], found["layers"], found["engine"]) == (5e7, 2, "docker")
    assert found["smoke"]["selftest"] == {"passed": True, "worst": 0}
    assert {"name", "file", "scheme", "sha256", "bytes", "top1", "recipe_hash"} <= set(found)
    assert [line.split()[0] for line in said] == ["context:", "building", "testing"]
    build = engine.call("build")
    assert build[-1] == str(run / "packages" / PI / "context")
    assert "--secret" not in build
    assert f"io.pare.model.sha256={found['sha256']}" in build


def test_a_refused_push_keeps_the_record_of_the_image(run, engine):
    with container(engine, colour_of(run)) as rules:
        record = run / "packages" / PI / "package.json"
        pushed = package(order(run, push="registry.example/a:1"))
        assert pushed["pushed"] == read_json(record)["pushed"] == "registry.example/a:1"
        assert engine.call("tag")[1:] == ["tag", f"pare:{PI}", "registry.example/a:1"]

        engine.plays((["push"], {"code": 1, "err": "denied"}), *rules)
        with pytest.raises(PareError, match="docker push failed:\ndenied"):
            package(order(run, push="registry.example/a:1"))
    assert read_json(record)["kind"] == "image"
    assert "pushed" not in read_json(record)


def test_buildah_builds_and_tests_nothing(run, engine):
    found = package(order(run, engine="buildah"))
    assert "smoke" not in found
    assert (found["id"], found["layers"]) == ("2", 1)
    assert engine.call("bud")[:4] == ["buildah", "bud", "--format", "docker"]


def test_a_platform_of_its_own_has_a_folder_and_a_name_of_its_own(tmp_path):
    run = finished_run(tmp_path, {ZERO: TFLITE})
    usual = package(order(run, ZERO, context_only=True))
    other = package(order(run, ZERO, context_only=True, platform="linux/arm/v7"))
    assert (usual["tag"], other["tag"]) == (f"pare:{ZERO}", f"pare:{ZERO}-armv7")
    assert (usual["runtime"], other["runtime"]) == ("litert", "tflite-armv7")
    assert "LARGEST_MB=140" in other["command"]
    assert (run / "packages" / ZERO / "package.json").is_file()
    assert (run / "packages" / f"{ZERO}-armv7" / "package.json").is_file()


def test_another_file_that_fits_has_a_folder_and_a_name_of_its_own(run, engine):
    found = package(order(run, file=ONNX, context_only=True))
    assert (found["file"], found["runtime"]) == (ONNX, "onnxruntime")
    assert found["tag"] == f"pare:{PI}-float32-onnx"
    assert (run / "packages" / f"{PI}-float32-onnx" / "context/model/model.onnx").is_file()
    done = pare("package", str(run), "--target", PI, "--file", ONNX, "--context-only")
    assert done.exit_code == 0
    assert f"pare:{PI}-float32-onnx" in done.output


# --- the command line ---------------------------------------------------------------------


def test_exit_codes_and_what_is_printed(run, monkeypatch):
    only(FakeEngine(run / "bin"), monkeypatch)
    done = pare("package", str(run), "--target", "raspberry-pi-5")
    assert done.exit_code == 2
    assert "no file of" in done.stderr
    done = pare("package", str(run), "--target", PI)
    assert done.exit_code == 4
    assert "apt install docker.io" in done.stderr.replace("\nerror: ", " ")
    assert "Traceback" not in done.output
    done = pare("package", str(run), "--target", PI, "--context-only")
    assert done.exit_code == 0
    assert "build it: DOCKER_BUILDKIT=1 docker build" in done.output
    done = pare("package", str(run), "--target", PI, "--context-only", "--quiet")
    assert (done.exit_code, done.output) == (0, "")
    done = pare("package", str(run), "--target", "android-midrange")
    assert done.exit_code == 0
    assert "push.sh SERIAL" in done.output
