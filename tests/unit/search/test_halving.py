"""Of each rung a third goes on, and nobody is judged between rungs or by another group."""

from pipeline.search.halving import Halving


def test_a_third_of_those_that_came_goes_on():
    rule = Halving(first=1)
    kept = [
        rule.goes_on(f"t{n}", "g", 1, score) for n, score in enumerate([0.5, 0.4, 0.3, 0.6])
    ]
    assert kept == [True, False, False, True]  # best of 1, 2, 3; one of two that lead of four


def test_groups_do_not_know_each_other():
    rule = Halving(first=1)
    assert rule.goes_on("a", "one", 1, 0.9)
    assert rule.goes_on("b", "two", 1, 0.1)


def test_rungs_are_multiples_of_the_first_by_the_factor():
    rule = Halving(first=4, factor=3)
    rule.goes_on("best", "g", 4, 1.0)
    rule.goes_on("best", "g", 12, 1.0)
    judged = [n for n in range(1, 40) if not rule.goes_on("worst", "g", n, 0.0)]
    assert judged == [4, 12]


def test_who_is_as_good_as_the_best_goes_on():
    rule = Halving(first=1)
    assert [rule.goes_on(str(n), "g", 1, 0.7) for n in range(5)] == [True] * 5


def test_a_restarted_trial_counts_once():
    rule = Halving(first=1)
    for _ in range(5):
        rule.goes_on("again", "g", 1, 0.9)
    assert not rule.goes_on("other", "g", 1, 0.8)
