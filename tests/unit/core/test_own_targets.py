"""The user's own targets: found by name, marked, and never in place of one that ships."""

from pathlib import Path

import pytest

from pipeline.core import own_targets
from pipeline.core.errors import PareError
from pipeline.core.target import Target

TEXT = """
schema = "edge-target/1"
id = "bench"
name = "A bench"
class = "sbc"
[platform]
os = "linux"
[constraints]
basis = "assumed"
source = "test"
formats = ["tflite"]
dtypes = ["fp32"]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PARE_TARGETS", str(tmp_path))
    return tmp_path


def test_the_folder_is_told_or_that_of_the_settings():
    told = {"PARE_TARGETS": "/a", "XDG_CONFIG_HOME": "/b", "HOME": "/c"}
    assert own_targets.folder(told) == Path("/a")
    del told["PARE_TARGETS"]
    assert own_targets.folder(told) == Path("/b/pare/targets")


def test_without_settings_it_is_in_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/c")
    assert own_targets.folder({}) == Path("/c/.config/pare/targets")


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert own_targets.own({"PARE_TARGETS": str(tmp_path / "no")}) == {}


def test_a_target_of_the_user_s_is_found_by_its_name(folder):
    (folder / "bench.toml").write_text(TEXT)
    assert own_targets.own() == {"bench": folder / "bench.toml"}
    assert Target.load("bench").name == "A bench"


def test_a_target_that_ships_is_never_replaced_in_silence(folder):
    path = folder / "raspberry-pi-4b.toml"
    path.write_text(TEXT)
    with pytest.raises(PareError) as refused:
        Target.load("raspberry-pi-4b")
    assert str(refused.value) == (
        f"{path} has the name of a target that ships. Rename it, or give its path."
    )
    assert Target.load(path).id == "bench"
    assert Target.load("raspberry-pi-5").id == "raspberry-pi-5"


def test_the_host_is_found_once_it_was_probed(folder):
    with pytest.raises(PareError) as refused:
        Target.load("host")
    assert str(refused.value) == (
        "no target named 'host' yet. Run `pare targets probe`, which describes this machine "
        f"in {folder / 'host.toml'}."
    )
    (folder / "host.toml").write_text(TEXT.replace("bench", "host"))
    assert Target.load("host").id == "host"


def test_a_misspelt_name_is_compared_with_the_user_s_too(folder):
    (folder / "workbench.toml").write_text(TEXT)
    with pytest.raises(PareError, match="Did you mean 'workbench'"):
        Target.load("workbenhc")
