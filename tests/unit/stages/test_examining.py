"""Files are timed in turns, and not at all where time means nothing."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.exporters import ExportFailure
from pipeline.exporters.election import Candidate
from pipeline.stages import examining
from pipeline.stages.candidates import Made, exporters, timed
from pipeline.stages.examining import in_turns


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files that flatten an image."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("input", [1, 1, 2, 2]), ("logits", [1, 4]))
    ]
    node = helper.make_node("Flatten", ["input"], ["logits"])
    graph = helper.make_graph([node], "flat", ends[:1], ends[1:])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    paths = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for path in paths:
        onnx.save(model, path)
    return paths


def candidate(file: str, size: int | None) -> Candidate:
    state = "made" if size else "refused"
    return Candidate(exporter="onnx", state=state, file=file, bytes=size)


def test_each_file_is_timed_as_often(files: list[Path]) -> None:
    found = in_turns(files)
    assert [one.n for one in found] == [30, 30]
    assert all(one.value > 0 and one.conditions["in_turns"] for one in found)
    assert in_turns([]) == []


def test_nothing_is_timed_under_emulation(files: list[Path], monkeypatch) -> None:
    monkeypatch.setattr(examining, "emulation", lambda: "qemu")
    assert in_turns(files) == [None, None]


def test_only_files_that_run_are_timed(files: list[Path]) -> None:
    failure = ExportFailure(name="three", reason="no", log=Path())
    made = [
        Made(candidate("one", 9), files[0]),
        Made(candidate("three", None), failure),
        Made(candidate("two", None), files[1]),  # its engine refused it
    ]
    first, second, third = timed(made)
    assert first.candidate.inference is not None
    assert second == made[1]
    assert third.candidate.inference is None


def test_exporters_are_used_in_the_order_of_the_room() -> None:
    assert exporters([]) == ["onnx", "tflite_litert", "tflite_onnx2tf"]
    assert exporters(["tflite-litert", "onnx"]) == ["onnx", "tflite_litert"]
    assert exporters(["mine.module:Writer", "onnx"]) == ["onnx", "mine.module:Writer"]
