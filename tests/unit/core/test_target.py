from pathlib import Path

import pytest

from pipeline.core import target as module
from pipeline.core.errors import PareError
from pipeline.core.target import Calibration, Figure, RuntimeFact, Target, shipped, unit_of

MINIMAL = """
schema = "edge-target/1"
id = "bench"
name = "A bench"
class = "sbc"
[platform]
os = "linux"
[constraints]
basis = "assumed"
source = "test"
formats = ["onnx"]
dtypes = ["fp32"]
"""


def write(folder, text):
    path = folder / "bench.toml"
    path.write_text(text)
    return path


def test_only_the_obligatory_tables_are_obligatory(tmp_path):
    target = Target.load(write(tmp_path, MINIMAL))
    assert target.cpu is None
    assert target.budgets is None
    assert target.calibration == ()
    assert target.figures() == []


def test_a_path_may_be_text(tmp_path):
    assert Target.load(str(write(tmp_path, MINIMAL))).id == "bench"


def test_an_unknown_target_is_refused_with_the_nearest_name():
    with pytest.raises(
        PareError, match=r"no target named 'rasberry-pi-4b'\. Did you mean 'rasp"
    ):
        Target.load("rasberry-pi-4b")


def test_a_missing_file_is_refused():
    with pytest.raises(PareError, match=r"no file at nowhere\.toml"):
        Target.load("nowhere.toml")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("[memory]\nram_mbs = 1", "Did you mean 'ram_mb'"),
        ("[memory]\nram_mb = 2048", "memory.ram_mb"),
        ('[memory]\nram_mb = { value = 1, basis = "vendor" }', "memory.ram_mb.source"),
        ('[memory]\nram_mb = { value = 1, basis = "guess", source = "x" }', "'guess'"),
        ('[memory]\nram_mb = { value = 1, basis = "vendor", source = "" }', "source"),
        ('[memory]\nram_mb = { value = -1, basis = "vendor", source = "x" }', "not negative"),
        ("[budgets]\nmodel_mb = 1", "budgets.basis"),
        ("[cpu]\nclusters = []", "cpu.clusters"),
        ('[constraints.ops]\ndenied = ["X"]', "Did you mean 'deny'"),
    ],
)
def test_what_has_no_place_or_no_source_is_refused(tmp_path, extra, message):
    path = write(tmp_path, MINIMAL + extra)
    with pytest.raises(PareError, match=message) as caught:
        Target.load(path)
    assert str(path) in str(caught.value)


def test_a_dtype_that_does_not_exist_is_refused(tmp_path):
    path = write(tmp_path, MINIMAL.replace('"fp32"', '"w8a8"'))
    with pytest.raises(PareError, match="dtypes"):
        Target.load(path)


def test_figures_are_listed_with_unit_basis_and_source():
    rows = {row.key: row for row in Target.load("raspberry-pi-4b").figures()}
    copied = rows["memory.memcpy_mb_s"]
    assert (copied.value, copied.unit, copied.basis) == (2325, "MB/s", "measured")
    assert "sbc-bench" in copied.source
    fitted = rows["calibration.0.r_gmac_s"]
    assert (fitted.value, fitted.unit, fitted.basis) == (9.78, "GMAC/s", "fitted")
    assert rows["budgets.latency_p90_ms"].basis == "assumed"
    assert rows["reference_latencies.0.ms"].unit == "ms"


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("memory.ram_mb", "MB"),
        ("memory.memset_mb_s", "MB/s"),
        ("cpu.clusters.0.fp32_macs_per_cycle", "MAC/cycle"),
        ("accelerator.peak_gops.int8", "GOP/s"),
        ("cpu.clusters.0.count", ""),
        ("reference_latencies.0.ms", "ms"),
    ],
)
def test_the_unit_is_in_the_key(key, unit):
    assert unit_of(key) == unit


def test_an_installed_package_brings_its_targets(tmp_path, monkeypatch):
    (tmp_path / "_targets").mkdir()
    write(tmp_path / "_targets", MINIMAL)
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    assert set(shipped()) == {"bench"}
    assert Target.load("bench").name == "A bench"


def test_a_checkout_finds_its_targets_beside_the_package():
    assert all(path.parent.name == "targets" for path in shipped().values())
    assert all(isinstance(path, Path) for path in shipped().values())


def test_the_default_thread_count_must_be_on_offer():
    assert RuntimeFact(name="litert", threads=(1, 4), default_threads=4).unit == "cpu"
    with pytest.raises(ValueError, match="must be one of threads"):
        RuntimeFact(name="litert", threads=(1, 4), default_threads=2)


def test_a_calibration_too_poor_for_an_interval_is_refused():
    row = {"runtime": "xnnpack", "dtype": "fp32", "r_gmac_s": 1, "b_gb_s": 1}
    row |= {"basis": "fitted", "source": "test"}
    assert Calibration(**row, loo_mape_pct=48).loo_mape_pct == 48
    with pytest.raises(ValueError, match="loo_mape_pct"):
        Calibration(**row, loo_mape_pct=49)


def test_a_figure_shows_where_it_comes_from():
    figure = Figure(value=7.2, basis="measured", source="a meter")
    assert str(figure) == "7.2 (measured: a meter)"
