"""A front holds what nothing beats, and its knee is where more costs much for little."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.pareto import front, knee

POINTS = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=12)


def beats(one, other):
    return one != other and one[0] <= other[0] and one[1] >= other[1]


@given(POINTS)
def test_a_front_is_what_nothing_beats(points):
    found = [points[n] for n in front(points)]
    assert sorted(set(found)) == sorted(
        {point for point in points if not any(beats(other, point) for other in points)}
    )
    assert found == sorted(found)
    assert len(set(found)) == len(found)


def test_the_knee_is_where_the_gain_gives_out():
    assert knee([(1, 0.10), (2, 0.80), (4, 0.88), (64, 0.90)]) == 1


def test_a_straight_front_has_no_knee():
    assert knee([(1, 0.1), (10, 0.2), (100, 0.3)]) is None
    assert knee([(1, 0.1), (10, 0.12), (100, 0.3)]) is None  # it lies under the line


def test_two_points_and_costs_of_nothing_have_no_knee():
    assert knee([(1, 0.1), (2, 0.9)]) is None
    assert knee([(0, 0.1), (2, 0.8), (3, 0.9)]) is None
