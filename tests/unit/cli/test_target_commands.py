"""The commands on targets: what they print, where they write, how they end."""

from functools import partial

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.core.recipe import Recipe
from pipeline.core.target import Target, shipped
from pipeline.profilers import probe


def pare(*words):
    return CliRunner().invoke(main, words)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's folder of targets, and a probe that does not take its time."""
    monkeypatch.setenv("PARE_TARGETS", str(tmp_path / "own"))
    monkeypatch.setattr(probe, "probe", partial(probe.probe, seconds=0))
    return tmp_path / "own"


def text_of(name="raspberry-pi-4b", **changes):
    text = shipped()[name].read_text(encoding="utf-8")
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new, 1)
    return text


@pytest.mark.parametrize("name", sorted(shipped()))
def test_what_ships_is_valid(name):
    result = pare("targets", "check", str(shipped()[name]))
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{shipped()[name]} is valid.\n{Target.load(name).name} (")
    for kind in ("measured: ", "predicted:", "bound:    ", "planned:  ", "unknown:  "):
        assert f"\n  {kind} " in result.output


def test_a_valid_file_is_told_what_does_not_go_together(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(text_of(mask=("0xf", "0xff")))
    result = pare("targets", "check", str(path))
    assert result.exit_code == 0
    assert result.output.splitlines()[-2:] == [
        "warning: cpu.affinity_mask = 0xff names other cores than the 4 there are.",
        f"warning: its id is 'raspberry-pi-4b'; in {_own()} its name is 'own'.",
    ]


def _own():
    from pipeline.core.own_targets import folder

    return folder()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ram_mb =", "ram_mbs =", "unknown key 'memory.ram_mbs'. Did you mean 'ram_mb'?"),
        (
            ', source = "board specification"',
            "",
            "key 'cpu.clusters.0.count.source' is missing",
        ),
        ('arch = "arm64"', 'arch = "armv7"', "onnxruntime has no wheel for 32-bit Arm"),
        ('kind = "ssh"', 'kind = "ssh"\nport = 70000', "transport.port = 70000"),
        ('kind = "ssh"', 'kind = "ssh"\npython = ""', "transport.python = ''"),
        ("[power]", "[power]\nmeter_command = []", "power.meter_command"),
        ("[power]", '[power]\nmeter_command = "meter"', "power.meter_command = 'meter'"),
        ("= 1800,", "= -1,", "a physical figure is not negative"),
    ],
)
def test_what_is_not_allowed_ends_with_two_and_a_sentence(tmp_path, old, new, said):
    path = tmp_path / "own.toml"
    path.write_text(text_of(change=(old, new)))
    result = pare("targets", "check", str(path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path}: ")
    assert said in result.stderr


def test_only_a_file_can_be_checked():
    result = pare("targets", "check", "raspberry-pi-4b")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: raspberry-pi-4b: a target is a TOML file. Give the path of one.\n"
    )


def test_a_copy_under_the_name_of_one_that_ships_is_warned_of(tmp_path):
    path = tmp_path / "raspberry-pi-4b.toml"
    path.write_text(text_of())
    result = pare("targets", "check", str(path))
    assert result.exit_code == 0
    assert "is the name of a target that ships: only the path finds yours" in result.output


def test_the_probed_machine_is_a_target_by_the_name_of_host(folder):
    result = pare("targets", "probe")
    assert result.exit_code == 0, result.output
    path = folder / "host.toml"
    assert result.output.splitlines()[0] == str(path)
    target = Target.load("host")
    assert target == Target.load(path)
    assert "Add [budgets]" in path.read_text()
    assert pare("targets", "check", str(path)).exit_code == 0
    assert f"host {target.name} [yours: {path}]" in " ".join(
        pare("targets", "list").output.split()
    )


def test_a_file_that_is_there_is_kept_unless_forced(folder):
    path = folder / "host.toml"
    folder.mkdir()
    path.write_text("mine")
    result = pare("targets", "probe")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {path} is there already. Give --force to write over it, or --out.\n"
    )
    assert path.read_text() == "mine"
    assert pare("targets", "probe", "--force").exit_code == 0
    assert Target.load("host").id == "host"


def test_a_probe_goes_where_it_is_told(folder, tmp_path):
    path = tmp_path / "board.toml"
    assert pare("targets", "probe", "--out", str(path)).exit_code == 0
    assert Target.load(path).id == "host"
    assert not folder.exists()
    refused = pare("targets", "probe", "--out", str(tmp_path / "board.txt"))
    assert refused.exit_code == 2
    assert "a target is a TOML file" in refused.stderr


def test_a_target_of_the_user_s_that_is_not_valid_is_listed_with_its_reason(folder):
    folder.mkdir()
    (folder / "broken.toml").write_text("schema = 1")
    result = pare("targets", "list")
    assert result.exit_code == 0
    (line,) = [line for line in result.output.splitlines() if line.startswith("broken")]
    assert "not valid: " in line
    assert set(shipped()) <= {line.split()[0] for line in result.output.splitlines()}


def test_a_name_that_ships_is_listed_as_not_found(folder):
    folder.mkdir()
    (folder / "stm32h7.toml").write_text(text_of())
    lines = [line for line in pare("targets", "list").output.splitlines() if "stm32h7" in line]
    assert len(lines) == 2
    assert "not found by its name, which is one that ships" in lines[1]


def test_the_host_is_asked_for_before_it_was_probed(folder):
    result = pare("run", "quickstart", "--target", "host")
    assert result.exit_code == 2
    assert "Run `pare targets probe`" in result.stderr


def test_a_target_of_a_recipe_starts_at_the_recipe_s_folder(tmp_path):
    (tmp_path / "own.toml").write_text(text_of())
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'targets = ["own.toml"]\n[model]\nname = "conv2"\n[data]\nname = "digits"\n'
    )
    assert list(Recipe.load(recipe).targets) == [str(tmp_path / "own.toml")]


def test_a_target_of_the_command_line_starts_at_the_current_folder(tmp_path, monkeypatch):
    from pipeline.cli.running import _resolve

    (tmp_path / "own.toml").write_text(text_of())
    monkeypatch.chdir(tmp_path)
    recipe, _ = _resolve("quickstart", (), ("own.toml", "raspberry-pi-5"))
    assert list(recipe.targets) == [str(tmp_path / "own.toml"), "raspberry-pi-5"]
