"""A report keeps what is worse than in the one it replaces."""

import json

import pytest
from report_run import records, targets, write_run

from pipeline.report import history, markdown, write
from pipeline.report.html import page


def larger(factor):
    """The same recipe, with a larger file, made later."""
    found = records()
    found["beside"]["export"]["files.json"][0]["bytes"] = round(1_000_000 * factor)
    return found


def rewritten(tmp_path, before, after, stamp="2026-02-01T00:00:00+00:00"):
    folder = write_run(tmp_path / "run", before)
    write(folder)
    write_run(folder, after)
    path = folder / "6-profile" / "stage.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["provenance"]["finished_utc"] = stamp
    path.write_text(json.dumps(record), encoding="utf-8")
    return folder, write(folder)


def test_a_first_report_has_nothing_before_it(tmp_path):
    report = write(write_run(tmp_path / "run"))
    assert (report["previous"], report["regressions"]) == (None, [])
    assert history.table(report).rows == []
    assert "Worse than" not in page(report)
    assert "Worse than" not in markdown.text(report)


@pytest.mark.parametrize(("factor", "count"), [(1.05, 0), (1.0501, 1)])
def test_what_is_over_five_percent_worse_is_kept_and_shown(tmp_path, factor, count):
    _, report = rewritten(tmp_path, larger(1), larger(factor))
    assert report["previous"]["files"]["model.float32.onnx"]["bytes"] == 1_000_000
    assert len(report["regressions"]) == count
    assert ("Worse than in the report before" in page(report)) == bool(count)
    assert ("Worse than in the report before" in markdown.text(report)) == bool(count)
    if count:
        [row] = history.table(report).rows
        assert [cell.text for cell in row] == [
            "size", "1,000,000 B", "1,050,100 B", "+5.0 %",
        ]  # fmt: skip


def test_the_same_results_written_again_keep_what_they_were_held_against(tmp_path):
    folder, report = rewritten(tmp_path, larger(1), larger(2))
    assert write(folder) == report
    assert len(write(folder)["regressions"]) == 1


def test_another_recipe_is_not_compared(tmp_path):
    other = larger(2)
    other["recipe"]["seed"] = 6
    _, report = rewritten(tmp_path, larger(1), other)
    assert (report["previous"], report["regressions"]) == (None, [])


def test_a_target_that_no_file_fits_any_more_is_kept(tmp_path):
    worse = larger(1)
    lost = [targets()[0] | {"chosen": None, "nearest": "model.float32.onnx"}, *targets()[1:]]
    worse["beside"]["profile"]["profile.json"]["targets"] = lost
    _, report = rewritten(tmp_path, larger(1), worse)
    assert [(one["quantity"], one["of"]) for one in report["regressions"]] == [
        ("verdict", "board")
    ]
    assert "no file fits" in [cell.text for cell in history.table(report).rows[0]]


@pytest.mark.parametrize(
    "harm",
    [
        lambda old: "no JSON",
        lambda old: "[]",
        lambda old: json.dumps(old | {"schema_version": 2}),
        lambda old: json.dumps({"schema_version": 3}),
        lambda old: json.dumps(old | {"files": [1], "created": "earlier"}),
        lambda old: json.dumps(old | {"previous": {"files": 7}}),
    ],
)
def test_a_harmed_or_older_report_is_replaced_and_not_compared(tmp_path, harm):
    folder = write_run(tmp_path / "run", larger(1))
    old = write(folder)
    (folder / "report.json").write_text(harm(old), encoding="utf-8")
    report = write(folder)
    assert (report["previous"], report["regressions"]) == (None, [])
    assert write(folder) == report
