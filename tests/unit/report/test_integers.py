"""What the report says of exporters and integers."""

import html
import re

import pytest
from integer_run import (
    CRASH,
    FINDINGS,
    LITERT,
    ONNX2TF,
    candidate,
    integer_records,
    offered,
)
from report_run import records, write_run

from pipeline.report import candidates, markdown, quantization, tables
from pipeline.report.collect import collect
from pipeline.report.html import page
from pipeline.report.wording import DASH, MINUS, TIMES


@pytest.fixture
def report(tmp_path):
    return collect(write_run(tmp_path / "run", integer_records()))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("integers") / "run", integer_records())
    found = collect(folder)
    shown = html.unescape(page(found)).replace("\N{NO-BREAK SPACE}", " ")
    text = html.unescape(re.sub(r"\\(.)", r"\1", markdown.text(found)))
    return shown, text


def rows(table):
    """Return a table as texts, by the text of the first cell."""
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def cells(table, name):
    """Return the first row of a name, cell by title."""
    row = next(row for row in table.rows if row[0].text == name)
    return dict(zip((column.title for column in table.columns), row, strict=True))


@pytest.mark.parametrize(
    "figure",
    [
        "onnx2tf, QAT",
        f"{ONNX2TF} 1.2.3",
        "does not write it",
        CRASH,
        "same class on 12 %, limit 90 %",
        "zstd 54,321",
        "worst class dog: 6 of 40 more wrong",
        f"75.0 % same class, {MINUS}2.50 points of top-1",
        "PSNR 60.0 dB",
        "47.2",  # the PSNR of a candidate
        "75.0 %",  # operators and products in int8
        "6 of 8",
        "90.0 %",
        "10.0 % fp32",
        "silu_0 to mul_0, silu_1 to mul_1, silu_2 to mul_2 and 3 more",
        "between integers: LOGISTIC, MUL",
        "at the output: LOGISTIC, MUL",
        "4,330",
        f"as int8, 0.01235, {MINUS}7",
        "int8 6,088",
        "int32 384",
        "percentile of each tensor",
        "block0.act, block1.act, block2.act and 27 more",
        "Train with <ReLU>.",
        "head<1>",
        "alone in int8: 44.0 dB",
        f"0 in float: {MINUS}2.25 points; 1 in float: +0.12 points",
        "scales moved in 1 of 2 pairs of layers; outputs equal to 1.5e-07 of the scale",
        "1 layer had no partner",
        "1 layer per-channel, by at most 1.25 % of a layer's output",
        "80.00 % to 84.00 % on validation, simulated in int8. +5.00 points in 1 of 2 files.",
        "The float32 file has 82.00 %",
        "no gain in the file",
        "there is a file, but it is not faithful",
    ],
)
def test_what_was_found_is_in_both(pages, figure):
    assert [figure in text for text in pages] == [True, True]


def test_the_offered_candidate_stands_first_and_each_other_says_by_what_it_lost(report):
    table = candidates.offered(report)
    cell = cells(table, "model.int8.tflite")
    assert (cell["Offered"].text, cell["Offered"].mark) == ("onnx2tf, QAT", "good")
    assert cell["Top-1"].text == "85.00 %"
    assert cell["Others"].text.split("; ") == [
        f"litert: less accurate ({MINUS}5.00 points)",
        f"litert, QAT: slower (1.50 {TIMES} the time)",
        f"onnx2tf: less accurate ({MINUS}5.00 points)",
        "third, QAT: as good, larger (+220 bytes)",
    ]


def test_a_group_is_one_file_with_its_winner_on_top(report):
    group = [
        row for row in candidates.figures(report).rows if row[0].text == "model.int8.tflite"
    ]
    assert [row[1].text for row in group] == [
        "onnx2tf, QAT", "litert", "litert, QAT", "onnx2tf", "third, QAT",
    ]  # fmt: skip
    assert [row[0].mark for row in group] == ["code", *["code again"] * 4]
    assert [row[2].text for row in group] == ["offered", *["cross-check"] * 4]
    assert [cell.note for cell in group[0]] == [""] * 9
    assert [group[4][place].note for place in (3, 7, 8)] == ["equal", f"1.00 {TIMES}", "+220"]


def test_a_file_of_one_exporter_is_not_told_twice(report):
    assert "model.float32.onnx" not in rows(candidates.offered(report))


def test_an_exporter_that_cannot_is_not_called_a_failure(report):
    group = {row[1].text: row[2] for row in candidates.figures(report).rows[-2:]}
    assert group["litert"] == ("REFUSED", CRASH, "open")
    assert group["onnx2tf"] == ("does not write it", "", "")


def test_a_wrong_candidate_is_marked_and_says_why(report):
    group = candidates.figures(report).rows[5:9]
    assert group[1][2] == ("WRONG", "same class on 12 %, limit 90 %", "bad")


def test_a_refused_candidate_has_dashes_and_no_zero(report):
    refused = candidates.figures(report).rows[-2]
    assert {cell.text for cell in refused[3:]} == {DASH}


@pytest.mark.parametrize(
    ("decided", "said"),
    [
        ("x is as good as y, which comes later in the list", "as good, later in the list"),
        ("x is prettier than y", "x is prettier than y"),
    ],
)
def test_a_reason_of_another_kind_is_said_as_it_was_written(decided, said):
    made = [candidate(LITERT), candidate(ONNX2TF)]
    entry = offered("model.int8.tflite", "int8", made, 0, decided)
    [row] = candidates.offered({"files": [entry]}).rows
    assert row[-1].text == f"onnx2tf: {said}"


def test_a_long_reason_is_short_beside_the_others_and_whole_beside_its_figures(report):
    long = "no kernel for this " * 12 + "last word"
    report["files"][4]["candidates"][0]["why"] = long
    short = candidates.offered(report).rows[-1][-1].text
    assert "no kernel for this" in short
    assert "last word" not in short
    assert candidates.figures(report).rows[-2][2].note == long


def test_the_three_states_have_three_colours_and_a_meaning(report):
    assert [(one.total, one.state, one.mark) for one in tables.tally(report)] == [
        (5, "made", "good"), (1, "refused", "open"), (1, "wrong", "bad"),
    ]  # fmt: skip
    states = {row[0].text: (row[-1].text, row[-1].mark) for row in tables.files(report).rows}
    assert states["model.int8.tflite"] == ("made", "good")
    assert states["model.int4.tflite"] == ("REFUSED", "open")
    assert states["model.float16.tflite"] == ("WRONG", "bad")


def test_where_all_files_are_made_nothing_is_counted(tmp_path):
    found = integer_records()
    files = found["beside"]["export"]["files.json"]
    files[:] = [entry for entry in files if entry["state"] == "made"]
    shown = collect(write_run(tmp_path / "run", found))
    assert 'class="tally"' not in page(shown)
    assert "5 made" not in markdown.text(shown)


def test_a_file_says_who_made_it(report):
    notes = {row[0].text: row[0].note for row in tables.files(report).rows}
    assert notes["model.int8.tflite"] == "by onnx2tf, QAT"
    assert notes["model.float32.onnx"] == "by onnx"
    assert notes["model.weight_only.tflite"] == "tflite, weight_only"  # of an older run


def test_only_files_that_could_be_integer_are_audited(report):
    report["files"][0]["audit"] = report["files"][1]["audit"] | {"dtype": "fp32"}
    assert list(rows(quantization.audits(report))) == [
        "model.int8.tflite", "model.int8-per-tensor.tflite", "model.weight_only.tflite",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("model.int8.tflite", ("5 islands, at the output", "open")),
        ("model.int8-per-tensor.tflite", ("none", "good")),
        ("model.weight_only.tflite", ("throughout", "")),
    ],
)
def test_float_parts_are_told_from_none_and_from_nothing_else(report, file, expected):
    cell = cells(quantization.audits(report), file)["Float parts"]
    assert (cell.text, cell.mark) == expected


def test_conversions_and_borders_are_counted_and_scaled(report):
    row = cells(quantization.audits(report), "model.int8.tflite")
    assert row["Conversions"] == ("3, 4", "1 cast", "")
    assert row["MACs"] == ("90.0 %", "10.0 % fp32", "")
    assert row["Input"] == ("float32", f"as int8, 0.01235, {MINUS}7", "")
    assert row["Output"] == ("int8", f"0.01235, {MINUS}7", "")


def test_every_island_is_named_once(report):
    table = quantization.islands(report)
    assert [row[2].text for row in table.rows] == [f"silu_{n}" for n in (0, 1, 2, 3, 4, 9)]
    assert [row[0].mark for row in table.rows] == ["code", *["code again"] * 5]


def test_many_findings_alike_are_one_row_with_their_number(report):
    table = quantization.findings(report)
    assert [(row[0].note, row[1].text) for row in table.rows] == [
        ("silu", str(FINDINGS)), ("mixed-output", "1"),
    ]  # fmt: skip
    assert len(quantization.all_findings(report).rows) == FINDINGS + 1


def test_findings_that_stand_alone_are_not_told_twice(report):
    report["quantization"]["findings"] = report["quantization"]["findings"][-1:]
    assert len(quantization.findings(report).rows) == 1
    assert quantization.all_findings(report).rows == []


def test_a_finding_that_differs_from_its_like_says_whose_figure_it_gives(report):
    found = report["quantization"]["findings"]
    assert quantization.findings(report).rows[0][0].text == "SiLU rounds."
    found[1]["what"] = "SiLU rounds more."
    assert quantization.findings(report).rows[0][0].text == "block0.act: SiLU rounds."


def test_each_integer_file_says_what_its_accuracy_limit_took(report):
    table = quantization.control(report)
    held = cells(table, "model.int8.tflite")
    assert held["Outcome"][::2] == ("holds with 1 layer in float", "open")
    assert held["File with layers in float"].text == "model.int8-mixed.tflite"
    lost = cells(table, "model.int8-per-tensor.tflite")
    assert lost["Outcome"] == (
        "DOES NOT HOLD", "even with 2 layers in float it does not hold", "bad",
    )  # fmt: skip
    assert lost["File with layers in float"].text == "none"
    assert lost["Tries"].text == "0 in float: no file"


def test_a_limit_that_integers_hold_is_good(report):
    report["quantization"]["accuracy_control"][0] = {
        "file": "model.int8.tflite",
        "kept": None, "tries": [{"in_float": 0, "drop": 0.1, "holds": True}], "why": "",
    }  # fmt: skip
    cell = cells(quantization.control(report), "model.int8.tflite")["Outcome"]
    assert cell == ("holds in integers", "", "good")


def test_layers_say_their_scheme_in_the_mixed_file(report):
    table = quantization.layers(report)
    assert table.columns[1].title == "model.int8-mixed.tflite"
    assert rows(table) == {
        "head<1>": ["float32", "alone in int8: 12.5 dB"],
        "stem": ["int8", "alone in int8: 44.0 dB"],
    }


def test_a_gain_is_that_of_the_same_exporter_in_the_file(report):
    found = rows(quantization.gains(report))
    assert found == {
        "model.int8.tflite": ["litert: +5.00 points; onnx2tf: +5.00 points", "offered"],
        "model.int8-per-tensor.tflite": [
            f"litert: {MINUS}1.00 points; onnx2tf: {MINUS}10.00 points",
            "the plain one is offered",
        ],
    }


def test_a_gain_that_decides_nothing_is_not_called_none(report):
    entry = report["files"][2]
    entry["candidates"][1]["validation_top1"] = 0.802
    cell = cells(quantization.gains(report), entry["file"])["Outcome"]
    assert cell == ("the plain one is offered", "the gain does not decide", "open")


def test_a_gain_that_no_file_has_is_said_in_the_sentence(report):
    report["files"][1]["candidates"] = report["files"][2]["candidates"]
    assert "No gain in any file." in quantization.told(report)[-1]
    del report["files"][1:3]
    assert "its gain in a file is not known" in quantization.told(report)[-1]


def test_an_accuracy_that_float_has_too_is_no_mere_training(report):
    report["quantization"]["qat"]["simulated_after"] = 0.81
    assert "The float32 file" not in quantization.told(report)[-1]


def test_an_exact_equalisation_is_called_exact(report):
    report["quantization"]["equalised"]["worst"] = 0.0
    assert "outputs exactly equal" in quantization.told(report)[0]


def test_texts_of_tools_are_escaped(tmp_path):
    hostile = "<script>alert(1)</script>"
    found = integer_records()
    files = found["beside"]["export"]["files.json"]
    files[1]["candidates"][3]["made_by"] = [hostile]
    files[1]["audit"]["islands"][0]["first"] = hostile
    files[4]["candidates"][0]["why"] = hostile
    found["export"]["accuracy_control"][1]["why"] = hostile
    found["quantize"]["findings"][0]["where"] = hostile
    found["quantize"]["ranking"][1]["layer"] = hostile
    shown = collect(write_run(tmp_path / "run", found))
    for text in (page(shown), markdown.text(shown)):
        assert text.count("&lt;script&gt;") >= 6
        assert "<script" not in text


def test_long_tables_are_folded_and_short_ones_open(tmp_path):
    found = integer_records()
    shown = page(collect(write_run(tmp_path / "long", found)))
    assert "<details><summary>Every candidate with its figures (11)" in shown
    assert f"<details><summary>Every finding ({FINDINGS + 1})" in shown
    files = found["beside"]["export"]["files.json"]
    del files[1]
    shown = page(collect(write_run(tmp_path / "short", found)))
    assert "<details open><summary>Every candidate with its figures (6)" in shown


def test_a_run_without_any_of_it_has_no_empty_section(tmp_path):
    shown = collect(write_run(tmp_path / "run", records()))
    text = page(shown)
    assert 'id="integers"' not in text
    assert "#integers" not in text
    for title in ("Who made them", "What is really integer", "Holding the accuracy limit"):
        assert title not in text
        assert title not in markdown.text(shown)


def test_a_run_with_it_is_in_the_menu(pages):
    assert 'href="#integers"' in pages[0]
    assert 'id="integers"' in pages[0]


def test_the_plan_of_an_older_run_has_one_type_for_both_borders(tmp_path):
    found = records()
    [scheme] = found["quantize"]["files"]
    for name in ("input_dtype", "output_dtype", "method", "variant"):
        del scheme[name]
    scheme["io_dtype"] = "uint8"
    [row] = tables.plan(collect(write_run(tmp_path / "run", found))).rows
    assert [row[place].text for place in (0, 4, 5)] == ["int8, tflite", "uint8, uint8", DASH]


def test_calibration_says_its_method_or_that_it_is_not_known(tmp_path, report):
    assert rows(tables.calibration(report))["Method"] == ["percentile of each tensor"]
    older = collect(write_run(tmp_path / "older", records()))
    assert rows(tables.calibration(older))["Method"] == [DASH]


def test_why_zeros_are_stored_is_said_only_where_they_are(tmp_path):
    found = integer_records()
    found["quantize"]["dense_because"] = "conv is a 3x3 convolution"
    told = collect(write_run(tmp_path / "run", found))
    sentence = "no runtime would skip them: conv is a 3x3 convolution"
    assert sentence in quantization.zeros(told)
    assert sentence in html.unescape(page(told))
    assert sentence in markdown.text(told)
    found["quantize"]["dense_because"] = None
    silent = collect(write_run(tmp_path / "other", found))
    assert quantization.zeros(silent) == ""
    assert "no runtime would skip" not in page(silent)


def test_kernels_are_shown_by_their_time_and_missing_timers_are_told(tmp_path):
    found = integer_records()
    file, other = (entry["file"] for entry in found["export"]["files"][:2])
    found["beside"]["profile"]["profile.json"]["files"] = [
        {"file": file, "latency": [], "operators": {
            "by_kernel_ms": {"QLinearConv": 0.75, "<Add>": 0.25}, "count": {}, "why": ""}},
        {"file": other, "latency": [], "operators": {
            "by_kernel_ms": {}, "count": {}, "why": "there is no timer"}},
    ]  # fmt: skip
    told = collect(write_run(tmp_path / "run", found))
    (row,) = tables.operators(told).rows
    assert [cell.text for cell in row] == [
        file,
        "QLinearConv 0.750 (75 %), <Add> 0.250 (25 %)",
    ]
    assert tables.untimed(told) == "there is no timer"
    assert "&lt;Add&gt; 0.250" in page(told)
    assert "QLinearConv 0.750" in markdown.text(told)
    assert "Kernels by time" not in page(collect(write_run(tmp_path / "old", records())))
