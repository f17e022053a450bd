"""Every file on every target in one square."""

import pytest
from report_run import check, records, row, targets, write_run

from pipeline.report import fits, markdown
from pipeline.report.collect import collect
from pipeline.report.html import page
from pipeline.report.tables import BAD, GOOD, OPEN
from pipeline.report.wording import DASH

KEPT, BROKEN = check("dtype", "int8", "int8", True), check("latency", "1 ms", "4 ms", False)
UNKNOWN = check("peak RAM (device)", "1 MB", None, None)


@pytest.mark.parametrize(
    ("checks", "mark", "limit", "why"),
    [
        ([KEPT, KEPT], GOOD, "", "keeps all of 2 limits"),
        ([KEPT, UNKNOWN], OPEN, "peak RAM", "peak RAM (device): no calibration"),
        ([UNKNOWN, BROKEN], BAD, "latency", "latency: 4 ms against 1 ms"),
        ([BROKEN] * 2, BAD, "latency", "latency: 4 ms against 1 ms, and 1 more limit"),
        ([], GOOD, "", "keeps all of 0 limits"),
    ],
)  # fmt: skip
def test_a_square_names_the_first_limit_in_question(checks, mark, limit, why):
    one = fits.square(row("a.onnx", checks), "b.onnx")
    assert (one.mark, one.limit, one.why, one.chosen) == (mark, limit, why, False)
    assert fits.square(row("a.onnx", checks), "a.onnx").chosen


def test_the_matrix_has_a_row_a_target_and_a_column_a_file():
    found = fits.matrix({"targets": targets()})
    assert found.files == ["float32.onnx", "int8.tflite"]
    assert [(target["id"], [s.sign for s in squares]) for target, squares in found.rows] == [
        ("board", ["✓", "✓"]), ("phone", ["?", "✗"]), ("chip", ["✗", "✗"]),
    ]  # fmt: skip
    assert [[s.chosen for s in squares] for _, squares in found.rows] == [
        [True, False], [True, False], [False, False],
    ]  # fmt: skip


def test_a_file_that_was_not_judged_is_a_dash():
    first, second, _ = targets()
    second["files"] = second["files"][:1]
    table = fits.table({"targets": [first, second]})
    assert [cell.text for cell in table.rows[1]] == ["phone", "? latency, chosen", DASH]


def test_one_target_and_none():
    assert len(fits.matrix({"targets": targets()[:1]}).rows) == 1
    assert fits.matrix({"targets": []}) == fits.Matrix([], [])


def test_both_pages_hold_it(tmp_path):
    report = collect(write_run(tmp_path / "run"))
    shown = page(report)
    squares = shown[shown.index('<table class="squares">') :]
    squares = squares[: squares.index("</table>")]
    assert squares.count("<td") == 6
    assert squares.count(" chosen") == 2
    assert 'title="latency: 4.2 ms against 1 ms' in squares
    assert "| phone | ? latency, chosen | ✗ latency |" in markdown.text(report)


def test_neither_page_holds_an_empty_one(tmp_path):
    found = records()
    found["beside"]["profile"]["profile.json"]["targets"] = []
    report = collect(write_run(tmp_path / "run", found))
    assert '<table class="squares">' not in page(report)
    assert "Targets and files" not in markdown.text(report)


def test_fourteen_targets_by_ten_files_are_all_there():
    every = [
        {"id": f"t{n}", "name": "T", "chosen": None,
         "files": [row(f"model.f{k}.onnx", [BROKEN]) for k in range(10)]}
        for n in range(14)
    ]  # fmt: skip
    found = fits.matrix({"targets": every})
    assert (len(found.files), len(found.rows)) == (10, 14)
    assert all(len(squares) == 10 for _, squares in found.rows)
