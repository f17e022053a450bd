import pytest

from pipeline.core.errors import PareError
from pipeline.core.target import Target
from pipeline.core.wanted import Wanted, batch, wanted


def target(name, **constraints):
    return Target.model_validate(
        {
            "schema": "edge-target/1",
            "id": name,
            "name": name,
            "class": "sbc",
            "platform": {"os": "linux"},
            "constraints": {
                "basis": "assumed",
                "source": "test",
                "formats": ["onnx"],
                "dtypes": ["fp32"],
                **constraints,
            },
        }
    )


def test_without_a_target_everything_is_wanted():
    assert len(wanted([])) == 2 * 4


def test_each_file_is_wanted_once_in_a_fixed_order():
    one = target("one", formats=["tflite", "onnx"], dtypes=["int8", "fp32"])
    two = target("two", formats=["onnx"], dtypes=["fp32"])
    expected = [("onnx", "fp32"), ("onnx", "int8"), ("tflite", "fp32"), ("tflite", "int8")]
    assert [(w.format, w.dtype) for w in wanted([one, two])] == expected
    assert wanted([two, one]) == wanted([one, two])


def test_a_target_that_takes_one_granularity_decides():
    strict = target("strict", dtypes=["int8"], int8_granularity=["per-tensor"])
    easy = target("easy", dtypes=["int8"], int8_granularity=["per-channel", "per-tensor"])
    assert wanted([easy, strict]) == [
        Wanted(format="onnx", dtype="int8", granularity="per-tensor")
    ]
    assert wanted([easy])[0].granularity is None


def test_two_targets_that_cannot_share_a_file_are_refused():
    one = target("one", dtypes=["int8"], int8_granularity=["per-tensor"])
    two = target("two", dtypes=["int8"], int8_granularity=["per-channel"])
    with pytest.raises(PareError, match=r"targets one and two ask for different .* Run them"):
        wanted([one, two])


def test_of_another_format_they_can():
    one = target("one", dtypes=["int8"], int8_granularity=["per-tensor"])
    two = target("two", formats=["tflite"], dtypes=["int8"], int8_granularity=["per-channel"])
    assert [w.granularity for w in wanted([one, two])] == ["per-tensor", "per-channel"]


def test_the_batch_is_fixed_where_a_target_asks():
    assert batch([]) == 1
    assert batch([target("free")]) is None
    assert batch([target("free"), target("fixed", static_shapes=True)]) == 1
    assert batch([target("four", static_shapes=True, batch=4)]) == 4
