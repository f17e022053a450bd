import copy
import json

import pytest
from report_run import STAGES, records, write_run

from pipeline import stages
from pipeline.core.errors import PareError
from pipeline.report import collect as module
from pipeline.report import write
from pipeline.report.collect import collect


@pytest.fixture
def report(tmp_path):
    return collect(write_run(tmp_path / "run"))


def test_the_report_is_made_of_the_stages_that_run():
    assert tuple(stage.name for stage in stages.STAGES) == module.STAGES


def test_the_keys_are_those_of_the_stages(report):
    assert report["keys"] == {stage: f"{n}" * 64 for n, stage in enumerate(STAGES, 1)}
    assert report["schema_version"] == 3


def test_a_file_carries_what_export_and_profile_know_of_it(report):
    made, _, refused, rejected = report["files"]
    assert made["bytes"] == 1_234_567
    assert [timing["threads"] for timing in made["latency"]] == [1, 2]
    assert "latency" not in refused
    assert "latency" not in rejected


def test_targets_stay_as_profile_left_them(report):
    left = copy.deepcopy(records()["profile"]["targets"])
    for target in left:
        target["files"] = [row | {"on_device": None} for row in target["files"]]
    assert report["targets"] == left


def test_an_accuracy_says_its_basis_and_its_n(report):
    trained = report["accuracy"]["trained"]
    assert (trained["value"], trained["basis"], trained["n"]) == (0.9, "measured", 1234)
    assert report["accuracy"]["compact"]["value"] == 0.89


def test_layers_are_joined_by_name(report):
    first = report["layers"][0]
    assert (first["channels"], first["channels_after"]) == (16, 14)
    assert first["removed"] == {"no input": 1, "no reader": 1}
    assert first["kept_weights"] == 700
    assert first["nonzero_weights_after"] == 650


def test_a_layer_that_is_gone_has_no_figures_rather_than_zeros(tmp_path):
    found = records()
    found["compact"]["after"]["layers"] = found["compact"]["after"]["layers"][:1]
    gone = collect(write_run(tmp_path / "run", found))["layers"][1]
    assert gone["channels_after"] is None
    assert gone["weights_after"] is None


def test_a_layer_that_the_plan_says_lost_every_channel_has_zeros(tmp_path):
    found = records()
    found["compact"]["after"]["layers"] = found["compact"]["after"]["layers"][:1]
    name = found["compact"]["before"]["layers"][1]["name"]
    found["beside"]["compact"]["plan.json"]["layers"] = {
        name: {
            "kept_outputs": [],
            "kept_inputs": [],
            "outputs_before": 17,
            "inputs_before": 16,
        }
    }
    gone = collect(write_run(tmp_path / "run", found))["layers"][1]
    figures = ("channels_after", "weights_after", "nonzero_weights_after", "macs_after")
    assert [gone[figure] for figure in figures] == [0, 0, 0, 0]


def test_the_date_is_that_of_the_last_stage(report):
    assert report["created"] == "2026-01-06T00:00:00+00:00"


@pytest.mark.parametrize("missing", STAGES)
def test_a_missing_stage_is_refused_with_the_command_that_makes_it(tmp_path, missing):
    folder = write_run(
        tmp_path / "run", stages=[stage for stage in STAGES if stage != missing]
    )
    with pytest.raises(PareError) as error:
        collect(folder)
    assert f"stage '{missing}'" in str(error.value)
    assert f"pare {missing} {folder}" in str(error.value)


def test_a_damaged_stage_is_refused(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "1-train" / "history.json").write_text("[]")
    with pytest.raises(PareError, match="stage 'train' is missing or not whole"):
        collect(folder)


@pytest.mark.parametrize("number", range(1, len(STAGES)))
@pytest.mark.parametrize("what", ["parent", "parent_record"])
def test_a_stage_of_another_chain_is_refused_with_the_command_that_renews_it(
    tmp_path, number, what
):
    folder = write_run(tmp_path / "run")
    path = folder / f"{number + 1}-{STAGES[number]}" / "stage.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["provenance"][what] = "f" * 64
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(PareError) as error:
        collect(folder)
    assert f"stage '{STAGES[number]}' is stale" in str(error.value)
    assert f"an earlier result of '{STAGES[number - 1]}'" in str(error.value)
    assert f"`pare run {folder}`" in str(error.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(PareError, match=r"no recipe\.toml"):
        collect(tmp_path)


def test_what_is_written_is_what_is_returned(tmp_path):
    folder = write_run(tmp_path / "run")
    report = write(folder)
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == report
    assert sorted(path.name for path in folder.glob("report.*")) == [
        "report.html",
        "report.json",
        "report.md",
    ]


def test_a_report_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    write(folder)
    old = (folder / "report.html").read_bytes()
    changed = records()
    changed["recipe"]["name"] = "other"
    write_run(folder, changed)
    monkeypatch.setattr("pipeline.report.markdown.text", lambda report: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(folder)
    assert (folder / "report.html").read_bytes() == old


def test_the_same_run_gives_the_same_bytes(tmp_path):
    first, second = (write_run(tmp_path / name / "run") for name in ("a", "b"))
    write(first)
    write(second)
    for name in ("report.html", "report.md", "report.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
