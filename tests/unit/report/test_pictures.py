import math
import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from report_run import epoch, records, write_run

from pipeline.report import pictures
from pipeline.report.collect import collect


def drawn(tmp_path, found=None):
    report = collect(write_run(tmp_path / "run", found))
    return {
        picture.title: picture
        for draw in (pictures.training, pictures.layers, pictures.files)
        for picture in draw(report)
    }


def parsed(picture):
    return ET.fromstring(picture.svg.replace("xlink:href", "href"))


def texts(picture):
    return [element.text for element in parsed(picture).iter("text")]


def test_all_pictures_are_drawn_and_well_formed(tmp_path):
    found = drawn(tmp_path)
    assert list(found) == [
        "Losses",
        "Accuracy on validation",
        "Cost against budget",
        "Instability of each pruning",
        "Weights of each layer",
        "Channels of each layer",
        "Size of each file",
        "Accuracy against latency",
    ]
    for picture in found.values():
        root = parsed(picture)
        assert root.get("viewBox")
        assert root.get("aria-label").startswith(picture.title)


def test_every_pruning_during_training_is_drawn_and_the_last_one_said(tmp_path):
    picture = drawn(tmp_path)["Instability of each pruning"]
    assert picture.note.endswith(
        "the pruning after training cost 1.1 % (test split, batch norm recalibrated)"
    )
    calm = pictures.training(
        collect(write_run(tmp_path / "other"))
        | {"training": {"history": [epoch(1)], "best_epoch": 1, "instability": None}}
    )[-1]
    assert (calm.svg, calm.note) == (
        "", "none during training; the pruning after training cost not known (test split)",
    )  # fmt: skip


def test_a_picture_uses_only_the_colours_of_the_page(tmp_path):
    for picture in drawn(tmp_path).values():
        assert "var(--ink)" in picture.svg or "var(--soft)" in picture.svg
        assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", picture.svg)


def test_a_picture_names_no_font_and_no_address(tmp_path):
    for picture in drawn(tmp_path).values():
        assert "font-family" not in picture.svg
        assert "http" not in picture.svg
        assert "<style" not in picture.svg


@pytest.mark.parametrize("count", [1, 22])
def test_every_layer_has_its_name_and_its_figures(tmp_path, count):
    found = drawn(tmp_path, records(count))
    names = {f"block{i}.conv" for i in range(count)}
    for title in ("Weights of each layer", "Channels of each layer"):
        assert names <= set(texts(found[title]))
    assert {f"{16 + i} → {14 + i}" for i in range(count)} <= set(
        texts(found["Channels of each layer"])
    )


def bars(picture):
    """Return the widths of the bars in channels, by colour and row of the picture."""
    found = {}
    for path in parsed(picture).iter("path"):
        colour = re.search(r"fill: var\(--([\w-]+)\)", path.get("style", ""))
        corners = re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get("d", ""))
        if colour and len(corners) == 4 and path.get("clip-path"):
            across = [float(x) for x, _ in corners]
            found.setdefault(colour[1], []).append(max(across) - min(across))
    return found


def test_every_channel_is_in_the_picture_by_what_became_of_it(tmp_path):
    found = records()
    plan = found["beside"]["compact"]["plan.json"]
    gone = {"no input": 5, "constant": 3, "no reader": 2}
    plan["removed"] = [
        {"layer": "block0.conv", "channel": 0, "reason": reason, "constant": None}
        for reason, count in gone.items()
        for _ in range(count)
    ]
    plan["kept"] = [{"layer": "block0.conv", "channel": c, "why": "tied"} for c in range(4)]
    found["compact"]["before"]["layers"][0]["outputs"] = 16
    found["compact"]["after"]["layers"][0]["outputs"] = 6
    found["compact"]["before"]["layers"][1]["outputs"] = 16
    found["compact"]["after"]["layers"][1]["outputs"] = 16
    picture = drawn(tmp_path, found)["Channels of each layer"]
    said = set(texts(picture))
    assert {"kept", "dead but kept", *(f"removed: {reason}" for reason in gone)} <= said
    assert {"16 → 6", "16 → 16"} <= said
    widths = bars(picture)
    one = widths["series-1"][1] / 16  # the second layer keeps all of its 16
    counts = {colour: round(rows[0] / one, 3) for colour, rows in widths.items()}
    assert counts == {
        "series-1": 2, "series-2": 4, "pale": 5, "series-3": 3, "series-4": 2,
    }  # fmt: skip


def test_what_no_channel_met_is_not_in_the_legend(tmp_path):
    found = records()
    found["beside"]["compact"]["plan.json"]["kept"] = []
    said = texts(drawn(tmp_path, found)["Channels of each layer"])
    assert "dead but kept" not in said
    assert "removed: constant" not in said
    assert {"kept", "removed: no input", "removed: no reader"} <= set(said)


def test_rows_of_many_layers_do_not_overlap(tmp_path):
    root = parsed(drawn(tmp_path, records(22))["Channels of each layer"])
    heights = sorted(
        float(element.get("y")) for element in root.iter("text") if "→" in (element.text or "")
    )
    gaps = [after - before for before, after in pairwise(heights)]
    assert len(gaps) == 21
    assert min(gaps) > 8  # points, the size of the letters


def test_a_layer_without_any_kept_weight_is_drawn(tmp_path):
    found = records()
    found["prune"]["layers"] = [
        found["prune"]["layers"][0] | {"kept": 0},
        *found["prune"]["layers"][1:],
    ]
    assert "0.0 %" in texts(drawn(tmp_path, found)["Weights of each layer"])


def test_names_are_neither_formulas_nor_tags(tmp_path):
    found = records()
    for layers in (found["prune"]["layers"], found["compact"]["before"]["layers"]):
        layers[0]["name"] = "$a_1$<b>&"
    assert "$a_1$<b>&" in texts(drawn(tmp_path, found)["Weights of each layer"])


def test_a_method_without_a_cost_gets_a_word_and_no_picture(tmp_path):
    found = records()
    found["beside"]["train"]["history.json"] = [epoch(1, cost=None), epoch(2, cost=None)]
    picture = drawn(tmp_path, found)["Cost against budget"]
    assert picture.svg == ""
    assert "without a cost" in picture.note


def test_one_epoch_is_a_picture_too(tmp_path):
    found = records()
    found["beside"]["train"]["history.json"] = [epoch(1)]
    assert "task" in texts(drawn(tmp_path, found)["Losses"])


def test_a_run_without_history_has_no_curves(tmp_path):
    found = records()
    found["beside"]["train"]["history.json"] = []
    assert "Losses" not in drawn(tmp_path, found)


def test_phases_are_named_where_they_begin(tmp_path):
    assert "finetune" in texts(drawn(tmp_path)["Losses"])


def test_a_wrong_file_is_said_to_be_one(tmp_path):
    assert "float16 tflite (wrong)" in texts(drawn(tmp_path)["Size of each file"])


def test_latencies_far_apart_are_numbers_on_a_logarithmic_axis(tmp_path):
    found = records(3)
    timed = found["beside"]["profile"]["profile.json"]["files"]
    assert len(timed) > 1
    for factor, entry in zip((0.004, 0.4), timed, strict=False):
        for timing in entry["latency"]:
            timing["median"]["value"] = factor
    said = texts(drawn(tmp_path, found)["Accuracy against latency"])
    assert "0.01" in said
    assert not any("$" in text for text in said)


@pytest.mark.parametrize(("schemes", "filled"), [(4, 0), (5, 2)])
def test_marks_are_filled_when_the_colours_come_round_again(tmp_path, schemes, filled):
    found = records()
    plain = found["beside"]["export"]["files.json"][0]
    names = [f"model.s{n}.onnx" for n in range(schemes)]
    found["beside"]["export"]["files.json"] = [
        plain | {"file": name, "scheme": "s", "variant": str(n)}
        for n, name in enumerate(names)
    ]
    profile = found["beside"]["profile"]["profile.json"]
    latency = profile["files"][0]["latency"]
    profile |= {"files": [{"file": n, "latency": latency} for n in names], "targets": []}
    picture = drawn(tmp_path, found)["Accuracy against latency"]
    ends = 4 * math.ceil(schemes / 4)  # of the intervals, in the plot and in the legend
    assert picture.svg.count("fill: var(--series-1)") == ends + filled
    assert f"s-{schemes - 1} onnx" in texts(picture)
