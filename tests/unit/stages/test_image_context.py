"""What an image is built from: exactly these files, and what they say."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import ROOT
from packaged_run import FILES, finished_run

from pipeline.core.errors import PareError
from pipeline.core.rundir import read_json
from pipeline.core.target import Target
from pipeline.stages.image_context import labels, limits, runtime_for
from pipeline.stages.package import Order, package

PI = "raspberry-pi-4b"
SCRIPTS = {"rootfs.sh", "wheels.sh", "size.sh"}


@pytest.fixture
def context(tmp_path):
    run = finished_run(tmp_path, {PI: FILES[0]})
    (run / "5-export" / "unrelated.bin").write_bytes(b"x")
    package(Order(run=run, target=Target.load(PI), context_only=True))
    return run / "packages" / PI / "context"


def test_it_holds_exactly_these_files(context):
    found = {str(p.relative_to(context)) for p in context.rglob("*") if p.is_file()}
    runtime = ROOT / "pipeline" / "runtime"
    modules = {f"pipeline/runtime/{p.relative_to(runtime)}" for p in runtime.rglob("*.py")}
    assert modules
    assert found - modules == {
        ".dockerignore", "Dockerfile", "compose.yaml", "docker-bake.hcl", "lock/litert.txt",
        "model/card.json", "model/model.tflite", "model/model.tflite.golden.json",
        "pare-raspberry-pi-4b.service", "pipeline/__init__.py", *SCRIPTS,
    }  # fmt: skip
    assert not list(context.rglob("__pycache__"))


def test_the_dockerfile_copies_what_the_allow_list_admits(context):
    lines = (context / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    admitted = {rule.removeprefix("!") for rule in rules[1:]}
    assert all(rule.startswith("!") for rule in rules[1:])
    assert admitted == {*SCRIPTS, "lock", "pipeline", "model"}
    copied = set()
    for line in (context / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= {word.split("/")[0] for word in line.split()[1:-1]}
    assert copied == admitted


def test_the_lock_names_a_digest_for_every_wheel():
    locks = sorted((ROOT / "docker" / "lock").glob("*.txt"))
    assert [path.stem for path in locks] == ["litert", "onnxruntime", "tflite-armv7"]
    for path in locks:
        entries = re.split(r"\n(?=\w)", path.read_text())[1:]
        assert entries
        assert all("==" in one and "--hash=sha256:" in one for one in entries), path


def test_compose_and_the_unit_grant_nothing(context):
    compose, unit = (context / "compose.yaml").read_text(), next(context.glob("*.service"))
    for line in (
        "read_only: true", "cap_drop: [ALL]", "security_opt: [no-new-privileges:true]",
        'ports: ["127.0.0.1:8080:8080"]', "platform: linux/arm64",
        "image: pare:raspberry-pi-4b",        "pids_limit: 64", "cpus: 4",
    ):  # fmt: skip
        assert f"    {line}\n" in compose
    for words in ("--read-only", "--cap-drop ALL", "no-new-privileges", "127.0.0.1:8080:8080"):
        assert words in unit.read_text()


def test_a_camera_with_an_npu_is_told_that_its_image_uses_the_cpu(context, tmp_path):
    assert "devices" not in (context / "compose.yaml").read_text()
    camera = "smart-camera-imx8mp"
    run = finished_run(tmp_path / "other", {camera: FILES[0]})
    package(Order(run=run, target=Target.load(camera), context_only=True))
    text = (run / "packages" / camera / "context" / "compose.yaml").read_text()
    assert "computes on the CPU" in text
    assert text.endswith("# devices: [/dev/galcore]\n")


def test_compose_is_yaml(context):
    yaml = pytest.importorskip("yaml", reason="PyYAML reads compose.yaml")
    model = yaml.safe_load((context / "compose.yaml").read_text())["services"]["model"]
    assert model["read_only"] is True
    assert model["cap_drop"] == ["ALL"]
    assert model["security_opt"] == ["no-new-privileges:true"]


def test_the_card_says_what_the_file_is(context):
    card = read_json(context / "model" / "card.json")
    assert card["file"] == FILES[0]
    assert (card["scheme"], card["top1"], card["target"]) == ("float32", 0.9, PI)
    assert card["bytes"] == (context / "model" / "model.tflite").stat().st_size
    golden = read_json(context / "model" / "model.tflite.golden.json")
    assert golden["file"]["sha256"] == card["sha256"]
    assert len(golden["vectors"]) == 4


def test_labels_are_the_cards_and_leave_out_what_nobody_knows():
    card = {
        "name": "n", "target": "t", "recipe_hash": "0123456789abcdef", "created": "now",
        "sha256": "s", "top1": None, "licence": None,
    }  # fmt: skip
    assert labels(card) == {
        "org.opencontainers.image.title": "n for t",
        "org.opencontainers.image.version": "0123456789ab",
        "org.opencontainers.image.created": "now",
        "io.pare.recipe": "0123456789abcdef",
        "io.pare.model.sha256": "s",
        "io.pare.target": "t",
    }
    more = labels({**card, "top1": 0.5, "licence": "MIT"})
    assert more["io.pare.model.accuracy"] == "0.5"
    assert more["org.opencontainers.image.licenses"] == "MIT"


def test_each_platform_has_its_runtime():
    assert runtime_for("tflite", "linux/amd64") == "litert"
    assert runtime_for("onnx", "linux/arm64") == "onnxruntime"
    assert runtime_for("tflite", "linux/arm/v7") == "tflite-armv7"
    with pytest.raises(PareError, match=r"constraints.formats be tflite alone"):
        runtime_for("onnx", "linux/arm/v7")


def test_limits_are_the_devices():
    assert limits(Target.load("raspberry-pi-zero-2w")) == (128, 4)
    assert limits(Target.load("smart-camera-imx8mp")) == (512, 4)


def test_the_room_that_ships_needs_no_other(context):
    for path in (context / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
                assert node.module.startswith("pipeline.runtime"), path
