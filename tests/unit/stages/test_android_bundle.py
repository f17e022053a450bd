"""The folder for a phone: whole, and its program runs what is in it."""

from __future__ import annotations

import json
import subprocess
import sys

from packaged_run import FILES, FakeEngine, finished_run

from pipeline.core.rundir import read_json
from pipeline.core.target import Target
from pipeline.stages.package import Order, package

PHONE = "android-midrange"


def bundle(tmp_path):
    run = finished_run(tmp_path, {PHONE: FILES[0]})
    found = package(Order(run=run, target=Target.load(PHONE)))
    folder = run / "packages" / PHONE / "bundle"
    assert found["folder"] == str(folder)
    assert found == read_json(folder.parent / "package.json")
    return folder


def test_it_holds_exactly_these_files_and_tests_itself(tmp_path):
    folder = bundle(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.json", "model.tflite", "model.tflite.golden.json", "pare-runtime.pyz", "push.sh",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "pare-runtime.pyz", "selftest", "model.tflite"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True


def test_the_script_pushes_and_tests(tmp_path):
    folder = bundle(tmp_path)
    adb = FakeEngine(tmp_path / "bin", "adb")
    photo = tmp_path / "a photo.jpg"
    path = {"PATH": f"{adb.folder}:/usr/bin:/bin"}
    subprocess.run(
        [folder / "push.sh", "emulator-1", str(photo)], env=path, check=True, timeout=60
    )
    to = f"/data/local/tmp/pare-{PHONE}"
    assert [call[3:] for call in adb.calls] == [
        ["shell", "mkdir", "-p", to],
        ["push", "model.tflite", "model.tflite.golden.json", "pare-runtime.pyz", f"{to}/"],
        ["shell", f"cd {to} && python3 pare-runtime.pyz selftest model.tflite"],
        ["push", str(photo), f"{to}/image"],
        ["shell", f"cd {to} && python3 pare-runtime.pyz predict --model model.tflite image"],
    ]
    assert all(call[:3] == ["adb", "-s", "emulator-1"] for call in adb.calls)


def test_the_script_asks_for_the_phone(tmp_path):
    done = subprocess.run(
        [bundle(tmp_path) / "push.sh"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "give the serial that adb devices prints" in done.stderr
