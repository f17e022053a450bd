"""What engines are asked, and what becomes of what they answer."""

from __future__ import annotations

import pytest
from packaged_run import FakeEngine, only

from pipeline.core.errors import PareError
from pipeline.stages import build_command
from pipeline.stages.image_engine import ENGINES, Engine, NoEngine

HOW = {
    "platform": "linux/arm64",
    "tag": "a:b",
    "labels": {"k": "v w"},
    "arguments": {"B": "c"},
}


@pytest.fixture
def programs(tmp_path, monkeypatch):
    return only(FakeEngine(tmp_path / "bin", *ENGINES), monkeypatch)


def test_the_first_engine_that_is_installed_is_taken(tmp_path, monkeypatch):
    only(FakeEngine(tmp_path / "two", "podman", "buildah"), monkeypatch)
    assert Engine().name == "podman"
    assert Engine("buildah").name == "buildah"
    with pytest.raises(NoEngine, match="docker is not installed"):
        Engine("docker")


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("docker", ["docker", "build"]),
        ("podman", ["podman", "build", "--format", "docker"]),
        ("buildah", ["buildah", "bud", "--format", "docker"]),
    ],
)
def test_each_engine_is_asked_in_its_own_words(programs, tmp_path, name, first):
    Engine(name).build(tmp_path, **HOW)
    (line,) = programs.calls
    assert line == [
        *first, "--platform", "linux/arm64", "--tag", "a:b", "--label", "k=v w",
        "--build-arg", "B=c", str(tmp_path),
    ]  # fmt: skip


def test_pips_settings_are_secrets_where_there_are_any(programs, tmp_path, monkeypatch):
    settings, own = tmp_path / "pip.conf", tmp_path / "ca.pem"
    settings.write_text("[global]\n")
    own.write_text("certificates")
    engine = Engine("docker")

    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    monkeypatch.setattr(build_command, "CERTIFICATES", "/nowhere")
    engine.build(tmp_path, **HOW)
    monkeypatch.setenv("PIP_CERT", str(own))
    engine.build(tmp_path, **HOW)
    monkeypatch.delenv("PIP_CONFIG_FILE")
    engine.build(tmp_path, **HOW)
    found = [[word for word in line if word.startswith("id=")] for line in programs.calls]
    assert found == [
        [f"id=pipconf,src={settings}"],
        [f"id=pipconf,src={settings}", f"id=ca,src={own}"],
        [f"id=ca,src={own}"],
    ]


def test_what_an_engine_complains_of_is_told_from_its_end(programs, tmp_path):
    programs.plays((["build"], {"code": 1, "err": "x" * 9000 + "the cause"}))
    with pytest.raises(PareError, match=r"the cause$") as caught:
        Engine("docker").build(tmp_path, **HOW)
    assert len(str(caught.value)) < 2100


def test_a_container_that_does_not_end_is_removed(programs):
    programs.plays((["run"], {"seconds": 5}))
    with pytest.raises(PareError, match="docker run did not end within 1 s: image"):
        Engine("docker").run(["image"], seconds=1)
    name = programs.calls[0][3]
    assert programs.call("rm") == ["docker", "rm", "--force", name]


def test_a_command_that_does_not_end_is_told(programs):
    programs.plays((["port"], {"seconds": 5}))
    with pytest.raises(PareError, match="docker port did not end in 1 s"):
        Engine("docker").ask("port", "x", seconds=1)
