"""Candidates first, files of the best, the next where these break a limit, until decided."""

import pytest
from fast_run import FAST

from pipeline.core.epoch import Epoch
from pipeline.core.recipe import Recipe
from pipeline.core.target import Target
from pipeline.search.family import Space, family
from pipeline.search.fit_feed import FitFeed, Hopes
from pipeline.search.halving import Halving
from pipeline.search.trial import Outcome

SPACE = Space(widths=(1.0, 0.5), weights=(), channels=())  # dense-width-1, dense-width-0.5
PI, MCU = (Target.load(name) for name in ("raspberry-pi-zero-2w", "stm32h7"))
WIDE, NARROW = "dense-width-1", "dense-width-0.5"


def members():
    changes = [*FAST, "model.width=8", "model.hidden=16"]
    return family(Recipe.load("quickstart", changes), SPACE)


def feed(hopes=None, targets=(PI, MCU), **more):
    names = [member.trial.name for member in members()]
    hopes = hopes or {}
    table = {name: {t.id: hopes.get((name, t.id), "") for t in targets} for name in names}
    made = FitFeed(
        members(),
        targets,
        [target.id for target in targets],
        Hopes(table),
        lambda member, figures: figures.get("whys", {}),
        Halving(first=1),
        **{"finalists": 3, **more},
    )
    assert names == [WIDE, NARROW]
    return made


def trained(name, validation, macs=100, reference=0.9):
    figures = {
        "validation": validation, "macs": macs,
        "reference_validation": validation, "reference_accuracy": reference,
    }  # fmt: skip
    return Outcome(trial=name, key="", state="finished", seconds=1, figures=figures)


def with_files(name, accuracy, *chosen, reference=0.9):
    got = {t.id: {"chosen": None, "why": "", "broken": ["too large"]} for t in (PI, MCU)}
    got |= {t.id: {"chosen": "m.tflite", "why": "it fits"} for t in chosen}
    figures = {
        "validation": 0.9, "reference_validation": 0.9, "reference_accuracy": reference,
        "files": {"m.tflite": {"accuracy": accuracy, "bytes": 10}}, "targets": got,
    }  # fmt: skip
    return Outcome(trial=f"{name}.files", key="", state="finished", seconds=1, figures=figures)


def begin_both(one):
    assert [one.next().name, one.next().name] == [WIDE, NARROW]
    assert one.next() is None


def test_the_best_on_validation_is_made_files_of_for_all_targets():
    one = feed()
    begin_both(one)
    one.told(trained(WIDE, 0.8))
    assert one.next() is None  # the other still trains
    one.told(trained(NARROW, 0.9))
    final = one.next()
    assert (final.name, final.goes_on, final.until) == (f"{NARROW}.files", NARROW, None)
    assert final.recipe.targets == [PI.id, MCU.id]
    assert one.next() is None
    assert not one.exhausted
    one.told(with_files(NARROW, 0.9, PI, MCU))
    assert one.next() is None
    assert one.exhausted
    for verdict in one.verdicts.values():
        assert (verdict.fits, verdict.trial, verdict.accuracy) == (True, final.name, 0.9)
        assert verdict.lost[0].why == "10.00 points of top-1 behind on validation"


def test_of_equals_the_one_with_fewer_macs_comes_first():
    one = feed()
    begin_both(one)
    one.told(trained(WIDE, 0.9, macs=200))
    one.told(trained(NARROW, 0.9, macs=100))
    assert one.next().name == f"{NARROW}.files"


def test_where_the_files_break_a_limit_the_next_best_is_tried():
    one = feed()
    begin_both(one)
    one.told(trained(WIDE, 0.9))
    one.told(trained(NARROW, 0.8))
    assert one.next().name == f"{WIDE}.files"
    one.told(with_files(WIDE, 0.9, PI))
    assert one.next().name == f"{NARROW}.files"
    assert one.verdicts[PI.id].trial == f"{WIDE}.files"
    one.told(with_files(NARROW, 0.9, MCU))
    assert one.next() is None
    assert one.verdicts[MCU.id].trial == f"{NARROW}.files"
    assert [(lost.trial, lost.why) for lost in one.verdicts[MCU.id].lost] == [
        (WIDE, "too large")
    ]


def test_a_target_that_nothing_fits_is_told_why():
    one = feed(targets=(MCU,))
    begin_both(one)
    for name in (WIDE, NARROW):
        one.told(trained(name, 0.9))
    for name in (NARROW, WIDE):
        assert one.next().name == f"{name}.files"
        one.told(with_files(name, 0.9))
    assert one.next() is None
    assert one.exhausted
    verdict = one.verdicts[MCU.id]
    assert not verdict.fits
    assert verdict.why == f"none of 2 networks fits; the last, {WIDE}: too large"


def test_what_is_lost_counts_from_the_best_network_of_the_whole_search():
    """The narrow network lost nothing of what it could do, and is no answer all the same."""
    one = feed(targets=(PI,))
    begin_both(one)
    one.told(trained(WIDE, 0.95, reference=0.95))
    one.told(trained(NARROW, 0.96, reference=0.80))
    one.told(trained(WIDE, 0.97, reference=0.95))
    assert one.next().name == f"{WIDE}.files"
    one.told(with_files(WIDE, 0.93, PI, reference=0.95))
    assert one.next().name == f"{NARROW}.files"
    one.told(with_files(NARROW, 0.94, PI, reference=0.80))
    assert one.next() is None
    assert one.verdicts[PI.id].trial == f"{NARROW}.files"
    assert "loses 2.00 points of top-1" in one.verdicts[PI.id].lost[0].why


def test_a_target_takes_only_what_counting_lets_it():
    one = feed({(WIDE, MCU.id): "flash: too much"})
    begin_both(one)
    one.told(trained(WIDE, 0.9))
    one.told(trained(NARROW, 0.8))
    assert one.next().name == f"{WIDE}.files"
    one.told(with_files(WIDE, 0.9, PI, MCU))
    assert one.next().name == f"{NARROW}.files"
    assert MCU.id not in one.verdicts
    one.told(with_files(NARROW, 0.9, PI, MCU))
    assert one.next() is None
    lost = {lost.trial: lost.why for lost in one.verdicts[MCU.id].lost}
    assert lost[WIDE] == "by counting: flash: too much"


def test_finalists_are_as_many_as_are_granted():
    one = feed(targets=(MCU,), finalists=1)
    begin_both(one)
    for name in (WIDE, NARROW):
        one.told(trained(name, 0.9))
    assert one.next().name == f"{NARROW}.files"
    one.told(with_files(NARROW, 0.9))
    assert one.next() is None
    assert not one.verdicts[MCU.id].fits
    lost = {lost.trial: lost.why for lost in one.verdicts[MCU.id].lost}
    assert lost[WIDE].startswith("not tried")


def test_when_the_time_is_up_no_candidate_begins_and_files_are_still_made():
    one = feed(deadline=0.0)
    assert one.next() is None
    assert one.exhausted
    assert {v.why for v in one.verdicts.values()} == {
        "no candidate that counting lets fit was trained to its end"
    }
    late = feed(deadline=0.0)
    late.told(trained(WIDE, 0.9))
    assert late.next().name == f"{WIDE}.files"
    late.told(with_files(WIDE, 0.9, PI, MCU))
    assert late.next() is None
    assert late.exhausted
    assert late.verdicts[PI.id].lost[0].why == "not begun: the time was up"


def test_a_failed_finalist_is_a_lost_one():
    one = feed(targets=(PI,))
    begin_both(one)
    one.told(trained(WIDE, 0.9))
    one.told(Outcome(trial=NARROW, key="", state="failed", why="it broke", seconds=1))
    assert one.next().name == f"{WIDE}.files"
    one.told(
        Outcome(trial=f"{WIDE}.files", key="", state="failed", why="no converter", seconds=1)
    )
    one.next()
    verdict = one.verdicts[PI.id]
    assert not verdict.fits
    assert {lost.trial: lost.why for lost in verdict.lost} == {
        WIDE: "no converter", NARROW: "it broke",
    }  # fmt: skip


def epoch(number, accuracy):
    return Epoch(
        phase="train", epoch=number, task_loss=1, budget_loss=0, accuracy=accuracy,
        pruned_accuracy=accuracy, cost=None, lr=0.1, seconds=1,
    )  # fmt: skip


@pytest.mark.parametrize(("barred", "goes_on"), [((), False), (((WIDE, MCU.id),), True)])
def test_a_network_is_stopped_only_by_those_that_compete_for_its_targets(barred, goes_on):
    one = feed(dict.fromkeys(barred, "no"))
    begin_both(one)
    assert one.epoch(WIDE, epoch(1, 0.9), 9)
    assert one.epoch(NARROW, epoch(1, 0.5), 9) is goes_on


def test_what_is_left_after_compaction_is_counted_again():
    """Pruned weights leave a file as large as before: it is not made to be refused."""
    one = feed(targets=(MCU,))
    begin_both(one)
    big = trained(WIDE, 0.9)
    one.told(big.model_copy(update={"figures": {**big.figures, "whys": {MCU.id: "too big"}}}))
    one.told(trained(NARROW, 0.7))
    assert one.next().name == f"{NARROW}.files"
    one.told(with_files(NARROW, 0.9, MCU))
    assert one.next() is None
    lost = {lost.trial: lost.why for lost in one.verdicts[MCU.id].lost}
    assert lost == {WIDE: "by counting: too big"}


def test_a_target_takes_the_first_of_its_own_ranking_whoever_ends_first():
    one = feed({(WIDE, MCU.id): "too big"})
    begin_both(one)
    one.told(trained(WIDE, 0.95))
    one.told(trained(NARROW, 0.9))
    assert {one.next().name, one.next().name} == {f"{WIDE}.files", f"{NARROW}.files"}
    one.told(with_files(NARROW, 0.9, PI, MCU))
    assert one.next() is None
    assert set(one.verdicts) == {MCU.id}
    one.told(with_files(WIDE, 0.9, PI, MCU))
    assert one.next() is None
    assert one.verdicts[PI.id].trial == f"{WIDE}.files"


def test_what_is_known_from_before_decides_nothing_before_new_candidates_ended():
    one = feed(targets=(PI,))
    one.told(trained(NARROW, 0.8))
    one.told(with_files(NARROW, 0.9, PI))
    assert one.next().name == WIDE
    assert one.next() is None
    assert not one.verdicts
    one.told(trained(WIDE, 0.9))
    assert one.next().name == f"{WIDE}.files"


def stopped(name):
    return Outcome(trial=name, key="", state="stopped", why="others were ahead", seconds=1)


def test_what_was_stopped_is_trained_on_where_nothing_else_is_left():
    one = feed(targets=(MCU,))
    begin_both(one)
    assert one.epoch(WIDE, epoch(1, 0.9), 9)
    assert not one.epoch(NARROW, epoch(1, 0.5), 9)
    one.told(stopped(NARROW))
    one.told(trained(WIDE, 0.9))
    assert one.next().name == f"{WIDE}.files"
    one.told(with_files(WIDE, 0.9))
    assert one.next().name == NARROW
    assert one.epoch(NARROW, epoch(1, 0.5), 9)  # it is not stopped again
    one.told(trained(NARROW, 0.8))
    assert one.next().name == f"{NARROW}.files"
    one.told(with_files(NARROW, 0.9, MCU))
    assert one.next() is None
    assert one.verdicts[MCU.id].trial == f"{NARROW}.files"


def test_a_training_at_its_end_is_not_stopped():
    one = feed(targets=(PI,))
    begin_both(one)
    assert one.epoch(WIDE, epoch(1, 0.9), 1)
    assert one.epoch(NARROW, epoch(1, 0.1), 1)


def test_files_are_never_stopped():
    one = feed()
    assert one.epoch(f"{WIDE}.files", epoch(1, 0.0), 9)
