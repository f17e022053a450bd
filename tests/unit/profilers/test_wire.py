"""What another machine answers is believed only where it can be true, and of this file."""

import pytest
from tiny_files import onnx_file

from pipeline.core.artifact import sha256
from pipeline.core.errors import PareError
from pipeline.profilers.transports.wire import checked, plain
from pipeline.runtime.harness import Settings, profile


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    path = onnx_file(tmp_path_factory.mktemp("files") / "a.onnx")
    settings = Settings(warmup_runs=1, warmup_s=0, seconds=0, repeats=2)
    return profile(path, settings, lambda _event: None), sha256(path)


def changed(found, key, value):
    """Return a copy with one value changed; ``a.b`` changes the key b of the table a."""
    head, dot, rest = key.partition(".")
    if isinstance(found, list):
        place = int(head)
        return [changed(v, rest, value) if i == place else v for i, v in enumerate(found)]
    return {**found, head: changed(found[head], rest, value) if dot else value}


def test_what_the_harness_returns_is_believed(answer):
    found, digest = answer
    assert checked(found, sha256=digest, where="board") == found


@pytest.mark.parametrize("found", [None, "x", [], {}, {"complete": True}, {"schema": "other"}])
def test_what_is_no_measurement_is_refused(found):
    with pytest.raises(PareError, match="board answered something that is no measurement"):
        checked(found, sha256="0" * 64, where="board")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("complete", False), ("timing.median_ms", -1.0), ("timing.median_ms", float("nan")),
        ("timing.n", 0), ("timing", None), ("windows", []), ("windows.0.n", 0),
        ("load", {"cold_ms": "soon"}), ("memory.peak_bytes", -5), ("first_ms", float("inf")),
        ("conditions", {"before": {}}), ("operators", {"kernels": [1]}), ("outputs", "x"),
        ("settings.threads", 0), ("file.sha256", "../../etc"), ("repeats", {"stable": True}),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused_by_its_name(answer, key, value):
    found, digest = answer
    with pytest.raises(PareError, match=rf"can't be \({key.split('.')[0]}"):
        checked(changed(found, key, value), sha256=digest, where="board")


def test_another_file_is_refused(answer):
    found, _ = answer
    with pytest.raises(PareError, match="measured another file than the one it was given"):
        checked(found, sha256="0" * 64, where="board")


def test_a_refused_time_needs_none(answer):
    found, digest = answer
    short = {k: v for k, v in found.items() if k not in ("timing", "windows", "load")}
    short["refused"] = "user-mode emulation by qemu-arm"
    assert checked(short, sha256=digest, where="board")["refused"]


def test_what_would_command_a_terminal_is_taken_out():
    assert plain("a\x1b[2Jb\nc") == "a?[2Jb\nc"
