import gc

import numpy as np
import pytest

from pipeline.runtime.bench import (
    bootstrap_median,
    claimable_ms,
    measure,
    measure_in_turns,
    summarize,
    supports,
)


class Clock:
    """Nanoseconds that pass only while something is invoked."""

    def __init__(self, *steps_ms):
        self.now, self.calls, self.steps = 0, 0, steps_ms

    def __call__(self):
        return self.now

    def invoke(self):
        self.now += int(self.steps[self.calls % len(self.steps)] * 1e6)
        self.calls += 1


def test_runs_are_timed_in_order_in_milliseconds():
    clock = Clock(1, 2, 3)
    timing = measure(clock.invoke, warmup_runs=3, warmup_s=0, runs=6, clock=clock)
    assert timing.samples_ms == (1, 2, 3, 1, 2, 3)
    assert (timing.n, timing.min_ms, timing.mean_ms, timing.median_ms) == (6, 1, 2, 2)
    assert timing.std_ms == pytest.approx(np.std([1, 2, 3, 1, 2, 3], ddof=1))
    assert timing.warmup_runs == 3


def test_the_warm_up_meets_both_its_limits():
    by_time, by_count = Clock(100), Clock(100)
    assert measure(by_time.invoke, warmup_runs=1, warmup_s=1, runs=1, clock=by_time).n == 1
    assert by_time.calls == 10 + 1
    measure(by_count.invoke, warmup_runs=20, warmup_s=1, runs=1, clock=by_count)
    assert by_count.calls == 20 + 1


@pytest.mark.parametrize(
    "limits",
    [{"runs": 0}, {"runs": 1, "warmup_runs": -1}, {"runs": 1, "warmup_s": -1.0}],
)
def test_nothing_to_time_is_refused(limits):
    with pytest.raises(ValueError, match="at least one run is timed"):
        measure(lambda: None, **limits)


@pytest.mark.parametrize("samples", [[], [-1.0], [float("nan")]])
def test_impossible_latencies_are_refused(samples):
    with pytest.raises(ValueError, match="finite and not negative"):
        summarize(samples)


def test_the_collector_pauses_only_while_timed_and_comes_back_after_a_failure():
    seen = []
    measure(lambda: seen.append(gc.isenabled()), warmup_runs=1, warmup_s=0, runs=1)
    assert seen == [True, False]

    def fail():
        if not gc.isenabled():
            raise RuntimeError("engine")

    with pytest.raises(RuntimeError, match="engine"):
        measure(fail, warmup_runs=0, warmup_s=0, runs=1)
    assert gc.isenabled()


@pytest.mark.parametrize(("fraction", "least"), [(0.90, 64), (0.95, 130), (0.99, 662)])
def test_a_percentile_needs_as_many_runs_as_early_stopping_says(fraction, least):
    assert supports(fraction, least)
    assert not supports(fraction, least - 1)


def test_percentiles_that_n_cannot_support_are_missing():
    few, enough, many = (summarize([1.0] * n) for n in (63, 64, 130))
    assert (few.p90_ms, few.p95_ms, few.p90_claim_ms) == (None, None, None)
    assert (enough.p90_ms, enough.p95_ms) == (1.0, None)
    assert many.p95_ms == 1.0


# The ranks are those of the published rule: p97 of 100 runs, p95 of 200, p92.2 of 1024.
@pytest.mark.parametrize(("n", "share_below"), [(100, 0.97), (200, 0.95), (1024, 0.922)])
def test_the_claim_lies_above_the_observed_percentile(n, share_below):
    samples = [float(i) for i in range(n)]
    claim = claimable_ms(samples, 0.90)
    assert claim / n == pytest.approx(share_below, abs=0.01)
    assert claim > summarize(samples).p90_ms


def test_at_the_least_n_only_the_slowest_run_can_be_claimed():
    samples = [float(i) for i in range(64)]
    assert claimable_ms(samples, 0.90) == 63
    assert claimable_ms(samples[:63], 0.90) is None


def test_the_order_of_runs_changes_no_statistic():
    samples = [float(i) for i in range(100)]
    assert claimable_ms(samples[::-1], 0.9) == claimable_ms(samples, 0.9)


def test_the_bootstrap_interval_holds_the_median_and_repeats():
    samples = list(np.random.default_rng(1).exponential(5, 200))
    low, high = bootstrap_median(samples)
    assert low < np.median(samples) < high
    assert bootstrap_median(samples) == (low, high)
    assert bootstrap_median(samples, seed=1) != (low, high)


def test_the_bootstrap_interval_narrows_with_more_runs():
    rng = np.random.default_rng(2)
    widths = []
    for n in (30, 3000):
        low, high = bootstrap_median(list(rng.normal(10, 1, n)))
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_turns_give_each_its_own_times_and_forget_the_warm_up():
    order, now = [], [0]

    def takes(name, milliseconds):
        def invoke():
            order.append(name)
            now[0] += milliseconds * 1_000_000

        return invoke

    fast, slow = measure_in_turns(
        [takes("a", 1), takes("b", 5)], warmup_runs=2, runs=3, clock=lambda: now[0]
    )
    assert order == ["a", "b"] * 5
    assert (fast.n, fast.median_ms, fast.warmup_runs) == (3, 1.0, 2)
    assert (slow.n, slow.median_ms) == (3, 5.0)
    assert measure_in_turns([], warmup_runs=1, runs=2) == []
