import pytest

from pipeline.core.errors import PareError
from pipeline.profilers import local
from pipeline.profilers.local import Local, refuse_emulation
from pipeline.runtime.tensors import EngineError


class FakeEngine:
    format, runtime, runtime_version = "onnx", "onnxruntime", "1.0"

    def __init__(self):
        self.calls = 0

    def invoke(self):
        self.calls += 1


@pytest.fixture
def engines(monkeypatch):
    """The engines that were opened, by thread count."""
    opened = {}

    def open_model(path, threads=1):
        opened[threads] = FakeEngine()
        return opened[threads]

    monkeypatch.setattr(local, "open_model", open_model)
    monkeypatch.setattr(local, "emulation", lambda: None)
    return opened


def test_each_thread_count_is_measured_with_an_engine_of_its_own(engines, tmp_path):
    found = Local(warmup_runs=2, warmup_s=0, runs=64).measure(tmp_path / "a.onnx", (1, 2))
    assert [latency.threads for latency in found] == [1, 2]
    assert {threads: engine.calls for threads, engine in engines.items()} == {1: 66, 2: 66}


def test_a_latency_carries_its_n_its_interval_and_its_conditions(engines, tmp_path):
    (found,) = Local(warmup_runs=1, warmup_s=0, runs=64).measure(tmp_path / "a.onnx")
    assert (found.median.basis, found.median.n, found.median.unit) == ("measured", 64, "ms")
    assert found.median.spread[0] <= found.median.value <= found.median.spread[1]
    assert len(found.samples_ms) == 64
    conditions = found.median.conditions
    assert conditions["file"] == "a.onnx"
    assert (conditions["runtime"], conditions["threads"]) == ("onnxruntime", 1)
    assert {"cpu", "governor", "load_average", "frequency_after_mhz"} <= conditions.keys()


@pytest.mark.parametrize(
    ("runs", "p90", "p95"), [(63, False, False), (64, True, False), (130, True, True)]
)
def test_a_percentile_that_n_cannot_support_is_missing(engines, tmp_path, runs, p90, p95):
    (found,) = Local(warmup_runs=1, warmup_s=0, runs=runs).measure(tmp_path / "a.onnx")
    assert (found.p90 is not None, found.p95 is not None) == (p90, p95)
    assert (found.p90_claim is not None) == p90


def test_emulated_time_is_refused_before_any_file_is_opened(engines, monkeypatch, tmp_path):
    monkeypatch.setattr(local, "emulation", lambda: "user-mode emulation by qemu-arm")
    with pytest.raises(PareError, match="not measured here: user-mode emulation by qemu-arm"):
        Local().measure(tmp_path / "a.onnx")
    assert engines == {}


def test_a_real_processor_is_not_refused(monkeypatch):
    monkeypatch.setattr(local, "emulation", lambda: None)
    assert refuse_emulation() is None


def test_a_file_no_engine_takes_is_the_users_problem(monkeypatch, tmp_path):
    def refuse(path, threads=1):
        raise EngineError("model.h5: no engine for '.h5'.")

    monkeypatch.setattr(local, "open_model", refuse)
    monkeypatch.setattr(local, "emulation", lambda: None)
    with pytest.raises(PareError, match=r"no engine for '\.h5'"):
        Local().measure(tmp_path / "model.h5")


def test_a_latency_travels_as_json(engines, tmp_path):
    (found,) = Local(warmup_runs=1, warmup_s=0, runs=2).measure(tmp_path / "a.onnx")
    assert local.Latency.model_validate_json(found.model_dump_json()) == found
