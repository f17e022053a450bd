"""Every limit of a target, kept and broken, with what it says each time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import CAMERA, PI, budgets, candidate, check, figures, limits, predicted

from pipeline.core.measure import Measure
from pipeline.core.target import Figure, Memory, Platform, Quantity, Target
from pipeline.profilers.candidate import Candidate, peak_ram
from pipeline.profilers.coverage import Coverage
from pipeline.profilers.limits.check import at_most
from pipeline.profilers.verdict import choose, judge
from pipeline.profilers.what_fits import Elasticity

ZERO = Target.load("raspberry-pi-zero-2w")
SENSOR = Target.load("smart-camera-imx500")
CORAL = Target.load("coral-edgetpu")
CHIP = Target.load("stm32h7")


def known(value) -> Quantity:
    return Figure(value=value, basis="assumed", source="a test")


def unit(target, **changes):
    return target.model_copy(
        update={"accelerator": target.accelerator.model_copy(update=changes)}
    )


def measured(ms, n=200, **conditions):
    return Measure(value=ms, unit="ms", basis="measured", n=n, conditions=conditions)


def placed(graph, target, **changes):
    """A file whose peak RAM is counted for a target, as it is where it is read."""
    return candidate(graph, peak_ram=peak_ram(graph, target.memory), **changes)


# --- form -----------------------------------------------------------------------------

TEXTS = [
    (
        {"format": "onnx"}, {}, "format",
        "onnx is not among tflite", "export to tflite",
    ),
    (
        {"dtype": "fp32"}, {}, "dtype",
        "fp32 is not among int8", "quantize with a scheme that gives int8",
    ),
    (
        {}, {"input_dtypes": ("int16",)}, "input dtype",
        "int16 is not among int8, uint8, float32",
        "export with int8, uint8, float32 inputs",
    ),
    (
        {}, {"output_dtypes": ("int32",)}, "output dtype",
        "int32 is not among int8, uint8, float32",
        "export with int8, uint8, float32 outputs",
    ),
    (
        {}, {"static_shapes": False}, "static shapes",
        "the file leaves a size open", "export with a fixed batch and input size",
    ),
    (
        {}, {"batch": 4}, "batch",
        "one inference takes 4 image(s)", "export with batch 1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "graph", "name", "why", "remedy"), TEXTS)
def test_a_refusal_of_the_form_says_why_and_what_to_do(changes, graph, name, why, remedy):
    (failed,) = judge(candidate(figures(**graph), **changes), CAMERA).failed
    assert (failed.name, failed.why, failed.remedy) == (name, why, remedy)
    kept = check(name, judge(candidate(), CAMERA))
    assert (kept.passed, kept.remedy) == (True, "")


def test_scales_that_are_not_taken_are_refused_by_name():
    target = limits(CAMERA, int8_granularity=("per-tensor",))
    (failed,) = judge(candidate(figures(int8_granularity="per-channel")), target).failed
    assert failed.why == "per-channel is not among per-tensor"
    assert failed.remedy == "quantize the weights per-tensor"


def test_an_image_that_is_too_large_is_refused_with_the_largest():
    large = placed(figures(input_hw=(641, 640)), SENSOR, format="onnx")
    (failed,) = judge(large, SENSOR).failed
    assert failed.name == "input size"
    assert failed.why == "the input is 641 x 640 pixels"
    assert failed.remedy == "use images of at most 640 x 640 pixels"
    fits = placed(figures(input_hw=(640, 640)), SENSOR, format="onnx")
    assert judge(fits, SENSOR).fits


def test_a_32_bit_system_takes_tflite_only():
    arm = PI.model_copy(update={"platform": Platform(os="linux", arch="arm")})
    (failed,) = judge(candidate(format="onnx", predicted=None, bound=None), arm).failed
    assert failed.why == "onnxruntime has no wheel for 32-bit Arm"
    assert failed.remedy == "export to tflite, or run a 64-bit system"
    assert failed.limit == "tflite"
    assert check("format", judge(candidate(), arm)).passed is True


def test_a_board_that_may_run_32_bits_says_which_file_it_refuses_there():
    found = check("format", judge(candidate(format="onnx"), ZERO))
    assert found.passed is True
    assert found.why == (
        "onnx is among tflite, onnx, though not on linux/arm/v7 "
        "(onnxruntime has no wheel for 32-bit Arm)"
    )
    assert found.remedy == "for that system export to tflite"
    assert check("format", judge(candidate(), ZERO)).remedy == ""


# --- operators ------------------------------------------------------------------------


def test_an_operator_that_is_denied_or_not_allowed_is_named():
    from pipeline.core.target import Ops

    denied = limits(CAMERA, ops=Ops(deny=("CONV_2D",)))
    (failed,) = judge(candidate(), denied).failed
    assert (failed.name, failed.limit) == ("operators", "none of CONV_2D")
    assert failed.why == "the target refuses CONV_2D"
    assert failed.remedy == "replace CONV_2D in the network"
    allowed = limits(CAMERA, ops=Ops(allow=("CONV_2D",)))
    assert check("operators", judge(candidate(), allowed)).why == (
        "the target takes all of them"
    )


def covered(operators, macs):
    return Coverage(
        operators=10,
        covered_operators=operators,
        macs=1000,
        covered_macs=macs,
        first_outside="GELU: Edge TPU has no such operator" if operators < 10 else "",
    )


@pytest.mark.parametrize(("operators", "macs"), [(8, 1000), (10, 899), (8, 100)])
def test_below_the_coverage_a_file_is_refused(operators, macs):
    verdict = judge(candidate(coverage=covered(operators, macs)), CORAL)
    found = check("coverage", verdict)
    assert found.passed is False
    assert found.limit == "at least 90 %"
    assert f"{operators} of 10 operators ({operators * 10} %)" in found.why
    assert f"{macs / 10:.3g} % of the MACs run on Edge TPU" in found.why


def test_a_file_below_the_coverage_is_told_where_it_leaves_the_accelerator():
    found = check("coverage", judge(candidate(coverage=covered(8, 1000)), CORAL))
    assert found.why.endswith(
        "; first outside, and all behind it: GELU: Edge TPU has no such operator"
    )
    assert found.remedy == "replace GELU by operators that the accelerator has"


@pytest.mark.parametrize("operators", [9, 10])
def test_at_the_coverage_a_file_is_taken(operators):
    found = check("coverage", judge(candidate(coverage=covered(operators, 900)), CORAL))
    assert (found.passed, found.remedy) == (True, "")


def test_where_the_cpu_may_run_the_rest_low_coverage_is_said_and_not_refused():
    target = unit(CORAL, on_fail="cpu")
    found = check("coverage", judge(candidate(coverage=covered(5, 1000)), target))
    assert found.passed is True
    assert found.why.endswith("; the rest runs on the CPU")
    assert found.remedy.startswith("replace GELU")


def test_the_operators_of_a_format_that_is_not_taken_are_not_counted():
    verdict = judge(candidate(format="onnx", coverage=covered(0, 0)), CORAL)
    assert [one.name for one in verdict.failed] == ["format"]
    assert "coverage" not in [one.name for one in verdict.checks]


def test_without_a_table_of_operators_coverage_is_unknown():
    target = unit(CORAL, ops=None)
    found = check("coverage", judge(candidate(coverage=None), target))
    assert (found.passed, found.figure) == (None, None)
    assert found.why == "the target doesn't list the operators of Edge TPU"
    assert found.remedy == "measure on the device, or list them in [accelerator.ops]"


@pytest.mark.parametrize(
    ("weights", "why", "remedy"),
    [
        (8_000_000, "the weights stay on Edge TPU", ""),
        (
            10_000_000,
            "2 MB of the weights stream in on every run",
            "keep 20 % fewer weights",
        ),
    ],
)
def test_weights_beyond_the_cache_are_said_and_not_refused(weights, why, remedy):
    found = check("parameter cache", judge(candidate(figures(weight_bytes=weights)), CORAL))
    assert (found.passed, found.why, found.remedy) == (True, why, remedy)


# --- sizes ----------------------------------------------------------------------------


def test_a_file_that_is_too_large_is_told_which_dtype_would_fit():
    graph = figures(weight_bytes=20_000_000)
    large = candidate(graph, bytes=20_100_000, dtype="fp32", predicted=None, bound=None)
    found = check("file size (budget)", judge(large, PI))
    assert found.passed is False
    assert found.why == "20.1 MB against a limit of 16 MB, 4.1 MB over"
    assert found.remedy == "int8 would fit (about 5.1 MB), or keep 21 % fewer weights"


def test_a_file_of_integers_is_told_how_many_weights_have_to_go():
    graph = figures(weight_bytes=10_000_000)
    found = check("file size (budget)", judge(candidate(graph, bytes=10_000_000), CAMERA))
    assert found.remedy == "keep 20 % fewer weights"


def test_a_file_that_is_too_large_without_weights_says_so():
    found = check("file size (budget)", judge(candidate(bytes=11_000_000), CAMERA))
    assert found.remedy == "even without weights it is too large"


@pytest.mark.parametrize(("weights", "passed"), [(1_888_998, True), (1_888_999, False)])
def test_weights_and_code_must_fit_into_flash(weights, passed):
    graph = figures(weight_bytes=weights, arena=100_000)
    found = check("flash", judge(placed(graph, CHIP, bytes=weights), CHIP))
    assert found.passed is passed
    assert found.limit == "2 MB"
    if not passed:
        assert found.why.startswith("2 MB against a limit of 2 MB, ")
        assert found.remedy == "keep 1 % fewer weights"


def test_weights_in_flash_take_no_ram():
    graph = figures(weight_bytes=1_800_000, arena=800_000)
    verdict = judge(placed(graph, CHIP, bytes=1_900_000), CHIP)
    assert verdict.fits
    ram = check("peak RAM (device)", verdict)
    assert ram.figure == "0.831 MB"  # 0.8 of activations and 30.19 KiB of the runtime
    assert ram.why.endswith(
        "; 0.8 MB of activations and 0.0309 MB of the runtime, weights in flash"
    )
    memory = CHIP.memory.model_copy(update={"flash_mb": None})
    in_ram = CHIP.model_copy(update={"memory": memory})
    assert not judge(placed(graph, in_ram), in_ram).fits


def test_nothing_is_said_of_the_latency_of_a_controller():
    verdict = judge(placed(figures(weight_bytes=1, arena=1), CHIP), CHIP)
    assert "latency" not in [one.name for one in verdict.checks]


@pytest.mark.parametrize(("weights", "passed"), [(4_200_000, True), (4_200_001, False)])
def test_weights_and_activations_share_the_memory_of_the_sensor(weights, passed):
    graph = figures(weight_bytes=weights, arena=3_000_000)
    verdict = judge(placed(graph, SENSOR, format="onnx"), SENSOR)
    found = check("peak RAM (device)", verdict)
    assert found.passed is passed
    assert found.limit == "7.2 MB"
    assert "3 MB of activations and 4.2 MB of weights" in found.why


def test_more_weights_than_memory_is_said_to_be_that():
    graph = figures(weight_bytes=8_000_000, arena=1)
    found = check("peak RAM (device)", judge(placed(graph, SENSOR, format="onnx"), SENSOR))
    assert found.remedy == (
        "even without activations it is too much: the weights alone must shrink"
    )


def test_float_weights_that_take_too_much_ram_are_told_of_the_integers():
    graph = figures(weight_bytes=16_000_000, arena=1_000_000)
    found = check(
        "peak RAM (device)", judge(placed(graph, SENSOR, format="onnx", dtype="fp32"), SENSOR)
    )
    assert found.remedy == "136 % over at CONV_2D widest: int8 would fit (about 5 MB)"


def test_weights_in_flash_are_no_remedy_for_ram():
    graph = figures(weight_bytes=1_000_000, arena=1_000_000)
    found = check("peak RAM (device)", judge(placed(graph, CHIP, dtype="fp32"), CHIP))
    assert found.remedy == (
        "14.5 % over at CONV_2D widest: make the network narrower where it peaks, by 14 %"
    )


def room(mb):
    return CAMERA.model_copy(update={"memory": Memory(budget_mb=known(mb))})


def test_too_much_ram_is_told_which_image_would_fit():
    graph = figures(
        arena=8_000_000,
        weight_bytes=1_000_000,
        input_hw=(128, 128),
        elasticity=Elasticity(resizable=True),
    )
    found = check("peak RAM (device)", judge(candidate(graph), room(8)))
    assert found.passed is False
    assert found.remedy == (
        "12.5 % over at CONV_2D widest: input 112 x 112 would fit (about 7.12 MB)"
    )


def test_too_much_ram_is_told_where_a_stride_would_fit():
    elastic = Elasticity(resizable=True, strided="CONV_2D t1", strided_arena_bytes=4_000_000)
    graph = figures(
        arena=8_000_000, weight_bytes=1_000_000, input_hw=(128, 128), elasticity=elastic
    )
    found = check("peak RAM (device)", judge(candidate(graph), room(6)))
    assert found.remedy == (
        "50 % over at CONV_2D widest: input 96 x 96 would fit (about 5.5 MB), or stride 2 "
        "at CONV_2D t1 would fit (about 5 MB)"
    )
    found = check("peak RAM (device)", judge(candidate(graph), room(4)))
    assert "stride" not in found.remedy  # 5 MB would not fit


def test_a_network_of_one_size_is_told_how_much_narrower_it_must_be():
    graph = figures(arena=8_000_000, weight_bytes=1_000_000, input_hw=(128, 128))
    found = check("peak RAM (device)", judge(candidate(graph), room(6)))
    assert found.remedy == (
        "50 % over at CONV_2D widest: make the network narrower where it peaks, by 38 %"
    )


# --- latency --------------------------------------------------------------------------


def test_a_measured_latency_counts_before_a_predicted_one():
    kept = candidate(measured=measured(90, statistic="p90"), predicted=predicted(500))
    found = check("latency", judge(kept, CAMERA))
    assert found.passed is True
    assert found.why == (
        "90 ms (measured, n=200) on this device, p90: 90 ms against a limit of 100 ms"
    )
    broken = candidate(measured=measured(125), predicted=predicted(1))
    found = check("latency", judge(broken, CAMERA))
    assert found.passed is False
    assert found.why == (
        "125 ms (measured, n=200) on this device, mean: 125 ms against a limit of 100 ms, "
        "25 ms over"
    )
    assert found.remedy == "cut more MACs: about 20 % of 1, and activations in step"


def test_a_prediction_that_is_over_says_how_many_macs_have_to_go():
    graph = figures(macs=1_000_000)
    found = check("latency", judge(candidate(graph, predicted=predicted(80)), CAMERA))
    assert found.remedy == (
        "cut more MACs: about 38 % of 1,000,000, and activations in step, or measure on the "
        "device: the prediction itself is within the limit"
    )
    found = check("latency", judge(candidate(graph, predicted=predicted(200)), CAMERA))
    assert found.remedy == "cut more MACs: about 75 % of 1,000,000, and activations in step"


def test_a_prediction_for_a_device_with_an_accelerator_says_that_it_is_the_cpu_s():
    spread = "10 ms (5 to 20, predicted)"
    on_camera = check("latency", judge(candidate(), CAMERA)).why
    assert on_camera.startswith(f"predicted {spread} on the CPU; its upper end counts: 20 ms")
    on_pi = check("latency", judge(candidate(), PI)).why
    assert on_pi.startswith(f"predicted {spread}; its upper end counts: 20 ms")


def test_a_slow_float_file_is_told_of_the_integers_that_the_target_takes():
    found = check("latency", judge(candidate(dtype="fp32", predicted=predicted(200)), PI))
    assert found.remedy.endswith("activations in step, or try int8")


def test_without_any_latency_it_is_unknown():
    found = check("latency", judge(candidate(predicted=None, bound=None), CAMERA))
    assert (found.passed, found.figure) == (None, None)
    assert found.why == "no calibration for this runtime and dtype"
    assert found.remedy == "measure on the device"


@pytest.mark.parametrize("basis", ["measured", "predicted", "bound"])
def test_a_latency_of_another_basis_is_refused(basis):
    right = candidate().model_dump() | {"measured": measured(1).model_dump()}
    assert Candidate(**right).measured.value == 1
    other = {"measured": "predicted"}.get(basis, "measured")
    wrong = right | {basis: Measure(value=1, unit="ms", basis=other)}
    with pytest.raises(ValueError, match=f"a {other} latency is no {basis} one"):
        Candidate(**wrong)


def test_the_choice_goes_by_what_was_measured_where_all_of_it_was():
    slow = candidate(file="slow", measured=measured(9), predicted=predicted(1))
    fast = candidate(file="fast", measured=measured(8), predicted=predicted(2))
    choice = choose([judge(slow, CAMERA), judge(fast, CAMERA)])
    assert choice.file == "fast"
    assert choice.lost[0].reason == "as accurate as fast, but measured at 9 ms, not 8."


def test_a_measured_and_a_predicted_latency_are_never_compared():
    slow = candidate(file="slow", measured=measured(9), predicted=predicted(1))
    blind = candidate(file="blind", predicted=predicted(2))
    choice = choose([judge(slow, CAMERA), judge(blind, CAMERA)])
    assert choice.file == "slow"
    assert choice.lost[0].reason == "as accurate as slow, but predicted at 2 ms, not 1."


# --- accuracy -------------------------------------------------------------------------


def test_an_accuracy_that_was_not_measured_is_unknown():
    found = check("accuracy drop", judge(candidate(top1=None), CAMERA))
    assert found.passed is None
    assert found.why == "the accuracy of the file or of its network was not measured"
    assert found.remedy == "measure both on the same images"


# --- limits are inclusive -------------------------------------------------------------

amounts = st.floats(min_value=1e-3, max_value=1e6, allow_nan=False)


@given(amounts)
def test_a_figure_at_its_limit_is_within_it(limit):
    assert at_most("any", limit, limit, "MB", "less").passed is True


@given(amounts, st.floats(min_value=1e-6, max_value=1))
def test_a_figure_beyond_its_limit_is_not(limit, share):
    assert at_most("any", limit * (1 + share) + 1e-8, limit, "MB", "less").passed is False


@given(st.integers(1, 10**12))
def test_bytes_at_the_limit_fit_and_one_more_does_not(size):
    target = budgets(CAMERA, model_mb=size / 1e6)
    name = "file size (budget)"
    assert check(name, judge(candidate(bytes=size), target)).passed is True
    assert check(name, judge(candidate(bytes=size + 1), target)).passed is False


@given(st.integers(1, 10_000), st.integers(0, 10_000))
def test_a_drop_at_the_limit_is_kept(trained, lost):
    """Points come from counts of images, whose quotients are no round decimals."""
    images = 10_000
    lost = min(lost, trained)
    target = budgets(CAMERA, accuracy_drop_pct=lost / images * 100)
    file = candidate(top1=(trained - lost) / images, reference_top1=trained / images)
    assert check("accuracy drop", judge(file, target)).passed is True
    worse = file.model_copy(update={"top1": file.top1 - 1 / images})
    assert check("accuracy drop", judge(worse, target)).passed is False
