"""What trials share is computed once: one goes ahead, the others wait for it."""

from fast_run import FAST

from pipeline.search.feed import Listed
from pipeline.search.grid import axes, trials
from pipeline.search.trial import Outcome


def outcome(name, state="finished", why=""):
    return Outcome(trial=name, key="", state=state, why=why, seconds=1.0)


def listed(trials, shared=None, done=()):
    told = []
    shared = shared or {trial.name: trial.name for trial in trials}
    keys = lambda trial: (shared[trial.name],)  # noqa: E731
    return Listed(trials, keys, {one.trial: one for one in done}, told.append), told


def three():
    return trials("quickstart", axes(["seed=1,2,3"]), 1, overrides=FAST)


def names(feed):
    found = []
    while trial := feed.next():
        found.append(trial.name)
    return found


def test_trials_that_share_nothing_all_begin():
    feed, _ = listed(three())
    assert names(feed) == ["seed=1", "seed=2", "seed=3"]
    assert feed.exhausted


def test_of_those_that_share_a_stage_one_goes_ahead():
    feed, told = listed(three(), {"seed=1": "a", "seed=2": "a", "seed=3": "b"})
    assert names(feed) == ["seed=1", "seed=3"]
    assert not feed.exhausted
    feed.told(outcome("seed=1"))
    assert names(feed) == ["seed=2"]
    assert [one.trial for one in told] == ["seed=1"]


def test_where_the_first_fails_the_next_goes_ahead():
    feed, _ = listed(three(), dict.fromkeys(("seed=1", "seed=2", "seed=3"), "a"))
    assert names(feed) == ["seed=1"]
    feed.told(outcome("seed=1", "failed"))
    assert names(feed) == ["seed=2"]
    feed.told(outcome("seed=2"))
    assert names(feed) == ["seed=3"]


def test_a_trial_is_held_back_by_each_of_its_keys():
    """Of those with one dense start and one training, the second waits for either."""
    from pipeline.search.feed import Turns

    keys = {"seed=1": ("t1", "dense"), "seed=2": ("t2", "dense"), "seed=3": ("t2", "other")}
    turns = Turns(lambda trial: keys[trial.name])
    one, two, three_ = three()
    assert turns.first([one, two, three_]) is one
    assert turns.first([two, three_]) is three_
    assert turns.first([two]) is None
    turns.ended(outcome(one.name))
    assert turns.first([two]) is None  # the other still trains what it would
    turns.ended(outcome(three_.name))
    assert turns.first([two]) is two


def test_a_trial_waits_for_those_it_names_and_falls_with_them():
    one, two, three_ = three()
    two = two.model_copy(update={"after": (one.name,)})
    three_ = three_.model_copy(update={"after": (two.name,)})
    feed, told = listed([two, three_, one])
    assert names(feed) == ["seed=1"]
    feed.told(outcome("seed=1", "failed", "no"))
    assert names(feed) == []
    assert [(o.trial, o.state) for o in told] == [
        ("seed=1", "failed"), ("seed=2", "failed"), ("seed=3", "failed"),
    ]  # fmt: skip
    assert told[1].why == "it needs seed=1, which failed"
    assert feed.exhausted
