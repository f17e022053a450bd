"""What a reader finds in the HTML and in the Markdown."""

import html
import re
from html.parser import HTMLParser

import pytest
from report_run import measure, records, targets, write_run

from pipeline.report import markdown, tables, verdicts
from pipeline.report.collect import collect
from pipeline.report.html import page
from pipeline.report.wording import DASH

HOSTILE = "<script>alert('x')</script>"


class Links(HTMLParser):
    """Gathers what a page would fetch, and its ids."""

    def __init__(self):
        super().__init__()
        self.found, self.ids = [], []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                self.found.append((tag, value))
        if tag in ("script", "link", "img", "iframe", "object", "embed"):
            self.found.append((tag, tag))


def collected(tmp_path, found=None):
    return collect(write_run(tmp_path / "run", found))


def both(report):
    return html.unescape(page(report)).replace("\N{NO-BREAK SPACE}", " "), markdown.text(
        report
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    return both(collected(tmp_path_factory.mktemp("pages")))


@pytest.mark.parametrize(
    "figure",
    [
        "1,234,567",  # bytes, and gzip
        "65,432",
        "87.50 %",  # top-1 with its interval
        "85.00 to 90.00 %",
        "n = 1,234",
        "largest difference 1.50 output steps",
        "largest logit difference 1.5e-06",
        "3.25",  # median, and p90
        "p90 3.50",
        "2.50 ms",  # prediction with its interval and where it comes from
        "predicted, 1.50 to 4.20 ms, 4 threads, leave-one-out error 20.0 % over 4 models",
        "extrapolated",
        "at least 0.0500 ms",
        "bound, not a prediction",
        "0.750 MB",
        "16 → 14",
        "2.5e-06",  # the proof
        "120",  # the calibration
        "Seeds: training 5, calibration 7",
    ],
)
def test_a_figure_is_in_both(pages, figure):
    assert all(figure in text for text in pages)


@pytest.mark.parametrize(
    "sentence",
    [
        "2 of 3 targets have a file that fits",
        "fits, 1 limit unchecked",
        "no file fits",
        "too slow (and 1 more).",
        "the running mean of head.norm",
        "the kernel of its carrier, input channel 4",
        "tied to a live channel of head",
        "cut more MACs",
        "measure on the device",
    ],
)
def test_a_reason_is_in_both(pages, sentence):
    assert all(sentence in text.replace("\\_", "_") for text in pages)


def test_refused_and_wrong_files_are_shown_with_their_reason(tmp_path):
    shown, text = both(collected(tmp_path))
    assert "REFUSED" in shown
    assert "onnx2tf: no such <op>" in shown
    assert "WRONG" in shown
    assert "largest difference 9, limit 1" in shown
    assert "REFUSED (onnx2tf: no such &lt;op&gt;)" in text
    assert "WRONG (largest difference 9, limit 1)" in text


def test_a_refused_file_has_dashes_and_no_zero(tmp_path):
    report = collected(tmp_path)
    row = tables.files(report).rows[2]
    assert [cell.text for cell in row[1:-1]] == [DASH] * 6


def test_a_missing_percentile_and_a_missing_prediction_are_dashes(tmp_path):
    report = collected(tmp_path)
    assert tables.files(report).rows[0][6] == ("1.75", f"p90 {DASH}", "")
    assert verdicts.cards(report)[2].latency[0].figure == DASH


def test_counts_of_images_that_differ_are_said_in_each_row(tmp_path):
    found = records()
    found["beside"]["export"]["files.json"][0]["parity"]["top1"]["n"] = 99
    table = tables.files(collected(tmp_path, found))
    assert table.columns[3].note == "measured"
    assert [row[3].note for row in table.rows][:2] == [
        "85.00 to 90.00 %, n = 99",
        "85.00 to 90.00 %, n = 1,234",
    ]


def test_the_page_fetches_nothing(tmp_path):
    text = page(collected(tmp_path))
    links = Links()
    links.feed(text)
    assert links.found, "the menu links to the page's own sections"
    assert all(value.startswith("#") for _, value in links.found)
    assert not re.search(r"https?://|@import|@font-face|<script|\bsrc=", text)
    assert not re.search(r"url\((?!#)", text)


def test_no_id_is_given_twice_unless_it_is_the_same_shape(tmp_path):
    text = page(collected(tmp_path))
    shapes = {}
    for found in re.finditer(
        r'<(path|rect) ([^>]*)id="([^"]+)"|<path id="([^"]+)" ([^>]*)>', text
    ):
        name = found[3] or found[4]
        shapes.setdefault(name, set()).add(found[5])
    assert shapes
    assert all(len(drawn) == 1 for drawn in shapes.values())


def test_hostile_names_are_escaped(tmp_path):
    found = records()
    found["recipe"]["name"] = HOSTILE
    found["recipe"]["model"]["name"] = HOSTILE
    found["train"]["data"]["name"] = HOSTILE
    found["quantize"]["calibration"]["class_histogram"] = {HOSTILE: 1, "a|b": 2, "$x_1$": 3}
    for key in ("prune", "compact"):
        place = found[key] if key == "prune" else found[key]["before"]
        place["layers"][0]["name"] = HOSTILE
    report = collected(tmp_path, found)
    shown, text = page(report), markdown.text(report)
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    outside = re.sub(r"```toml.*?```", "", text, flags=re.DOTALL)
    assert "<script" not in outside
    assert "a\\|b: 2" in outside


def test_the_recipe_cannot_end_its_block_of_markdown(tmp_path):
    found = records()
    found["recipe"]["data"]["name"] = "```\n<script>"
    text = markdown.text(collected(tmp_path, found))
    start = text.index("````toml")
    assert text.index("<script>") > start
    assert text.rindex("````") > text.index("<script>")


def test_every_row_of_markdown_has_as_many_cells_as_its_head(tmp_path):
    width = None
    for line in markdown.text(collected(tmp_path)).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        width = width or cells
        assert cells == width
    assert width is None


def test_without_targets_it_says_so(tmp_path):
    found = records()
    found["beside"]["profile"]["profile.json"]["targets"] = []
    report = collected(tmp_path, found)
    shown, text = both(report)
    assert "2 of 4 files made, for no target in particular" in shown
    assert "The recipe names no target" in shown
    assert "## Limits" not in text


def test_a_target_without_any_file_to_judge(tmp_path):
    found = records()
    target = targets()[2] | {
        "files": [],
        "nearest": None,
        "lost": {},
        "why": "There is no file to offer.",
    }
    found["beside"]["profile"]["profile.json"] = {"files": [], "targets": [target]}
    shown, text = both(collected(tmp_path, found))
    assert "There was no file to judge." in shown
    assert "There is no file to offer." in text


def test_the_nearest_file_is_the_one_that_profile_named():
    assert verdicts.nearest(targets()[2]) == "model.int8.tflite"
    assert verdicts.nearest(targets()[0]) == "model.float32.onnx"


@pytest.mark.parametrize(
    ("kept", "after", "said"),
    [
        (
            40_000,
            300_000,
            "pruned by reparam to 10.0 % of its weights, went from 400,000 to 300,000",
        ),
        (399_000, 400_000, "trained by reparam and not pruned, keeps its 400,000"),
    ],
)
def test_the_headline_says_what_happened(tmp_path, kept, after, said):
    found = records()
    found["prune"]["kept_weights"] = kept
    found["compact"]["after"]["parameters"] = after
    assert said in verdicts.headline(collected(tmp_path, found))


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (
            {"unit": "macs", "part": 0.5, "whole": 2e6, "spent": 990_000.0},
            "10.0 % of its weights (49.5 % of its MACs, 50.0 % granted)",
        ),
        (
            {"unit": "bytes", "part": 0.5, "whole": 4e4, "spent": 19_996.0},
            "10.0 % of its weights (19,996 bytes, 20,000 granted)",
        ),
        (
            {"unit": "latency_ms", "part": 0.5, "whole": 3.0, "spent": 1.25},
            "10.0 % of its weights (1.25 ms predicted, 1.5 ms granted)",
        ),
    ],
)
def test_the_headline_says_what_was_spent_of_a_budget_in_another_unit(tmp_path, budget, said):
    found = records()
    found["train"]["budget"] = budget
    assert said in verdicts.headline(collected(tmp_path, found))


def test_a_comparison_over_its_limit_is_not_called_equal(tmp_path):
    found = records()
    [one] = found["beside"]["compact"]["equivalence.json"]["comparisons"]
    one["difference"] = 2 * one["limit"]
    assert tables.proof(collected(tmp_path, found)).rows[0][-1].text == "DIFFERENT"


@pytest.mark.parametrize(
    ("name", "basis"),
    [
        ("file size (budget)", "measured"),
        ("peak RAM (device)", "predicted"),
        ("accuracy drop", "measured, n = 1,234"),
        ("latency", "predicted, upper end"),
        ("dtype", "read from the file"),
    ],
)
def test_the_figure_of_a_check_says_its_basis(tmp_path, name, basis):
    report = collected(tmp_path)
    target = report["targets"][0]
    target["files"][0]["checks"][0]["name"] = name
    [row] = tables.checks(report, target, "model.float32.onnx").rows
    assert row[2].text == basis


def test_the_basis_of_an_unpredicted_latency_is_its_bound_or_nothing(tmp_path):
    report = collected(tmp_path)
    bounded, unknown = report["targets"][1], report["targets"][2]
    assert tables.checks(report, bounded, "model.float32.onnx").rows[1][2].text == "bound"
    assert tables.checks(report, unknown, "model.int8.tflite").rows[0][2].text == DASH


def test_a_limit_that_a_file_does_not_have_is_a_dash(tmp_path):
    report = collected(tmp_path)
    table = tables.matrix(report["targets"][2])
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["latency", "FAIL", "FAIL"],
        ["dtype", "FAIL", DASH],
    ]


def test_reasons_and_dead_channels_are_told_layer_by_layer(tmp_path):
    table = tables.layers(collected(tmp_path))
    titles = [column.title for column in table.columns]
    rows = {row[0].text: dict(zip(titles, row, strict=True)) for row in table.rows}
    counted = {
        name: [row[title].text for title in ("No input", "No reader", "Dead")]
        for name, row in rows.items()
    }
    assert counted == {"block0.conv": ["1", "1", "0"], "block1.conv": ["1", "0", "2"]}


@pytest.mark.parametrize(("lots", "rest"), [(10, None), (13, "3 layers more")])
def test_of_many_dead_channels_the_largest_lots_are_told_and_the_rest_counted(
    tmp_path, lots, rest
):
    found = records()
    found["beside"]["compact"]["plan.json"]["kept"] = [
        {"layer": f"layer{lot}", "channel": channel, "why": "tied"}
        for lot in range(lots)
        for channel in range(lot + 1)
    ]
    report = collected(tmp_path, found)
    rows = tables.stayed(report).rows
    assert rows[0][:2] == [(f"layer{lots - 1}", "", "code"), (str(lots), "", "")]
    if rest is None:
        assert len(rows) == lots
        return
    assert len(rows) == 11
    assert [cell.text for cell in rows[-1]] == [
        rest, str(1 + 2 + 3), "each is in channels.json of the compact stage",
    ]  # fmt: skip
    assert all(rest in text for text in both(report))


def test_widths_that_run_slowly_are_told_with_their_layers(tmp_path):
    found = records()
    found["compact"]["slow_widths"] = "depthwise convolutions of an odd width: 'block0.conv'"
    shown, text = both(collected(tmp_path, found))
    assert "Widths: depthwise convolutions of an odd width" in shown
    assert "Widths: depthwise convolutions of an odd width" in text


def test_paid_savings_stand_apart_from_free_ones(tmp_path):
    found = records()
    after = found["compact"]["after"]
    less = [layer | {"outputs": layer["outputs"] - 1} for layer in after["layers"]]
    paid = {"images": 200, "channels": 2, "removed": True}
    paid |= {"accuracy_before": 0.89, "accuracy_after": 0.87}
    paid["after"] = after | {"parameters": 123, "layers": less}
    found["compact"]["paid"] = paid
    found["compact"]["test_accuracy"] = 0.87
    report = collected(tmp_path, found)
    rows = {row[0].text: row for row in tables.scores(report).rows}
    assert rows["compact"][-1].text == "89.00 %"
    last = rows["paid: 2 channels dead on 200 images removed"]
    assert (last[1].text, last[-1].text) == ("123", "87.00 %")
    layer = tables.layers(report)
    assert [column.title for column in layer.columns][:3] == ["Layer", "Channels", "Paid"]
    assert layer.rows[0][2].text == str(less[0]["outputs"])
    assert "then to 123 less 2 channels dead on 200 images" in verdicts.headline(report)


def test_a_card_says_which_limits_hold_and_what_to_do_about_the_others(tmp_path):
    fits, unchecked, refused = verdicts.cards(collected(tmp_path))
    assert fits.limits == "1 of 1 limit kept"
    assert (fits.broken, fits.open, fits.why) == ([], [], "best of 2 files.")
    assert unchecked.limits == "1 of 2 limits kept; not checked: latency"
    assert unchecked.open == ["latency: no calibration. Measure on the device."]
    assert refused.limits == "0 of 1 limit kept; broken: latency"
    assert refused.why == "Nearest is model.int8.tflite, which breaks 1 limit:"
    assert refused.broken == ["latency: 4.2 ms against 1 ms. Cut more MACs."]


def test_a_measured_latency_is_told_before_a_predicted_one_in_both_pages(tmp_path):
    report = collected(tmp_path)
    row = report["targets"][0]["files"][0]
    row["measured"] = measure(3.5, n=200, statistic="p90")
    row["on_device"] = {
        "machine": "ssh://pi@kitchen", "created": "2026", "why_not": None, "cpu": "A72",
        "runtime": "litert 2", "typical": measure(3.125, n=200), "statistic": "median",
        "stable": False, "spread": 0.123,
    }  # fmt: skip
    for text in both(report):
        measured = text.index("measured on the device: p90 claimed with 99 % confidence")
        assert measured < text.index("20.0 % below the measured median")
        assert "UNSTABLE: repeats 12.3 % apart" in text


def test_the_basis_of_a_measured_latency_is_the_device(tmp_path):
    report = collected(tmp_path)
    target = report["targets"][1]
    target["files"][0]["measured"] = measure(3.5, n=200, statistic="p90")
    basis = tables.checks(report, target, "model.float32.onnx").rows[1][2].text
    assert basis == "measured on the device, n = 200"


def test_the_reason_why_a_file_lost_says_the_basis_of_its_latency(tmp_path):
    lost = verdicts.cards(collected(tmp_path))[0].lost
    assert lost.columns[1].note == "ms, each with its basis"
    assert lost.rows[0][1][:2] == ("at least 0.0500", "bound")
