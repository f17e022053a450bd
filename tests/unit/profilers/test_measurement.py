import pytest
from tiny_files import onnx_file

from pipeline.core.errors import PareError
from pipeline.profilers import measurement
from pipeline.profilers.measurement import Measurement, refuse_emulation
from pipeline.runtime.harness import Settings, profile


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What the harness found of a small file on this machine."""
    path = onnx_file(tmp_path_factory.mktemp("files") / "a.onnx")
    settings = Settings(warmup_runs=1, warmup_s=0, runs=100, seconds=0, repeats=2)
    return profile(path, settings, lambda _event: None)


def test_a_latency_carries_its_n_its_interval_and_its_conditions(result):
    found = Measurement.of(result)
    assert (found.median.basis, found.median.n, found.median.unit) == ("measured", 200, "ms")
    assert found.median.spread[0] <= found.median.value <= found.median.spread[1]
    assert (found.threads, found.runtime) == (1, "onnxruntime")
    assert len(found.samples_ms) == 200
    assert len(found.windows_ms) == 2
    assert {"cpu", "governor", "load_average"} <= found.conditions["before"].keys()
    assert found.typical == found.median


def test_a_tool_that_knows_no_median_gives_its_mean(result):
    timing = {**result["timing"], "median_ms": None, "median_interval_ms": None}
    found = Measurement.of({**result, "timing": timing})
    assert found.median is None
    assert found.typical == found.mean


def test_a_meter_beside_the_machine_comes_before_its_own_counter(result):
    own = {"method": "RAPL, packages", "windows": 2, "gross_mj": 1.0}
    meter = measurement.Energy(method="power meter: watts", gross_mj=2.0, windows=2)
    assert Measurement.of({**result, "energy": own}).energy.gross_mj == 1.0
    assert Measurement.of({**result, "energy": own}, meter).energy == meter


def test_a_refused_time_is_no_measurement(result):
    with pytest.raises(PareError, match="not measured here: user-mode emulation by qemu-arm"):
        Measurement.of({**result, "refused": "user-mode emulation by qemu-arm"})


def test_half_a_result_is_no_measurement(result):
    half = {key: value for key, value in result.items() if key != "complete"}
    with pytest.raises(PareError, match="not whole"):
        Measurement.of(half)


def test_emulated_time_is_refused(monkeypatch):
    monkeypatch.setattr(measurement, "emulation", lambda: "user-mode emulation by qemu-arm")
    with pytest.raises(PareError, match="not measured here: user-mode emulation by qemu-arm"):
        refuse_emulation()
    monkeypatch.setattr(measurement, "emulation", lambda: None)
    assert refuse_emulation() is None


def test_a_measurement_travels_as_json(result):
    found = Measurement.of(result)
    assert Measurement.model_validate_json(found.model_dump_json()) == found
