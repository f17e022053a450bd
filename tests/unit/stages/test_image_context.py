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


GRANTED = ("/dev/galcore", "libvx_delegate.so", "/opt/delegate", "PARE_DELEGATE", "44")


def test_a_camera_with_an_npu_is_granted_its_device_and_delegate(context, tmp_path):
    camera = "smart-camera-imx8mp"
    run = finished_run(tmp_path / "other", {camera: FILES[0]})
    package(Order(run=run, target=Target.load(camera), context_only=True))
    own = run / "packages" / camera / "context"
    unit = f"pare-{camera}.service"
    for name, of_another in (("compose.yaml", "compose.yaml"), (unit, f"pare-{PI}.service")):
        text, other = (own / name).read_text(), (context / of_another).read_text()
        for word in GRANTED:
            assert word in text, name
            assert word not in other, name
    assert "    devices: [/dev/galcore]\n" in (own / "compose.yaml").read_text()
    assert "computes on the CPU" in (own / "compose.yaml").read_text()
    # A line that ends without its backslash would cut the command in two.
    start = (own / unit).read_text().partition("ExecStart=")[2].partition("ExecStop")[0]
    lines = start.splitlines()
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert lines[-1] == f"  pare:{camera}"
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_file_that_no_delegate_takes_is_granted_none(tmp_path):
    camera = "smart-camera-imx8mp"
    run = finished_run(tmp_path / "other", {camera: FILES[1]})
    package(Order(run=run, target=Target.load(camera), context_only=True))
    compose = run / "packages" / camera / "context" / "compose.yaml"
    assert "galcore" not in compose.read_text()


def test_compose_is_yaml(context):
    yaml = pytest.importorskip("yaml", reason="PyYAML reads compose.yaml")
    model = yaml.safe_load((context / "compose.yaml").read_text())["services"]["model"]
    assert model["read_only"] is True
    assert model["cap_drop"] == ["ALL"]
    assert model["security_opt"] == ["no-new-privileges:true"]


def test_a_delegate_in_compose_is_yaml(tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML reads compose.yaml")
    camera = "smart-camera-imx8mp"
    run = finished_run(tmp_path, {camera: FILES[0]})
    package(Order(run=run, target=Target.load(camera), context_only=True))
    text = (run / "packages" / camera / "context" / "compose.yaml").read_text()
    model = yaml.safe_load(text)["services"]["model"]
    assert model["devices"] == ["/dev/galcore"]
    assert model["environment"]["PARE_DELEGATE"] == "/opt/delegate/libvx_delegate.so"
    assert model["volumes"][0]["bind"] == {"create_host_path": False}


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
