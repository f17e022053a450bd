"""What is odd in a target, each in its own words; what goes together is left alone."""

import pytest

from pipeline.core.record import parse
from pipeline.core.target import Target
from pipeline.core.target_review import abilities, is_calibrated, oddities


def figure(value):
    return {"value": value, "basis": "assumed", "source": "a test"}


def target(**changes):
    """A board that goes together, with tables replaced."""
    values = {
        "schema": "edge-target/1",
        "id": "bench",
        "name": "A bench",
        "class": "sbc",
        "platform": {"os": "linux", "arch": "arm64"},
        "cpu": {
            "affinity_mask": "0xf",
            "clusters": [{"core": "one", "count": figure(4), "freq_mhz": figure(1000)}],
        },
        "memory": {"ram_mb": figure(1000), "budget_mb": figure(1000)},
        "storage": {"model_max_mb": figure(10)},
        "constraints": {
            "basis": "assumed",
            "source": "a test",
            "formats": ["tflite"],
            "dtypes": ["fp32", "int8"],
        },
        "runtimes": [{"name": "litert", "threads": [1, 4], "default_threads": 4}],
        "calibration": [rates()],
        "budgets": {"basis": "assumed", "source": "a test", "model_mb": 10}
        | {"peak_ram_mb": 1000},
    }
    return parse(Target, values | changes, "bench.toml")


def rates(**changes):
    row = {"runtime": "xnnpack", "dtype": "int8", "r_gmac_s": 1, "b_gb_s": 1}
    return row | {"basis": "assumed", "source": "a test"} | changes


def cluster(count, mhz=1000):
    return {"core": "one", "count": figure(count), "freq_mhz": figure(mhz)}


def runtime(*threads, default):
    return [{"name": "litert", "threads": list(threads), "default_threads": default}]


def budgets(**limits):
    return {"basis": "assumed", "source": "a test", **limits}


def constraints(**changes):
    base = target().constraints.model_dump(exclude_none=True)
    return base | changes


def test_what_goes_together_is_left_alone():
    assert oddities(target()) == ()


NO_CALIBRATION = "there is no [[calibration]]: latency is at best bounded, never predicted"

NO_TABLE = "coverage of U (no [accelerator.ops])"

ODD = [
    (
        {"cpu": {"affinity_mask": "0x1f", "clusters": [cluster(4)]}},
        "cpu.affinity_mask = 0x1f names other cores than the 4 there are",
    ),
    (
        {"cpu": {"affinity_mask": "0x3", "clusters": [cluster(4)]}},
        "litert runs 4 threads by default on 2 cores",
    ),
    ({"cpu": {"clusters": [cluster(2)]}}, "litert runs 4 threads by default on 2 cores"),
    (
        {"runtimes": runtime(4, 8, default=4)},
        "litert offers 8 threads on 4 cores",
    ),
    (
        {"memory": {"ram_mb": figure(1000), "budget_mb": figure(1001)}},
        "memory.budget_mb = 1001 is more than memory.ram_mb = 1000",
    ),
    (
        {"budgets": budgets(peak_ram_mb=1001)},
        "budgets.peak_ram_mb = 1001 is more than memory.ram_mb = 1000",
    ),
    (
        {"budgets": budgets(model_mb=11)},
        "budgets.model_mb = 11 is more than storage.model_max_mb = 10",
    ),
    (
        {"cpu": {"clusters": [cluster(4, mhz=1.8)]}},
        "cpu.clusters.0.freq_mhz = 1.8 is in MHz; is it meant in GHz?",
    ),
    (
        {"memory": {"memcpy_mb_s": figure(8.4)}},
        "memory.memcpy_mb_s = 8.4 is in MB/s; is it meant in GB/s?",
    ),
    (
        {"constraints": constraints(formats=["tflite", "onnx"])},
        "constraints.formats holds 'onnx', which no [[runtimes]] runs",
    ),
    (
        {"calibration": []},
        NO_CALIBRATION,
    ),
    (
        {"calibration": [rates(), rates(dtype="fp16")]},
        "the calibration of xnnpack fp16 is for no file that is taken",
    ),
    (
        {"calibration": [rates(runtime="onnxruntime")]},
        "the calibration of onnxruntime int8 is for no file that is taken",
    ),
    (
        {"calibration": [rates(threads=2)]},
        "the calibration of xnnpack int8 is for 2 threads, litert offers 1, 4",
    ),
    (
        {"constraints": constraints(ops={"deny": ["ADD"], "allow": ["ADD", "MUL"]})},
        "constraints.ops both allows and denies ADD",
    ),
    (
        {"accelerator": {"name": "U", "kind": "npu", "min_coverage_pct": figure(90)}},
        "coverage of U is asked for, but [accelerator.ops] is missing",
    ),
    (
        {"profile": {"min_s": 10, "max_s": 9}},
        "profile.max_s = 9 is less than profile.min_s = 10",
    ),
    (
        {"transport": {"kind": "ssh"}},
        "transport.kind = 'ssh' finds its device by host_env: it is missing",
    ),
    (
        {"transport": {"kind": "adb"}},
        "transport.kind = 'adb' finds its device by serial_env: it is missing",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), ODD)
def test_what_does_not_go_together_is_said(changes, sentence):
    assert oddities(target(**changes)) == (sentence,)


def test_a_controller_needs_no_engine():
    found = oddities(target(**{"class": "mcu", "runtimes": [], "calibration": []}))
    assert found == (NO_CALIBRATION,)


def test_a_target_says_what_can_be_told_for_it():
    bare = {"core": "one", "count": figure(4), "freq_mhz": figure(1000)}
    peak = bare | {"fp32_macs_per_cycle": figure(4)}
    assert abilities(target(cpu={"clusters": [peak]}, transport={"kind": "local"})) == (
        "measured:  latency, through local",
        "predicted: tflite int8",
        "bound:     tflite fp32",
        "planned:   peak RAM, file size",
        "unknown:   energy (no power.load_w, no power.meter_command)",
    )
    assert abilities(
        target(
            calibration=[],
            budgets=None,
            memory={"flash_mb": figure(2)},
            power={"load_w": figure(2)},
            accelerator={"name": "U", "kind": "npu", "min_coverage_pct": figure(90)},
        )
    ) == (
        "measured:  nothing: no [transport]",
        "predicted: no latency: no [[calibration]]",
        "bound:     no latency: no peak of the cores",
        "planned:   peak RAM, file size, flash",
        "unknown:   budgets (no [budgets]: only the form of a file is checked), " + NO_TABLE,
    )


@pytest.mark.parametrize(
    ("threads", "calibrated"), [(None, True), (4, True), (1, False), (2, False)]
)
def test_a_calibration_is_for_the_default_threads(threads, calibrated):
    row = rates(threads=threads) if threads else rates()
    assert is_calibrated(target(calibration=[row]), "tflite", "int8") is calibrated
    assert not is_calibrated(target(calibration=[row]), "tflite", "fp32")


def test_rates_are_taken_as_predicted_by_the_predictor():
    """The summary and the predictor agree on every target that ships."""
    from pipeline.core.target import shipped
    from pipeline.profilers.file_graph import FileGraph
    from pipeline.profilers.predictor import predict

    compared = 0
    for name in shipped():
        one = Target.load(name)
        for format_ in one.constraints.formats:
            for dtype in one.constraints.dtypes:
                graph = FileGraph(
                    format=format_, tensors=(), ops=(), inputs=(), outputs=(), dtype=dtype
                )
                known = predict(graph, one) is not None
                assert is_calibrated(one, format_, dtype) is known, (name, format_, dtype)
                compared += known
    assert compared >= 5
