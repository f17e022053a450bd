"""What the tables at the end of a run say."""

import io

import pytest
from rich.console import Console

from pipeline.cli.tables import _targets


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
