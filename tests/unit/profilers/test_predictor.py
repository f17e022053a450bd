import math

import pytest
from profiler_graphs import (
    Net,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_small,
)

from pipeline.core.target import Target
from pipeline.models import build
from pipeline.profilers.file_graph import FileGraph, OpInfo, TensorInfo
from pipeline.profilers.predictor import (
    bound,
    calibration_for,
    interval,
    predict,
    predict_counts,
)
from pipeline.profilers.read_network import read_network

PI = Target.load("raspberry-pi-4b")
PHONE = Target.load("android-midrange")
CAMERA = Target.load("smart-camera-imx8mp")


def one_op(macs, activation_bytes, dtype="fp32", file_format="tflite"):
    tensors = tuple(
        TensorInfo(name=n, bytes=activation_bytes // 2, shape=(), dtype="any", constant=False)
        for n in "xy"
    )
    op = OpInfo(
        type="CONV_2D",
        inputs=("x",),
        outputs=("y",),
        macs=macs,
        activation_bytes=activation_bytes,
    )
    return FileGraph(
        format=file_format,
        tensors=tensors,
        ops=(op,),
        inputs=("x",),
        outputs=("y",),
        dtype=dtype,
    )


def with_row(target, **changes):
    """The target with its first calibration changed, and no other."""
    row = target.calibration[0].model_copy(update=changes)
    return target.model_copy(update={"calibration": (row,)})


def test_the_time_is_macs_over_one_rate_and_bytes_over_the_other():
    predicted = predict(one_op(97_800_000, 2_960_000), PI)
    assert predicted.value == pytest.approx(10 + 1)
    assert (predicted.unit, predicted.basis) == ("ms", "predicted")


def test_an_overhead_is_added_once():
    target = with_row(PI, overhead_us=500)
    assert predict(one_op(97_800_000, 0), target).value == pytest.approx(10.5)


# Residuals of the published fit: -6 to +8 %, and -11 % for one. Milliseconds as published.
@pytest.mark.parametrize(
    ("network", "ms", "residual"),
    [
        (mobilenet_v1, 77, -0.065),
        (mobilenet_v2, 46, 0.085),
        (mobilenet_v3_large, 40, 0.063),
        (mobilenet_v3_small, 15, -0.109),
    ],
)
def test_published_runs_on_the_pi_leave_the_published_residuals(network, ms, residual):
    predicted = predict(network(4), PI)
    assert predicted.value / ms - 1 == pytest.approx(residual, abs=0.005)
    assert predicted.spread[0] < ms < predicted.spread[1]
    assert predicted.conditions["extrapolated"] is False


@pytest.mark.parametrize(("network", "ms"), [(mobilenet_v1, 24), (mobilenet_v2, 17)])
def test_two_rates_pass_through_two_points(network, ms):
    assert predict(network(1), PI).value == pytest.approx(ms, rel=1e-3)


def test_rates_a_percent_off_would_be_noticed():
    spoilt = with_row(PI, r_gmac_s=PI.calibration[0].r_gmac_s * 1.02)
    ms = predict(mobilenet_v1(4), spoilt).value
    assert ms / 77 - 1 != pytest.approx(-0.065, abs=0.005)


def test_the_camera_is_predicted_from_scaled_rates_and_says_so():
    predicted = predict(mobilenet_v2(1), CAMERA)
    assert predicted.value == pytest.approx(21, abs=0.5)
    assert predicted.spread == pytest.approx((predicted.value / 2, predicted.value * 2))
    assert predicted.conditions["calibration_basis"] == "derived"


def test_the_interval_follows_from_the_leave_one_out_error():
    predicted = predict(one_op(300_000_000, 0), PI)
    limit = 1.64 * 0.20 * math.sqrt(math.pi / 2)
    expected = (predicted.value / (1 + limit), predicted.value / (1 - limit))
    assert predicted.spread == pytest.approx(expected)
    assert predicted.spread[1] / predicted.value == pytest.approx(1.698, abs=0.001)


def test_a_larger_error_gives_a_wider_interval():
    narrow, wide = (
        predict(one_op(300_000_000, 0), with_row(PI, loo_mape_pct=pct)).spread
        for pct in (5, 40)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("macs", [56_000_000, 569_000_000])
def test_beyond_the_calibrating_models_the_interval_is_at_least_twofold(macs):
    predicted = predict(one_op(macs, 0), with_row(PI, loo_mape_pct=5))
    assert predicted.conditions["extrapolated"] is True
    assert predicted.spread == pytest.approx((predicted.value / 2, predicted.value * 2))


def test_extrapolation_never_narrows_a_wide_interval():
    predicted = predict(one_op(1_000_000, 0), with_row(PI, loo_mape_pct=48))
    assert predicted.spread[1] > predicted.value * 2


def test_the_conditions_name_the_calibration():
    conditions = predict(mobilenet_v1(4), PI).conditions
    assert "XNNPACK" in conditions["calibration"]
    assert (conditions["runtime"], conditions["threads"]) == ("xnnpack", 4)
    assert (conditions["calibration_models"], conditions["loo_mape_pct"]) == (4, 20.0)


@pytest.mark.parametrize(
    ("graph", "threads"),
    [
        (one_op(1, 1, "dynamic"), None),
        (one_op(1, 1, "mixed"), None),
        (one_op(1, 1, "fp32", "onnx"), None),
        (one_op(1, 1), 1),
    ],
)
def test_without_a_calibration_there_is_no_prediction_but_a_bound(graph, threads):
    assert predict(graph, PI, threads=threads) is None
    assert bound(graph, PI, threads=threads).basis == "bound"


def test_a_calibration_that_does_not_say_its_threads_stands_for_the_default_only():
    graph = one_op(1_470_000_000, 0, "int8", "onnx")
    assert predict(graph, PHONE).value == pytest.approx(10)
    assert calibration_for(graph, PHONE, threads=1) is None


def test_a_target_without_a_runtime_for_the_format_predicts_nothing():
    assert predict(one_op(1, 1, "int8", "onnx"), CAMERA) is None


def test_a_file_and_what_was_counted_of_it_are_predicted_alike():
    graph = mobilenet_v2(4)
    of_file = predict(graph, PI)
    of_counts = predict_counts(graph.macs, graph.activation_bytes, PI.calibration[0])
    assert (of_counts.value, of_counts.spread) == (of_file.value, of_file.spread)
    assert of_counts.conditions.items() <= of_file.conditions.items()


def test_a_network_is_predicted_as_its_file_would_be():
    model = build("torchvision:mobilenet_v2", {}, classes=1000, channels=3, size=224, seed=0)
    of_network = predict(read_network(model, (3, 224, 224)), PI)
    assert of_network.value == pytest.approx(predict(mobilenet_v2(4), PI).value, rel=1e-3)


def test_an_interval_without_an_error_is_half_to_twice():
    assert interval(10, None) == (5, 20)
    assert interval(10, 48)[1] < math.inf
    assert interval(10, 49) == (pytest.approx(4.98, abs=0.01), math.inf)


def with_versions(*versions):
    """The target with one row for each version, the slower the later it is named."""
    first = PI.calibration[0]
    rows = tuple(
        first.model_copy(update={"version": v, "r_gmac_s": first.r_gmac_s / (1 + i)})
        for i, v in enumerate(versions)
    )
    return PI.model_copy(update={"calibration": rows})


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        (("1.0.0", None, "2.3.0"), "2.3.0"),  # that of the target's runtime
        (("1.0.0", None), None),
        (("1.0.0", "1.1.0"), "1.0.0"),
    ],
)
def test_the_rates_of_the_version_that_runs_go_first(versions, chosen):
    target = with_versions(*versions)
    assert calibration_for(one_op(1, 1), target, 4).version == chosen
    assert predict(one_op(1, 1), target).conditions["runtime_version"] == chosen


def test_rates_of_another_version_predict_and_say_so():
    conditions = predict(one_op(1, 1), with_versions("1.0.0")).conditions
    assert conditions["why"] == (
        "the rates were measured with xnnpack 1.0.0, the target runs 2.3.0: rates of another "
        "version can be far off"
    )


@pytest.mark.parametrize("version", ["2.3.0", None])
def test_the_same_version_or_none_needs_no_word(version):
    assert "why" not in predict(one_op(1, 1), with_versions(version)).conditions


def test_the_bound_is_the_nominal_peak():
    # 4 cores x 1.8 GHz x 4 MAC
    measure = bound(one_op(28_800_000, 0), PI)
    assert measure.value == pytest.approx(1)
    assert measure.conditions["peak_gmac_s"] == pytest.approx(28.8)
    assert bound(one_op(28_800_000, 0), PI, threads=1).value == pytest.approx(4)


def test_the_bound_takes_the_fastest_cores():
    # One A78 at 2.7 and three at 2.4 GHz, 32 MAC each.
    peak = bound(one_op(1, 0, "int8"), PHONE).conditions["peak_gmac_s"]
    assert peak == pytest.approx(32 * (2.7 + 3 * 2.4))


def test_half_precision_is_twice_as_fast_only_where_the_core_computes_in_it():
    on_phone = [bound(one_op(10**9, 0, d), PHONE).value for d in ("fp32", "fp16")]
    on_pi = [bound(one_op(10**9, 0, d), PI).value for d in ("fp32", "fp16")]
    assert on_phone[0] == pytest.approx(2 * on_phone[1])
    assert on_pi[0] == on_pi[1]


def test_mixed_arithmetic_is_granted_the_fastest_of_all():
    mixed = bound(one_op(10**9, 0, "mixed"), PI).value
    assert mixed == bound(one_op(10**9, 0, "int8"), PI).value


def test_bytes_beyond_the_cache_cross_the_bus():
    cache, bus = 1024 * 1024, 2 * 2325e6  # memset at 3122 is slower than both ways of a copy
    within, beyond = one_op(0, cache), one_op(0, cache + 4_650_000)
    assert bound(within, PI) is None
    assert bound(beyond, PI).value == pytest.approx(4_650_000 / bus * 1e3)


def test_an_operation_is_bound_by_its_slower_side_not_by_both():
    slow = one_op(28_800_000, 1024 * 1024 + 4_650)  # 1 ms of MACs, a microsecond of bytes
    assert bound(slow, PI).value == pytest.approx(1)


def test_without_a_cache_size_no_byte_is_counted():
    assert bound(one_op(0, 10**9, "int8"), CAMERA) is None
    moved, still = (bound(one_op(10**6, size, "int8"), CAMERA) for size in (10**9, 0))
    assert moved.conditions["memory_term"] is False
    assert moved.value == still.value


def test_the_accelerator_is_bounded_and_never_predicted():
    # 2300 GOP/s are 1150 GMAC/s
    measure = bound(one_op(1_150_000_000, 0, "int8"), CAMERA, unit="accelerator")
    assert measure.value == pytest.approx(1)
    assert measure.conditions["unit"] == "accelerator"
    assert bound(one_op(1, 0, "int8"), PHONE, unit="accelerator") is None
    assert bound(one_op(1, 0, "fp32"), CAMERA, unit="accelerator") is None


def test_a_target_that_states_no_peak_bounds_nothing():
    bare = PI.model_copy(update={"cpu": None, "memory": type(PI.memory)()})
    assert bound(one_op(1, 1), bare) is None


@pytest.mark.parametrize("dtype", ["int8", "mixed"])
def test_a_core_whose_peak_is_not_stated_bounds_nothing(dtype):
    cluster = CAMERA.cpu.clusters[0].model_copy(update={"int8_macs_per_cycle": None})
    cpu = CAMERA.cpu.model_copy(update={"clusters": (cluster,)})
    bare = CAMERA.model_copy(update={"cpu": cpu})
    assert bound(one_op(1, 1, dtype), bare) is None
    assert bound(one_op(1, 1, "fp32"), bare).value > 0


def test_a_target_without_an_accelerator_bounds_none():
    assert bound(one_op(1, 1), PI, unit="accelerator") is None


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("network", [mobilenet_v1, mobilenet_v2, mobilenet_v3_small])
def test_no_prediction_lies_below_its_bound(network, width):
    graph = network(width)
    assert bound(graph, PI).value < predict(graph, PI).spread[0]


def test_a_network_without_work_takes_no_time():
    net = Net(4)
    assert predict(net.graph(net.input), PI).value == 0
