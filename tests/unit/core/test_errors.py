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


def test_an_unknown_name_lists_what_is_known_in_order():
    assert str(unknown("thing", "zzz", ["b", "a"])) == "no thing named 'zzz'. Known: a, b."
