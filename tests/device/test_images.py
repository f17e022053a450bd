"""Images that are really built and run: for this machine, and emulated for a Raspberry Pi.

Needs a Docker daemon that finds ``debian:bookworm-slim``, and QEMU for what is emulated
(``docker/images.sh`` shows how to come by both where no registry can be reached).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from fast_run import pare

from pipeline.core.rundir import read_json

TARGETS = {"generic-x86": "linux/amd64", "raspberry-pi-4b": "linux/arm64"}


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def no_daemon() -> str | None:
    """Say why no image can be built here, where none can."""
    if not shutil.which("docker"):
        return "docker is not installed"
    try:
        done = docker("version", "--format", "{{.Server.Version}}")
    except subprocess.TimeoutExpired:
        return "the Docker daemon does not answer"
    return done.stderr.strip() if done.returncode else None


pytestmark = [pytest.mark.device, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """The target file of each device, of which only integers are taken here."""
    if why := no_daemon():
        pytest.skip(f"no image can be built: {why}")
    folder = tmp_path_factory.mktemp("devices")
    for name in TARGETS:
        text = (ROOT / "targets" / f"{name}.toml").read_text()
        only = re.sub(r"(?m)^dtypes = .*", 'dtypes = ["int8"]', text, count=1)
        (folder / f"{name}.toml").write_text(only)
    return {name: str(folder / f"{name}.toml") for name in TARGETS}


@pytest.fixture(scope="module")
def run(devices, tmp_path_factory):
    """A finished run for both devices."""
    out = tmp_path_factory.mktemp("made") / "run"
    both = [part for path in devices.values() for part in ("--target", path)]
    quick = ("--set", "profile.seconds=0", "--set", "profile.repeats=2")
    done = pare("run", "quickstart", "--out", str(out), *both, *quick, "--quiet")
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module", params=list(TARGETS))
def packaged(request, run, devices):
    """An image, by its record."""
    name = request.param
    done = pare("package", str(run), "--target", devices[name], "--engine", "docker")
    assert done.exit_code == 0, done.output
    return read_json(run / "packages" / name / "package.json")


def inside(record, *arguments, options=()):
    """Run a program of the image as it runs on the device."""
    emulator = ("--env", "QEMU_CPU=cortex-a72") if record["smoke"]["emulated"] else ()
    return docker(
        "run", "--rm", "--init", "--platform", record["platform"], "--network", "none",
        "--cap-drop", "ALL", *emulator, *options, *arguments,
    )  # fmt: skip


def test_the_record_is_of_an_image_within_its_budget(packaged):
    assert packaged["kind"] == "image"
    assert packaged["platform"] == TARGETS[packaged["target"]]
    assert 20e6 < packaged["bytes_on_disk"] <= 200e6
    assert packaged["scheme"] == "int8"


def test_integers_are_equal_bit_for_bit(packaged):
    tested = packaged["smoke"]["selftest"]
    assert tested["passed"] is True
    assert (tested["unit"], tested["worst"], tested["tolerance"]) == ("steps", 0, 0)


def test_only_real_time_is_told(packaged):
    emulated, ready_s = packaged["smoke"]["emulated"], packaged["smoke"]["ready_s"]
    assert (ready_s is None) == emulated
    assert emulated or ready_s < 10


def test_it_says_what_it_is_and_how_it_is_checked(packaged):
    (found,) = json.loads(docker("image", "inspect", packaged["tag"]).stdout)
    config = found["Config"]
    assert config["User"] == "65532:65532"
    assert "selftest" in config["Healthcheck"]["Test"]
    assert config["Labels"]["io.pare.model.sha256"] == packaged["sha256"]
    assert config["Labels"]["io.pare.recipe"] == packaged["recipe_hash"]
    assert config["Labels"]["io.pare.model.accuracy"] == str(packaged["top1"])
    assert "ORT_DISABLE_TELEMETRY=1" in config["Env"]


def test_it_is_nobody_and_can_write_nowhere(packaged):
    code = (
        "import os; print(os.getuid())\n"
        "for folder in ('/', '/model', '/usr/lib/python3/dist-packages', '/tmp'):\n"
        "    try: open(folder + '/x', 'w'); print('wrote', folder)\n"
        "    except OSError: pass"
    )
    python = ("--entrypoint", "/usr/bin/python3")
    # Without the read-only root too, there is but one folder that it may write to.
    usual = inside(packaged, packaged["tag"], "-c", code, options=python)
    assert usual.stdout.split("\n") == ["65532", "wrote /tmp", ""], usual.stderr
    held = inside(packaged, packaged["tag"], "-c", code, options=(*python, "--read-only"))
    assert held.stdout == "65532\n", held.stderr


def test_there_is_no_shell(packaged):
    done = inside(packaged, packaged["tag"], "-c", "true", options=("--entrypoint", "/bin/sh"))
    assert done.returncode == 127


def test_its_health_check_passes(packaged):
    started = inside(packaged, packaged["tag"], options=("--detach",))
    container = started.stdout.split()[-1]
    try:
        (found,) = json.loads(docker("image", "inspect", packaged["tag"]).stdout)
        check = found["Config"]["Healthcheck"]["Test"][1:]
        for _ in range(20):  # each try is a program that takes its time to start
            done = docker("exec", container, *check)
            if done.returncode == 0:
                break
    finally:
        docker("rm", "--force", container)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["passed"] is True
