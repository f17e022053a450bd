"""The help of every command, as it was reviewed. ``make golden`` writes it anew."""

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipeline.cli import main

FOLDER = Path(__file__).parent / "help"
UPDATE = os.environ.get("PARE_UPDATE_GOLDEN") == "1"


def commands(command=main, path=()):
    """Yield the path of every command, groups included."""
    yield path
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from commands(command.commands[name], (*path, name))


def test_the_commands_are_these():
    assert sorted(" ".join(path) for path in commands() if path) == [
        "compact", "compare", "doctor", "export", "fit", "inspect", "list", "package",
        "profile", "prune", "quantize", "report", "run", "sweep", "targets",
        "targets calibrate", "targets check", "targets list", "targets probe",
        "targets show", "targets validate", "train",
    ]  # fmt: skip


@pytest.mark.parametrize("path", list(commands()), ids=lambda path: "-".join(path) or "pare")
def test_the_help_is_the_reviewed_one(path):
    result = CliRunner().invoke(
        main, [*path, "--help"], prog_name="pare", terminal_width=80, color=False
    )
    assert result.exit_code == 0, result.output
    golden = FOLDER / f"{'-'.join(('pare', *path))}.txt"
    if UPDATE:
        golden.write_text(result.output, encoding="utf-8")
    assert golden.is_file(), f"{golden.name} is missing: make golden"
    assert result.output == golden.read_text(encoding="utf-8")


def test_there_is_no_golden_file_of_a_command_that_is_gone():
    assert {path.stem for path in FOLDER.glob("*.txt")} == {
        "-".join(("pare", *path)) for path in commands()
    }
