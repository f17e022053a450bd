"""What counts as worse, what is only noise, and what can't be compared at all."""

import copy

import pytest
from report_run import measure, records, timing, write_run

from pipeline.report.collect import collect
from pipeline.report.compare import regressions, results, settings


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return collect(write_run(tmp_path_factory.mktemp("compare") / "run", records()))


def changed(report, change):
    found = copy.deepcopy(report)
    change(found)
    return found


def line(report, other, quantity, of):
    [found] = [
        one for one in results([report, other]) if (one.quantity, one.of) == (quantity, of)
    ]
    return found


def timed(report, factor, first=None, **more):
    """Two reports of which the second is slower by a factor, with narrow intervals."""
    before = timing(1, 2.0, None)
    before["median"] = measure(2.0, n=100, spread=[1.999, 2.001])
    after = timing(1, 2.0, None, **more)
    after["median"] = measure(2.0 * factor, n=100, spread=[1.999 * factor, 2.001 * factor])
    before["windows_ms"], after["windows_ms"] = [2.0], [2.0 * factor]
    return [
        changed(report, lambda r, one=one: r["files"][0].update(latency=[one]))
        for one in (before | (first or {}), after)
    ]


def of_host(pair):
    return line(*pair, "host latency", "model.float32.onnx, 1 thread")


def test_a_report_is_equal_to_itself(report):
    found = results([report, report])
    assert found
    assert {one.result for one in found} == {"same"}
    assert regressions(found) == []


def test_only_keys_that_differ_are_told_flat_and_numbers_by_their_value():
    first = {"name": "a", "train": {"epochs": 3, "lr": 1.0}, "targets": ["x"]}
    second = {"name": "a", "train": {"epochs": 4, "lr": 1}, "seed": 0}
    assert [tuple(one) for one in settings([first, second])] == [
        ("train.epochs", [3, 4]), ("targets", [["x"], None]), ("seed", [None, 0]),
    ]  # fmt: skip
    assert settings([first, first]) == []


def test_a_key_that_only_the_run_between_changes_is_told():
    assert [one.key for one in settings([{"a": 1}, {"a": 2}, {"a": 1}])] == ["a"]


@pytest.mark.parametrize(
    ("factor", "result"),
    [(1.05, "worse"), (1.0501, "regression"), (1.2, "regression"), (0.9, "better")],
)
def test_exactly_five_percent_is_no_regression_and_a_little_more_is(report, factor, result):
    assert of_host(timed(report, factor)).result == result
    size = 1_000_000
    small = changed(report, lambda r: r["files"][0].update(bytes=size))
    larger = changed(report, lambda r: r["files"][0].update(bytes=round(size * factor)))
    found = line(small, larger, "size", "model.float32.onnx")
    assert (found.result, found.change) == (result, pytest.approx(factor - 1))


@pytest.mark.parametrize(
    ("drop", "result"),
    [(0.005, "worse"), (0.0051, "regression"), (0.0, "same"), (-0.1, "better")],
)
def test_exactly_half_a_point_is_no_regression_and_a_little_more_is(report, drop, result):
    def lose(found):
        found["files"][0]["parity"]["top1"]["value"] -= drop

    found = line(report, changed(report, lose), "top-1", "model.float32.onnx")
    assert found.result == result
    assert found.change == pytest.approx(-drop)


def test_accuracies_of_other_images_are_not_compared(report):
    def other(found):
        found["files"][0]["parity"]["top1"] |= {"n": 10, "value": 0.1}

    found = line(report, changed(report, other), "top-1", "model.float32.onnx")
    assert (found.result, found.why, found.change) == (
        "not compared", "other test images", None,
    )  # fmt: skip
    renamed = changed(report, lambda r: r["data"].update(name="other"))
    assert line(report, renamed, "top-1", "network, compact").result == "not compared"


def test_overlapping_intervals_show_no_change(report):
    pair = timed(report, 1.2)
    pair[1]["files"][0]["latency"][0]["median"]["spread"] = [2.0005, 3.0]
    found = of_host(pair)
    assert (found.result, found.why) == ("no change shown", "the repeats overlap")
    pair[1]["files"][0]["latency"][0]["median"]["spread"] = [2.0015, 3.0]
    assert of_host(pair).result == "regression"


def test_overlapping_repeats_show_no_change_however_narrow_the_interval(report):
    pair = timed(report, 1.2)
    pair[0]["files"][0]["latency"][0]["windows_ms"] = [1.98, 2.41]
    assert of_host(pair).result == "no change shown"
    pair[0]["files"][0]["latency"][0]["windows_ms"] = [1.98, 2.38]
    assert of_host(pair).result == "regression"


def test_without_an_interval_a_change_is_not_judged(report):
    pair = timed(report, 1.2)
    pair[1]["files"][0]["latency"][0]["median"]["spread"] = None
    assert of_host(pair).why == "no interval is known"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"runtime_version": "9"}, "other runtime version: 1.20, 9"),
        ({"runtime": "litert"}, "other runtime: onnxruntime, litert"),
        ({"stable": False}, "unstable: last"),
        ({"stable": None}, "measured once only, so its stability is not known"),
        ({"conditions": {"before": {"cpu": "B"}}}, "other CPU: A <cpu>, B"),
        ({"conditions": {"before": {}}}, "CPU not known"),
    ],
)
def test_times_are_compared_only_under_the_same_conditions(report, more, why):
    found = of_host(timed(report, 1.2, **more))
    assert (found.result, found.why, found.change) == ("not compared", why, None)


@pytest.mark.parametrize(
    ("last", "why"), [(True, "unstable: first"), (False, "unstable: both")]
)
def test_the_unstable_one_is_named(report, last, why):
    assert of_host(timed(report, 1.2, first={"stable": False}, stable=last)).why == why


def test_other_threads_are_another_figure(report):
    pair = timed(report, 1.0)
    pair[1]["files"][0]["latency"][0]["threads"] = 2
    assert of_host(pair).why == "not known of the last"


def test_memory_of_the_process_is_told_and_never_flagged(report):
    pair = timed(report, 1.0, memory={"peak_bytes": 99_000_000})
    found = line(*pair, "host peak memory", "model.float32.onnx, 1 thread")
    assert (found.result, found.change) == ("different", pytest.approx(0.513, abs=1e-3))


def test_planned_memory_is_flagged(report):
    first = changed(report, lambda r: r["files"][0].update(memory={"greedy_bytes": 1000}))
    last = changed(report, lambda r: r["files"][0].update(memory={"greedy_bytes": 1051}))
    found = line(first, last, "activations, planned", "model.float32.onnx")
    assert found.result == "regression"
    ram = changed(report, lambda r: r["targets"][0]["files"][0]["peak_ram"].update(value=1.0))
    assert line(report, ram, "peak RAM, predicted", "board").result == "regression"


def test_a_file_that_is_only_in_one_run_is_told(report):
    gone = changed(report, lambda r: r["files"].pop(0))
    found = line(report, gone, "size", "model.float32.onnx")
    assert (found.values, found.result, found.why) == (
        [1_234_567, None], "not compared", "not known of the last",
    )  # fmt: skip


def test_what_nobody_knows_is_not_a_line(report):
    assert not [one for one in results([report, report]) if set(one.values) == {None}]


def test_a_target_that_loses_its_file_is_a_regression(report):
    lost = changed(report, lambda r: r["targets"][0].update(chosen=None))
    found = line(report, lost, "verdict", "board")
    assert (found.values[1], found.result) == ("no file fits", "regression")
    assert line(lost, report, "verdict", "board").result == "better"
    other = changed(report, lambda r: r["targets"][0].update(chosen="model.int8.tflite"))
    found = line(report, other, "verdict", "board")
    assert (found.result, found.why) == (
        "different", "of model.int8.tflite, not model.float32.onnx",
    )  # fmt: skip


def test_two_bases_are_never_compared(report):
    def measured(found):
        found["targets"][0]["files"][0]["measured"] = measure(9.0, n=64, statistic="p90")

    found = line(report, changed(report, measured), "latency, predicted or measured", "board")
    assert (found.result, found.why) == ("not compared", "other basis: predicted, measured")


def test_predictions_are_compared_without_an_interval_of_noise(report):
    def slower(found):
        found["targets"][0]["files"][0]["predicted"]["value"] *= 1.06

    found = line(report, changed(report, slower), "latency, predicted", "board")
    assert found.result == "regression"


@pytest.mark.parametrize(
    ("more", "result"),
    [
        ({}, "regression"),
        ({"machine": "adb:1"}, "not compared"),
        ({"stable": False}, "not compared"),
    ],
)
def test_what_a_device_measured_is_compared_by_its_median(report, more, result):
    def measured(ms, **changed_):
        def change(found):
            found["targets"][0]["files"][0] |= {
                "measured": measure(9.0, n=64, statistic="p90"),
                "on_device": {
                    "machine": "ssh://pi", "cpu": "A72", "runtime": "litert 2",
                    "statistic": "median", "stable": True,
                    "typical": measure(ms, n=64, spread=[ms * 0.99, ms * 1.01]),
                } | changed_,
            }  # fmt: skip

        return changed(report, change)

    found = line(measured(4.0), measured(5.0, **more), "latency, measured", "board")
    assert (found.values, found.result) == ([4.0, 5.0], result)


def test_of_three_runs_the_last_is_held_against_the_first(report):
    middle = changed(report, lambda r: r["files"][0].update(bytes=9))
    [found] = [
        one
        for one in results([report, middle, report])
        if (one.quantity, one.of) == ("size", "model.float32.onnx")
    ]
    assert (found.values, found.result) == ([1_234_567, 9, 1_234_567], "same")
