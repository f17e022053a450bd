"""What a file is for a target: the memory that counts there, the unit that bounds it."""

import pytest
from profiler_graphs import mobilenet_v2

from pipeline.core.measure import Measure
from pipeline.core.target import Figure, Target
from pipeline.profilers.candidate import Candidate, GraphFigures, peak_ram
from pipeline.profilers.predictor import bound

PI = Target.load("raspberry-pi-4b")
CORAL = Target.load("coral-edgetpu")
CAMERA = Target.load("smart-camera-imx8mp")
CHIP = Target.load("stm32h7")


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "net.tflite"
    file.write_bytes(b"1")
    return file


def test_a_measured_latency_travels_with_the_file(path):
    timed = Measure(value=17, unit="ms", basis="measured", n=100)
    found = Candidate.of(path, mobilenet_v2(), PI, scheme="int8", measured=timed)
    assert found.measured == timed
    assert found.predicted is not None
    assert Candidate.of(path, mobilenet_v2(), PI, scheme="int8").measured is None


def test_peak_ram_on_a_controller_is_that_of_st_s_report_about(path):
    """MobileNetV2 0.35 at 128 takes 240 KiB of activations by hand; ST says 237 and 30."""
    figures = GraphFigures.of(mobilenet_v2()).model_copy(update={"weight_bytes": 10**9})
    found = peak_ram(figures, CHIP.memory)
    arena = figures.memory.greedy_bytes
    assert found.value == pytest.approx((arena + 30.19 * 1024) / 1e6)
    assert found.conditions["weights_in"] == "flash"
    assert found.conditions["runtime_included"] is True
    assert peak_ram(figures).conditions["weights_in"] == "ram"
    assert peak_ram(figures).value == pytest.approx((arena + 10**9) / 1e6)


def test_a_file_for_an_accelerator_is_bounded_by_the_faster_unit(path):
    for target in (CORAL, CAMERA):
        unit = bound(mobilenet_v2(), target, unit="accelerator")
        found = Candidate.of(path, mobilenet_v2(), target, scheme="int8").bound
        assert found == unit
        assert found.value < bound(mobilenet_v2(), target).value


def test_without_a_peak_of_the_accelerator_nothing_bounds_it(path):
    unit = CORAL.accelerator.model_copy(update={"peak_gops": {}})
    target = CORAL.model_copy(update={"accelerator": unit})
    assert Candidate.of(path, mobilenet_v2(), target, scheme="int8").bound is None
    unit = unit.model_copy(update={"on_fail": "cpu"})
    target = CORAL.model_copy(update={"accelerator": unit})
    assert Candidate.of(path, mobilenet_v2(), target, scheme="int8").bound is not None


def test_what_stays_in_the_last_cache_is_not_bounded_by_the_bus(path):
    def with_caches(**caches):
        kb = {f"cache_{name}_kb": figure(value) for name, value in caches.items()}
        memory = PI.memory.model_copy(update=kb)
        return PI.model_copy(update={"memory": memory})

    def figure(value):
        return Figure(value=value, basis="assumed", source="a test")

    def bounded(target):
        return Candidate.of(path, mobilenet_v2(), target, scheme="int8").bound.value

    second, third = with_caches(l2=1), with_caches(l2=1, l3=100_000)
    assert bounded(third) < bounded(second)
    assert bounded(third) == bounded(with_caches(l2=100_000))
