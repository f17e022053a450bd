"""What the tables at the end of a run say."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.cli.tables import _targets, file_cells, latency_text, print_report


def shown(target):
    console = Console(file=io.StringIO(), width=160)
    console.print(_targets({"targets": [target]}))
    return next(
        line for line in console.file.getvalue().splitlines() if line.startswith(" chip")
    ).split()


def row(file, ms):
    return {
        "file": file,
        "predicted": None,
        "bound": {"value": ms},
        "peak_ram": {"value": 0.5},
        "checks": [],
    }


FILES = [row("a.onnx", 1.0), row("b.tflite", 2.0)]


@pytest.mark.parametrize(
    ("chosen", "nearest", "files", "expected"),
    [
        ("a.onnx", None, FILES, "chip a.onnx yes at least 1 ms (bound) 0.5 MB why"),
        (
            None,
            "b.tflite",
            FILES,
            "chip nearest: b.tflite NO at least 2 ms (bound) 0.5 MB why",
        ),
        (None, None, [], "chip none NO - - why"),
    ],
)
def test_the_nearest_file_is_shown_with_its_figures_and_said_to_be_it(
    chosen, nearest, files, expected
):
    target = {"id": "chip", "chosen": chosen, "nearest": nearest, "files": files, "why": "why"}
    assert " ".join(shown(target)) == expected


def file(name, size, **changed):
    figure = {"value": 0.123456}
    return {
        "file": name, "format": name.rpartition(".")[2], "scheme": name.split(".")[1],
        "state": "made", "bytes": size, "gzip_bytes": size - 1,
        "parity": {
            "top1": figure, "agreement": 0.999, "max_steps": None, "max_abs_difference": 1e-7
        },
        "latency": [{"median": figure, "p90": figure}], **changed,
    }  # fmt: skip


MADE = [
    file("model.float32.onnx", 17_234_567),
    file("model.dynamic_range.tflite", 4_345_678),
    file("model.int8.tflite", 4_123_456, state="wrong"),
    file("model.float16.tflite", 1, state="refused"),
]
CHIP = {"id": "chip", "chosen": "model.float32.onnx", "nearest": None, "why": "it is [red]"}


def printed(width, files=MADE, targets=()):
    console = Console(file=io.StringIO(), width=width)
    report = {"files": files, "targets": list(targets)}
    print_report(console, report, Path("run"))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [50, 80, 120])
def test_names_and_sizes_are_whole_in_a_terminal_of_any_width(width):
    text = printed(width, targets=[{**CHIP, "files": [row("model.float32.onnx", 1.0)]}])
    for entry in MADE:
        assert entry["file"] in text
        if entry["state"] != "refused":
            assert f"{entry['bytes']:,}" in text
            assert f"{entry['gzip_bytes']:,}" in text
    assert "…" not in text
    assert ("median ms" in text) == (width == 120)  # a table where there is room for one
    assert all(len(line) <= width for line in text.splitlines())


def test_a_narrow_terminal_gets_a_block_of_lines_a_file_and_a_target():
    chip = {**CHIP, "files": [row("model.float32.onnx", 1.0)]}
    lines = printed(40, [MADE[0], MADE[3]], [chip]).splitlines()
    assert [line.rstrip() for line in lines] == [
        "Files: difference from PyTorch, host",
        "latency with one thread",
        "model.float32.onnx",
        "  17,234,567 bytes, gzip 17,234,566",
        "  top-1 12.35%, 1.0e-07, 99.9%",
        "  median 0.123 ms, p90 0.123 ms",
        "model.float16.tflite",
        "  REFUSED",
        "",
        "Targets",
        "chip: fits yes",
        "  model.float32.onnx",
        "  latency at least 1 ms (bound)",
        "  peak RAM 0.5 MB",
        "  it is [red]",
        "",
        "report: run/report.html",
    ]


def test_a_file_with_a_variant_has_a_row_in_a_hundred_columns():
    name = "model.int8-per-tensor-mixed.tflite"
    entry = file(name, 123_456, scheme="int8", variant="per-tensor-mixed")
    steps = entry["parity"] | {"max_steps": 3396.9, "agreement": 1.0}
    text = printed(100, [MADE[0], entry | {"parity": steps}])
    [line] = [line for line in text.splitlines() if name in line]
    assert line.split() == [
        name, "123,456", "123,455", "12.35%", "3396.9", "0.123", "0.123",
    ]  # fmt: skip
    assert "scheme" not in text  # the name says it
    assert all(len(line) <= 100 for line in text.splitlines())


def test_the_cells_of_a_file_name_its_variant():
    entry = file("model.int8-per-tensor.tflite", 1, scheme="int8", variant="per-tensor")
    assert file_cells(entry)[:3] == [entry["file"], "tflite", "int8-per-tensor"]
    assert file_cells(MADE[0])[2] == "float32"


def test_an_unstable_time_is_said_to_be_one():
    figure = {"value": 0.123456}
    timing = {"median": figure, "p90": figure, "stable": False}
    assert file_cells(file("a.int8.onnx", 1, latency=[timing]))[-2] == "0.123 UNSTABLE"
    assert (
        file_cells(file("a.int8.onnx", 1, latency=[timing | {"stable": None}]))[-2] == "0.123"
    )


def test_a_latency_says_its_basis_and_the_measured_one_comes_first():
    predicted = {"value": 2.0, "spread": [1.0, 4.0], "conditions": {"extrapolated": True}}
    known = row("a.onnx", 1.0) | {"predicted": predicted}
    assert latency_text(known) == "2 ms (1 to 4, predicted, extrapolated)"
    measured = {
        "value": 3.0,
        "basis": "measured",
        "n": 200,
        "conditions": {"statistic": "p90"},
    }
    known |= {"measured": measured}
    assert latency_text(known) == "3 ms (measured, p90, n = 200)"
    known |= {"on_device": {"stable": False}}
    assert latency_text(known) == "3 ms (measured, p90, n = 200, UNSTABLE)"


def checked(file, passed):
    check = {"name": "peak RAM (device)", "passed": passed, "why": "why"}
    return row(file, 1.0) | {"checks": [check]}


@pytest.mark.parametrize("width", [20, 120])
def test_the_matrix_is_printed_where_it_has_room(width):
    files = [checked("model.a.onnx", True), checked("model.b.onnx", False)]
    files += [checked("model.c.onnx", None)]
    chip = {**CHIP, "chosen": "model.a.onnx", "files": files}
    lines = [line.split() for line in printed(width, targets=[chip]).splitlines()]
    matrix = [
        ["a.onnx", "yes,", "chosen"], ["b.onnx", "NO", "peak", "RAM"],
        ["c.onnx", "yes?", "peak", "RAM"],
    ]  # fmt: skip
    assert [line for line in lines if line in matrix] == (matrix if width == 120 else [])


def test_without_targets_a_line_says_so():
    assert "Targets" not in printed(120)
    assert "no target was asked for\n" in printed(120)
