"""Accuracy against latency against bytes, one picture a target."""

from xml.etree import ElementTree as ET

import pytest
from report_run import measure, records, write_run

from pipeline.report.collect import collect
from pipeline.report.html import page
from pipeline.report.target_pictures import Spot, limit, panels, spots


@pytest.fixture
def report(tmp_path):
    return collect(write_run(tmp_path / "run", records()))


def texts(picture):
    root = ET.fromstring(picture.svg.replace("xlink:href", "href"))
    return [element.text for element in root.iter("text")]


def first_row(report):
    return report["targets"][0]["files"][0]


def test_each_target_has_a_picture_or_a_sentence(report):
    found = panels(report)
    assert [picture.title for picture in found.pictures] == ["A board", "A phone", "A chip"]
    assert [bool(picture.svg) for picture in found.pictures] == [True, True, False]
    nothing = found.pictures[2].note
    assert nothing == "nothing to draw: of no file both accuracy and latency are known"
    assert nothing in page(report)


def test_the_numbers_are_explained(report):
    found = panels(report)
    assert found.names == [(1, "model.float32.onnx"), (2, "model.int8.tflite")]
    assert {"1", "2"} <= set(texts(found.pictures[0]))
    assert "a bound" in found.signs
    assert "predicted" in found.signs
    assert "measured on the device" not in found.signs


def test_a_file_is_where_its_best_basis_puts_it(report):
    numbers = {"model.float32.onnx": 1, "model.int8.tflite": 2}
    first, second = spots(report["targets"][0], report, numbers)
    assert first == Spot(
        1, 2.5, (1.5, 4.2), "predicted", 87.5, 1_234_567, "onnx", chosen=True, unstable=False
    )
    assert (second.basis, second.interval, second.chosen) == ("bound", None, False)
    first_row(report)["measured"] = measure(9.0, n=64)
    first_row(report)["on_device"] = {"stable": False}
    first, _ = spots(report["targets"][0], report, numbers)
    assert (first.basis, first.ms, first.interval, first.unstable) == (
        "measured", 9.0, None, True,
    )  # fmt: skip
    assert "1~" in texts(panels(report).pictures[0])
    assert "measured on the device" in panels(report).signs


def test_the_bases_are_drawn_differently(report):
    drawn = set()
    for basis in ("measured", "predicted", "bound"):
        row = first_row(report) | {"measured": None, "predicted": None, "bound": None}
        spread = [1.0, 4.0] if basis == "predicted" else None
        row[basis] = measure(2.0, basis=basis, spread=spread)
        target = report["targets"][0] | {"files": [row]}
        [picture] = panels(report | {"targets": [target]}).pictures
        drawn.add(picture.svg)
        assert f"latency {basis}" in picture.note
    assert len(drawn) == 3


def test_the_limit_is_a_line_where_it_is_near_and_told_where_it_is_far(report):
    phone = report["targets"][1]
    assert limit(phone) == 9.0
    assert limit(report["targets"][0]) is None
    far = panels(report).pictures[1]
    assert "limit 9 ms →" in texts(far)
    assert far.note == "1 file, latency bound; 9 ms granted"
    phone["files"][0]["bound"]["value"] = 2.0
    near = panels(report).pictures[1]
    assert "limit 9 ms →" not in texts(near)
    assert "stroke-dasharray" in near.svg
    assert "stroke-dasharray" not in far.svg


def test_a_picture_takes_no_colours_but_those_of_the_page(report):
    for picture in panels(report).pictures[:2]:
        assert "#10a0" not in picture.svg
        assert "var(--" in picture.svg
        assert "font-family" not in picture.svg


def test_latencies_far_apart_get_a_logarithmic_axis_of_plain_numbers(report):
    first_row(report)["predicted"] |= {"value": 100.0, "spread": [50.0, 200.0]}
    said = texts(panels(report).pictures[0])
    assert {"1", "10", "100"} <= set(said)
    assert not any("$" in text for text in said)


def test_files_on_each_other_share_a_label(report):
    for row in report["targets"][0]["files"]:
        row |= {"predicted": measure(2.0, basis="predicted", spread=[1.0, 4.0])}
    assert "1, 2" in texts(panels(report).pictures[0])


def test_without_targets_or_files_nothing_is_drawn(report):
    assert panels(report | {"targets": []}) == ([], [], "")
    bare = report["targets"][0] | {"files": []}
    [picture] = panels(report | {"targets": [bare]}).pictures
    assert (picture.svg, picture.note) == ("", "nothing to draw: there was no file to judge")
