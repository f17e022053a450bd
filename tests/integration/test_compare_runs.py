"""Two runs held against each other, from the command line."""

import json
import shutil
from importlib.resources import files

import pytest
from fast_run import arguments, pare
from jsonschema import Draft202012Validator
from unit.report.report_run import records, write_run

from pipeline.core.rundir import read_json, write_json
from pipeline.report import write

SCHEMA = json.loads(files("pipeline.report").joinpath("schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "run"
    result = pare(*arguments("run", out, 'targets=["generic-x86"]'))
    assert result.exit_code in (0, 3), result.stderr
    return out


def test_the_report_of_a_real_run_keeps_to_the_schema(made):
    report = read_json(made / "report.json")
    validator = Draft202012Validator(SCHEMA)
    assert [error.message for error in validator.iter_errors(report)] == []
    report["files"][0]["latency"][0]["median"]["basis"] = "estimated"
    assert {error.json_path for error in validator.iter_errors(report)} == {
        "$.files[0].latency[0].median.basis"
    }


def test_a_real_run_is_equal_to_its_copy_but_for_what_is_unstable(made, tmp_path):
    again = shutil.copytree(made, tmp_path / "again")
    result = pare("compare", str(made), str(again), "--fail-on-regression")
    assert result.exit_code == 0, result.output
    assert "The recipes are the same." in result.stdout
    assert "REGRESSION" not in result.stdout
    told = json.loads(pare("compare", str(made), str(again), "--json").stdout)
    assert told["regressions"] == told["recipe"] == []
    assert {line["result"] for line in told["results"]} <= {"same", "not compared"}
    assert all("stable" in o["why"] for o in told["results"] if o["result"] != "same")


@pytest.fixture
def pair(tmp_path):
    """Two written reports: the second has another seed and a larger file."""
    first = write_run(tmp_path / "first", records())
    found = records()
    found["recipe"]["seed"] = 6
    found["beside"]["export"]["files.json"][0]["bytes"] = 2_000_000
    second = write_run(tmp_path / "second", found)
    write(first)
    write(second)
    return str(first), str(second)


@pytest.mark.parametrize("columns", ["70", "140"])
def test_what_differs_is_printed_wide_and_narrow(pair, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    result = pare("compare", *pair)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert f"A: {pair[0]} B: {pair[1]}" in text
    assert "seed" in text
    for part in (
        "size",
        "float32.onnx",
        "1,234,567 B",
        "2,000,000 B",
        "+62.0 %",
        "REGRESSION",
    ):
        assert part in text
    assert "figures are the same in A and B." in text
    assert "top-1" not in text


def test_json_holds_all_of_it(pair):
    found = json.loads(pare("compare", *pair, "--json").stdout)
    assert found["runs"] == list(pair)
    assert found["recipe"] == [{"key": "seed", "values": [5, 6]}]
    assert [(one["quantity"], one["values"]) for one in found["regressions"]] == [
        ("size", [1_234_567, 2_000_000])
    ]
    assert {"same", "regression"} <= {one["result"] for one in found["results"]}


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_script_can_refuse_regressions(pair, more):
    result = pare("compare", *pair, "--fail-on-regression", *more)
    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        "error: regression: size of model.float32.onnx: 1,234,567 B, now 2,000,000 B (+62.0 %)"
    ]
    assert result.stdout
    assert pare("compare", *reversed(pair), "--fail-on-regression").exit_code == 0


def test_three_runs_have_three_columns(pair, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    result = pare("compare", pair[0], pair[1], pair[0])
    assert result.exit_code == 0
    assert f"C: {pair[0]}" in result.stdout
    assert "held against" not in result.stdout  # the last is the first
    settings = result.stdout[result.stdout.index("Recipe") :]
    assert ["seed", "5", "6", "5"] in [line.split() for line in settings.splitlines()]


def test_what_is_no_report_is_refused_with_the_command_that_writes_it(pair, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    result = pare("compare", pair[0], str(empty))
    assert result.exit_code == 2
    assert f"{empty} has no report that can be read. Write it: pare report {empty}." in (
        result.stderr
    )
    old = read_json(tmp_path / "second" / "report.json") | {"schema_version": 2}
    write_json(tmp_path / "second" / "report.json", old)
    result = pare("compare", *pair)
    assert result.exit_code == 2
    assert "another version of pare" in result.stderr


def test_one_run_is_refused(pair):
    result = pare("compare", pair[0])
    assert result.exit_code == 2
    assert "one run can't be compared" in result.stderr
