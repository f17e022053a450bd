import pytest

from pipeline.core.errors import Interrupted, OverBudget, PareError, did_you_mean, unknown


@pytest.mark.parametrize(
    ("kind", "code"), [(PareError, 2), (OverBudget, 3), (Interrupted, 130)]
)
def test_each_error_has_its_exit_code(kind, code):
    assert issubclass(kind, PareError)
    assert kind("x").exit_code == code


def test_the_nearest_name_is_offered_and_a_far_one_is_not():
    assert did_you_mean("resnet08", ["resnet8", "vgg16"]) == "Did you mean 'resnet8'? "
    assert did_you_mean("zzz", ["resnet8", "vgg16"]) == ""


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("rasp", "'raspberry-pi-4b' or 'raspberry-pi-5'"),
        ("Cam", "'camera-b' or 'smart-camera'"),  # those that start with it come first
        ("pi", "'raspberry-pi-4b' or 'raspberry-pi-5'"),
        ("r", None),
        ("", None),
        ("raspy", None),
    ],
)
def test_a_part_of_a_name_offers_those_that_hold_it(name, offered):
    known = ["smart-camera", "raspberry-pi-5", "raspberry-pi-4b", "camera-b"]
    assert did_you_mean(name, known) == (f"Did you mean {offered}? " if offered else "")


def test_a_part_of_many_names_offers_three():
    known = [f"a-rather-long-name-{n}" for n in range(5)]
    assert did_you_mean("name", known).count("'a-rather-long-name-") == 3


def test_an_unknown_name_lists_what_is_known_in_order():
    assert str(unknown("thing", "zzz", ["b", "a"])) == "no thing named 'zzz'. Known: a, b."
