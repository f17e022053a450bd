"""The smoke test of an image, with an engine that plays a part and a server in its stead."""

from __future__ import annotations

import base64
import platform as host

import pytest
from packaged_run import FakeEngine, only, server

from pipeline.core import emulation
from pipeline.core.errors import PareError
from pipeline.stages import smoke as module
from pipeline.stages.image_engine import Engine
from pipeline.stages.smoke import smoke

GOLDEN = {"vectors": [{"class": "red", "png": base64.b64encode(b"an image").decode()}]}
GOOD = {"readyz": (200, {}), "healthz": (200, {}), "predict": (200, {"class": "red"})}


@pytest.fixture
def programs(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_READY_S", 0.5)
    monkeypatch.setattr(host, "machine", lambda: "x86_64")
    monkeypatch.delenv("QEMU_CPU", raising=False)
    return only(FakeEngine(tmp_path / "bin", "docker"), monkeypatch)


def result_of(platform="linux/amd64"):
    return smoke(
        Engine("docker"), "a:b", GOLDEN, platform=platform, memory_mb=64, cpus=0.5
    )  # fmt: skip


def serving(programs, address, *first):
    programs.plays(*first, (["port"], {"out": f"{address}\n"}))


def test_it_is_run_without_rights_and_stopped(programs):
    with server(**GOOD) as address:
        serving(programs, address)
        found = result_of()
    assert found.pop("ready_s") < 10
    assert found == {
        "selftest": {"passed": True, "worst": 0},
        "predict": "the golden class",
        "serve": "the golden class over loopback",
        "emulated": False,
        "memory_mb": 64,
        "cpus": 0.5,
    }
    runs = [call for call in programs.calls if call[1] == "run"]
    assert len(runs) == 3
    for line in runs:
        words = " ".join(line)
        for granted in (
            "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges",
            "--rm --init --platform linux/amd64", "--memory 64m --cpus 0.5", "--pids-limit 64",
        ):  # fmt: skip
            assert granted in words
        assert "QEMU_CPU" not in words
    assert ["--network" in line for line in runs] == [True, True, False]
    assert "127.0.0.1::8080" in runs[2]
    assert programs.calls[-1] == ["docker", "stop", "c0ffee"]


@pytest.mark.parametrize(
    ("image", "core"), [("linux/arm64", "cortex-a72"), ("linux/arm/v7", "cortex-a15")]
)
def test_emulated_time_is_not_told(programs, image, core):
    with server(**GOOD) as address:
        serving(programs, address)
        found = result_of(image)
    assert found["emulated"] is True
    assert found["ready_s"] is None
    runs = [call for call in programs.calls if call[1] == "run"]
    assert all(f"QEMU_CPU={core}" in call for call in runs)
    # Without its processors LiteRT would compute with other kernels than on the device.
    assert not any("/sys/devices/system/cpu" in call for call in runs)


def test_a_board_emulates_nothing_of_its_own(monkeypatch):
    monkeypatch.setattr(host, "machine", lambda: "aarch64")
    monkeypatch.setenv("QEMU_CPU", "cortex-a53")
    assert emulation.shown_core("linux/arm64") == []
    assert emulation.shown_core("linux/arm/v7") == []
    assert emulation.emulated("linux/amd64")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"readyz": (503, {})}, "the image's server was not ready within 0 s"),
        ({"healthz": (500, {"error": "x"})}, "the image's server answered 500 to .*healthz"),
        ({"predict": (200, {"class": "blue"})}, "calls a golden image 'blue', which is 'red'"),
        ({"predict": (200, "red")}, "which is no JSON object"),
    ],
)
def test_a_server_that_is_wrong_is_refused_and_stopped(programs, change, told):
    with server(**{**GOOD, **change}) as address:
        serving(programs, address)
        with pytest.raises(PareError, match=told):
            result_of()
    assert programs.calls[-1] == ["docker", "stop", "c0ffee"]


def test_a_server_that_died_is_told_though_it_can_not_be_stopped(programs):
    with server() as address:
        pass  # nobody listens there any more
    serving(programs, address, (["stop"], {"code": 1, "err": "no such container"}))
    with pytest.raises(PareError, match="the image's server was not ready"):
        result_of()


def test_a_server_that_does_not_start_is_told(programs):
    programs.plays((["--detach"], {"code": 125, "err": "no cores"}))
    with pytest.raises(PareError, match=r"its start failed in it \(exit code 125\): no cores"):
        result_of()
