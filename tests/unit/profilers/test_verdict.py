import pytest
from judged import CAMERA, PI, candidate, check, figures, limits, predicted

from pipeline.core.measure import Measure
from pipeline.core.target import Figure, Memory, Ops, Storage
from pipeline.profilers.candidate import Candidate, GraphFigures, peak_ram
from pipeline.profilers.file_graph import FileGraph, OpInfo, TensorInfo
from pipeline.profilers.verdict import Verdict, choose, judge


def test_a_file_within_every_limit_fits():
    verdict = judge(candidate(), CAMERA)
    assert verdict.fits
    assert verdict.failed == verdict.unknown == ()
    assert [c.name for c in verdict.checks] == [
        "format",
        "dtype",
        "int8 granularity",
        "input dtype",
        "output dtype",
        "static shapes",
        "batch",
        "coverage",
        "file size (budget)",
        "activations",
        "peak RAM (budget)",
        "latency",
        "accuracy drop",
    ]
    assert all(c.why and not c.remedy for c in verdict.checks)


# One thing wrong at a time: the check that must see it, and what it advises.
@pytest.mark.parametrize(
    ("changes", "graph", "name", "remedy"),
    [
        ({"format": "onnx"}, {}, "format", "export to tflite"),
        ({"dtype": "fp32"}, {}, "dtype", "quantize with a scheme that gives int8"),
        ({"dtype": "mixed"}, {}, "dtype", "quantize with a scheme that gives int8"),
        ({}, {"input_dtypes": ("int16",)}, "input dtype", "inputs"),
        ({}, {"output_dtypes": ("int32",)}, "output dtype", "outputs"),
        ({}, {"static_shapes": False}, "static shapes", "fixed batch"),
        ({}, {"batch": 2}, "batch", "export with batch 1"),
        ({"bytes": 8_000_001}, {}, "file size (budget)", "fewer weights"),
        ({}, {"arena": 32_000_001}, "activations", "CONV_2D widest"),
        ({"predicted": predicted(50.1)}, {}, "latency", "cut more MACs"),
        ({"top1": 0.8399}, {}, "accuracy drop", "quantize more gently"),
    ],
)
def test_one_broken_limit_is_found_and_answered(changes, graph, name, remedy):
    verdict = judge(candidate(figures(**graph), **changes), CAMERA)
    assert [c.name for c in verdict.failed] == [name]
    assert remedy in verdict.failed[0].remedy
    assert not verdict.fits


# The same limits, met exactly.
@pytest.mark.parametrize(
    ("changes", "graph", "name"),
    [
        ({"bytes": 8_000_000}, {}, "file size (budget)"),
        ({}, {"arena": 32_000_000}, "activations"),
        ({}, {"arena": 32_000_000, "weight_bytes": 32_000_000}, "peak RAM (budget)"),
        ({"predicted": predicted(50)}, {}, "latency"),
        (
            {"top1": 0.84},
            {},
            "accuracy drop",
        ),  # 3.5 points, which floats make 3.5000000000000031
        ({"top1": 0.9}, {}, "accuracy drop"),
    ],
)
def test_a_limit_that_is_met_exactly_is_kept(changes, graph, name):
    verdict = judge(candidate(figures(**graph), **changes), CAMERA)
    assert check(name, verdict).passed is True


def test_ram_is_the_arena_and_the_weights():
    over = figures(arena=32_000_000, weight_bytes=32_000_001)
    found = check("peak RAM (budget)", judge(candidate(over), CAMERA))
    assert found.passed is False
    assert peak_ram(over).value == pytest.approx(64.000001)
    assert peak_ram(over).basis == "predicted"


def test_the_device_may_hold_less_than_the_budget():
    small = Figure(value=2, basis="vendor", source="a small board")
    target = CAMERA.model_copy(update={"memory": Memory(budget_mb=small)})
    found = check("peak RAM (device)", judge(candidate(), target))
    assert (found.passed, found.limit, found.figure) == (False, "2 MB", "3 MB")
    assert "1 MB over" in found.why


def test_the_storage_may_hold_less_than_the_budget():
    small = Figure(value=1, basis="vendor", source="a small board")
    target = CAMERA.model_copy(update={"storage": Storage(model_max_mb=small)})
    assert check("file size (storage)", judge(candidate(), target)).passed is False


def test_a_granularity_that_is_allowed_but_not_preferred_passes_with_advice():
    verdict = judge(candidate(figures(int8_granularity="per-channel")), CAMERA)
    found = check("int8 granularity", verdict)
    assert found.passed is True
    assert "per-tensor is preferred" in found.why
    assert found.remedy == "consider per-tensor"


def test_a_granularity_that_is_not_allowed_fails():
    target = limits(CAMERA, int8_granularity=("per-tensor",))
    verdict = judge(candidate(figures(int8_granularity="per-channel")), target)
    assert check("int8 granularity", verdict).passed is False


def test_a_file_without_integer_weights_has_no_granularity_to_check():
    verdict = judge(candidate(figures(int8_granularity=None)), CAMERA)
    assert "int8 granularity" not in [c.name for c in verdict.checks]


@pytest.mark.parametrize(
    ("ops", "passed"),
    [
        (Ops(deny=("SOFTMAX",)), True),
        (Ops(deny=("CONV_2D",)), False),
        (Ops(allow=("CONV_2D", "ADD")), True),
        (Ops(allow=("ADD",)), False),
    ],
)
def test_operators_are_refused_by_name(ops, passed):
    found = check("operators", judge(candidate(), limits(CAMERA, ops=ops)))
    assert found.passed is passed
    assert ("replace CONV_2D" in found.remedy) is not passed


@pytest.mark.parametrize(("largest", "passed"), [((32, 32), True), ((31, 32), False)])
def test_the_image_may_be_too_large(largest, passed):
    found = check("input size", judge(candidate(), limits(CAMERA, input_max_hw=largest)))
    assert found.passed is passed
    assert found.figure == "32 x 32"


def test_the_upper_end_of_a_prediction_counts():
    within, beyond = predicted(99, high=100), predicted(51, high=101)
    assert check("latency", judge(candidate(predicted=within), CAMERA)).passed is True
    found = check("latency", judge(candidate(predicted=beyond), CAMERA))
    assert found.passed is False
    assert "its upper end counts" in found.why


def test_a_bound_can_refuse_and_never_approve():
    low, high = (Measure(value=ms, unit="ms", basis="bound") for ms in (99, 101))
    unsure = check("latency", judge(candidate(predicted=None, bound=low), CAMERA))
    refused = check("latency", judge(candidate(predicted=None, bound=high), CAMERA))
    assert unsure.passed is None
    assert "a lower bound below the limit proves nothing" in unsure.why
    assert refused.passed is False
    assert "even the lower bound breaks the limit" in refused.why


@pytest.mark.parametrize(
    ("dtype", "compact", "cause", "remedy"),
    [
        ("int8", 0.83, "pruning cost 4.5 points, quantization 1", "keep more weights or"),
        ("int8", 0.87, "quantization cost 5 points, pruning 0.5", "calibrate on more images"),
        ("fp32", 0.82, "pruning cost 5.5 points, export 0", "keep more weights or train long"),
        ("fp32", 0.87, "export cost 5 points, pruning 0.5", "export.max_float_difference"),
    ],
)
def test_a_drop_names_its_larger_cause_and_what_helps_against_it(
    dtype, compact, cause, remedy
):
    file = candidate(top1=0.82, compact_top1=compact, dtype=dtype)
    found = check("accuracy drop", judge(file, CAMERA))
    assert found.passed is False
    assert found.why == (
        "5.5 points against a limit of 3.5 points, 2 points over; top-1 82.00%, of the "
        f"best network in training 87.50%; {cause}"
    )
    assert remedy in found.remedy
    others = {"keep more weights", "calibrate", "max_float"} - {
        one for one in ("keep more weights", "calibrate", "max_float") if one in remedy
    }
    assert not any(other in found.remedy for other in others)


def test_a_drop_within_the_limit_needs_no_cause():
    found = check("accuracy drop", judge(candidate(compact_top1=0.5), CAMERA))
    assert found.passed is True
    assert found.why.endswith("top-1 87.00%, of the best network in training 87.50%")
    assert not found.remedy


def test_what_was_not_measured_is_unknown_and_not_a_zero():
    verdict = judge(candidate(predicted=None, bound=None, top1=None), CAMERA)
    assert [c.name for c in verdict.unknown] == ["latency", "accuracy drop"]
    assert all(c.figure is None for c in verdict.unknown)
    assert verdict.fits


def test_a_target_without_budgets_checks_only_the_form():
    verdict = judge(candidate(), CAMERA.model_copy(update={"budgets": None}))
    names = [c.name for c in verdict.checks]
    assert "latency" not in names
    assert "file size (budget)" not in names
    assert "format" in names


# --- the choice -----------------------------------------------------------------------


def verdicts(*candidates, target=CAMERA):
    return [judge(c, target) for c in candidates]


def test_accuracy_decides_first():
    good = candidate(file="good", top1=0.871, predicted=predicted(40))
    fast = candidate(file="fast", top1=0.870, predicted=predicted(1))
    choice = choose(verdicts(fast, good))
    assert choice.file == "good"
    assert choice.reason == "best of 2 files that fit: top-1 87.10%, 3,000,000 bytes."
    (lost,) = choice.lost
    assert lost.file == "fast"
    assert lost.reason == "top-1 87.00% is 0.10 points below that of good."


def test_then_the_prediction():
    slow, fast = (candidate(file=f, predicted=predicted(t)) for f, t in (("s", 9), ("f", 8)))
    choice = choose(verdicts(slow, fast))
    assert choice.file == "f"
    assert choice.lost[0].reason == "as accurate as f, but predicted at 9 ms, not 8."


def test_a_file_without_a_prediction_comes_after_one_with():
    blind, known = candidate(file="a", predicted=None), candidate(file="b")
    choice = choose(verdicts(blind, known))
    assert choice.file == "b"
    assert "can't be predicted" in choice.lost[0].reason


def test_then_the_size():
    large, small = candidate(file="l", bytes=3_000_001), candidate(file="s")
    choice = choose(verdicts(large, small))
    assert choice.file == "s"
    assert choice.lost[0].reason == "as good as s, but 1 bytes larger."


def test_of_equals_the_name_decides_whatever_the_order():
    a, b = candidate(file="a"), candidate(file="b")
    assert choose(verdicts(a, b)).file == choose(verdicts(b, a)).file == "a"
    assert "the name decided" in choose(verdicts(b, a)).lost[0].reason


def test_an_unmeasured_accuracy_comes_last():
    blind, known = candidate(file="a", top1=None), candidate(file="b", top1=0.85)
    choice = choose(verdicts(blind, known))
    assert choice.file == "b"
    assert "its accuracy was not measured" in choice.lost[0].reason


def test_a_misfit_is_never_chosen_and_says_what_it_broke():
    misfit = candidate(file="best", top1=0.99, format="onnx", dtype="fp32")
    choice = choose(verdicts(misfit, candidate(file="only")))
    assert choice.file == "only"
    assert choice.reason == "the only file that fits the target."
    assert choice.lost[0].reason == "format: onnx is not among tflite (and 1 more)."


def test_when_nothing_fits_nothing_is_chosen():
    choice = choose(verdicts(candidate(format="onnx")))
    assert choice.file is None
    assert choice.reason == "no file fits the target."
    assert len(choice.lost) == 1


def test_without_candidates_there_is_no_choice():
    assert choose([]).file is None


# --- from a file ----------------------------------------------------------------------


def graph(file_format="tflite", shape=(1, 8, 6, 3)):
    x = TensorInfo(name="x", bytes=144, shape=shape, dtype="int8", constant=False)
    y = TensorInfo(name="y", bytes=10, shape=(1, 10), dtype="int8", constant=False)
    op = OpInfo(type="OP", inputs=("x",), outputs=("y",), macs=1440, activation_bytes=154)
    return FileGraph(
        format=file_format,
        tensors=(x, y),
        ops=(op,),
        inputs=("x",),
        outputs=("y",),
        dtype="int8",
        weight_bytes=1440,
    )


def test_a_candidate_is_made_from_a_file_and_a_target(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(bytes(2000))
    found = Candidate.of(path, graph(), PI, scheme="int8", top1=0.5, reference_top1=0.6)
    assert (found.file, found.bytes, found.dtype) == ("net.tflite", 2000, "int8")
    assert found.predicted.basis == "predicted"
    assert found.predicted.conditions["extrapolated"] is True
    assert found.bound.value < found.predicted.spread[0]
    assert found.peak_ram.conditions["weight_bytes"] == 1440
    assert found.peak_ram.conditions["arena_bytes"] == found.graph.memory.greedy_bytes


@pytest.mark.parametrize(
    ("file_format", "shape", "expected"),
    [
        ("tflite", (1, 8, 6, 3), (8, 6)),
        ("onnx", (1, 3, 8, 6), (8, 6)),
        ("onnx", (1, 3), None),
    ],
)
def test_the_image_size_is_read_by_the_layout_of_the_format(file_format, shape, expected):
    assert GraphFigures.of(graph(file_format, shape)).input_hw == expected


def test_a_verdict_travels_as_json():
    verdict = judge(candidate(), CAMERA)
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
