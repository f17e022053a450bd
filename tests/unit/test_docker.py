"""What lies in docker/: every device has its image, and nothing in it is careless."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from pipeline.core.target import Target

DOCKER = ROOT / "docker"
RUNTIMES = [
    DOCKER / f"Dockerfile.{name}" for name in ("litert", "onnxruntime", "tflite-armv7")
]
DOCKERFILES = [p for p in DOCKER.glob("Dockerfile.*") if p.suffix != ".dockerignore"]
BAKED = json.loads((DOCKER / "bake-expected.json").read_text())["target"]


def wanted():
    """Yield the bake target and platform of every device that runs containers."""
    for path in sorted((ROOT / "targets").glob("*.toml")):
        target = Target.load(path.stem)
        if target.platform.docker_platform:
            yield target.id, target.platform.docker_platform
        for variant in target.platform.variants:
            suffix = variant.docker_platform.removeprefix("linux/").replace("/", "")
            yield f"{target.id}-{suffix}", variant.docker_platform


def test_the_bake_file_has_every_device_that_runs_containers():
    found = {key: one["platforms"] for key, one in BAKED.items() if key != "builder"}
    assert found == {name: [platform] for name, platform in wanted()}


def test_the_expected_bake_is_of_the_bake_files_targets():
    """What each attribute means is compared with buildx itself by docker/images.sh."""
    text = (DOCKER / "docker-bake.hcl").read_text()
    named = set(re.findall(r'^target "([a-z].*)"', text, flags=re.MULTILINE))
    for group, devices in re.findall(
        r'^target "([^"]*)" \{\n  name .*?\[(.*?)\]', text, re.DOTALL | re.MULTILINE
    ):
        suffix = "-armv7" if group == "armv7" else ""
        named -= {group}
        named |= {f"{device}{suffix}" for device in re.findall(r'"(.*?)"', devices)}
    assert named == set(BAKED)
    for name, one in BAKED.items():
        assert one["attest"] == ["type=sbom", "type=provenance,mode=max"], name
        assert one["tags"] == [f"pare:{name}"], name
        assert one["args"]["BASE"] == "debian:bookworm-slim", name


@pytest.mark.parametrize("path", RUNTIMES, ids=lambda path: path.name)
def test_an_image_is_nobody_has_no_shell_and_proves_itself(path):
    text = path.read_text()
    assert "FROM scratch AS runtime" in text
    assert "USER 65532:65532" in text
    assert "HEALTHCHECK" in text
    assert 'RUN ["/usr/bin/python3", "-m", "pipeline.runtime", "selftest"]' in text
    assert "COPY --from=proved" in text.rpartition("FROM runtime")[2]
    assert "COPY --from=measured" in text.rpartition("FROM runtime")[2]
    # What the oldest BuildKit does not know, and what would ask a registry for a frontend.
    assert not re.search(r"^# *syntax=|<<|COPY --link", text, flags=re.MULTILINE)


def test_every_image_turns_telemetry_off():
    for path in RUNTIMES:
        assert "ORT_DISABLE_TELEMETRY=1" in path.read_text(), path


def test_no_registry_is_named():
    files = [path for path in DOCKER.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert not re.search(r"docker\.io/|ghcr\.io|quay\.io|gcr\.io", path.read_text()), path


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed")
def test_hadolint_finds_nothing():
    done = subprocess.run(
        ["hadolint", *DOCKERFILES],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(DOCKER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_sh_and_stop_at_an_error(path):
    assert path.read_text().startswith("#!/bin/sh\n")
    assert "\nset -eu\n" in path.read_text()
    subprocess.run(["sh", "-n", str(path)], check=True, timeout=20)


@pytest.mark.parametrize(
    ("program", "says", "why"),
    [
        ("id", "1000", "an engine needs root"),
        ("uname", "aarch64", "the recipe is for Debian 12 on x86-64"),
        ("unshare", "no", "namespaces and mounts are not granted here"),
    ],
)
def test_a_machine_that_can_run_no_engine_is_told_why(tmp_path, program, says, why):
    able = {"id": "0", "uname": "x86_64", "grep": "", "unshare": ""} | {program: says}
    for name, told in able.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n[ '{told}' != no ] || exit 1\nprintf '{told}'\n")
        path.chmod(0o755)
    done = subprocess.run(
        [DOCKER / "images.sh", "--check"], capture_output=True, text=True, check=False,
        timeout=20, env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr == f"images.sh: no image can be built here: {why}\n"


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    done = subprocess.run(
        ["shellcheck", *DOCKER.glob("*.sh")], capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_table_of_images_tells_no_emulated_time(tmp_path):
    tested = {
        "vectors": 4,
        "worst": 0,
        "unit": "steps",
        "tolerance": 3,
        "runtime": "litert",
        "runtime_version": "2",
    }
    record = {
        "tag": "pare:a", "platform": "linux/arm64", "file": "a.tflite",
        "bytes_on_disk": 126e6, "smoke": {"selftest": tested, "ready_s": None},
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(record))
    (tmp_path / "a.compressed").write_text("38400000\n")
    (tmp_path / "a.instructions").write_text("5 instructions an inference on cortex-a72\n")
    script = [sys.executable, ROOT / "benchmarks" / "images.py", tmp_path]
    told = subprocess.run(
        script, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert told.splitlines()[-1] == "- a: 5 instructions an inference on cortex-a72"
    (row,) = [line for line in told.splitlines() if "pare:a" in line]
    assert row == (
        "| pare:a | linux/arm64 | litert 2 | a.tflite | 126 MB | 38.4 MB | "
        "4 of 4, 0 steps off (3 allowed) | emulated |"
    )


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_the_counter_of_instructions_compiles_without_a_warning(tmp_path):
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O2", "-o"]
    built = tmp_path / "icount.so"
    subprocess.run([*command, built, DOCKER / "icount.c"], check=True, timeout=60)
    assert b"qemu_plugin_install" in built.read_bytes()
