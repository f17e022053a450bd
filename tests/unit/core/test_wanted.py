import pytest

from pipeline.core.errors import PareError
from pipeline.core.target import Platform, Target
from pipeline.core.wanted import batch, opset, wanted


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


def test_a_target_gets_the_granularity_it_asks_for_first():
    strict = target("strict", dtypes=["int8"], int8_granularity=["per-tensor"])
    easy = target("easy", dtypes=["int8"])
    both = target("both", dtypes=["int8"], int8_granularity=["per-channel", "per-tensor"])
    assert granularities([easy, strict]) == ["per-tensor", None]
    assert granularities([easy]) == [None]
    assert granularities([both, strict, easy]) == ["per-channel", "per-tensor"]


def granularities(targets):
    return [w.demand.granularity for w in wanted(targets)]


def test_of_two_formats_each_target_gets_its_own():
    one = target("one", dtypes=["int8"], int8_granularity=["per-tensor"])
    two = target("two", formats=["tflite"], dtypes=["int8"], int8_granularity=["per-channel"])
    assert granularities([one, two]) == ["per-tensor", "per-channel"]


def test_the_border_of_a_tflite_file_is_one_that_the_target_takes():
    def border(*io_dtypes, formats=("tflite",)):
        asked = target("t", formats=[*formats], dtypes=["int8"], io_dtypes=[*io_dtypes])
        return wanted([asked])[0].demand.io_dtype

    assert border("float32", "int8") == "int8"
    assert border("float32", "uint8") == "uint8"
    assert border("float32") == "float32"
    assert border("float16") is None
    assert border("float32", formats=("onnx",)) is None


def test_the_processor_decides_what_it_multiplies():
    x86 = target("x86", dtypes=["int8"]).model_copy(update={"platform": platform("amd64")})
    arm = target("arm", dtypes=["int8"]).model_copy(update={"platform": platform("arm64")})
    assert [w.demand.activations for w in wanted([arm, x86])] == ["int8", "uint8"]
    assert wanted([target("unknown", dtypes=["int8"])])[0].demand.activations is None


def platform(arch):
    return Platform(os="linux", arch=arch)


def test_what_is_wanted_beside_the_targets_is_made_in_their_formats():
    made = wanted([target("one", formats=["tflite"])], ["int16x8", "fp32"])
    assert [(w.format, w.dtype) for w in made] == [("tflite", "fp32"), ("tflite", "int16x8")]


def test_the_opset_is_one_that_every_runtime_knows():
    def with_version(version):
        runtime = {
            "name": "onnxruntime",
            "version": version,
            "threads": [1],
            "default_threads": 1,
        }
        values = target("t").model_dump(by_alias=True) | {"runtimes": [runtime]}
        return Target.model_validate(values)

    assert opset([with_version("1.31.1")], 18) == 18
    assert opset([with_version("1.13.0"), with_version("1.31.1")], 18) == 17
    assert opset([with_version("1.14.1")], 20) == 18
    assert opset([with_version(None)], 20) == 20
    assert opset([], 18) == 18


def test_the_batch_is_fixed_where_a_target_asks():
    assert batch([]) == 1
    assert batch([target("free")]) is None
    assert batch([target("free"), target("fixed", static_shapes=True)]) == 1
    assert batch([target("four", static_shapes=True, batch=4)]) == 4


def test_no_two_files_share_a_name():
    from itertools import product

    from pipeline.quantizers.int8 import Int8

    choices = product(
        (None, ["per-tensor"], ["per-channel"], ["per-channel", "per-tensor"]),
        (None, ["int8"], ["uint8"], ["float32"], ["float32", "int8"]),
        (None, "arm64", "amd64"),
    )
    kinds = [
        target(
            f"t{number}", formats=["onnx", "tflite"], dtypes=["int8"],
            int8_granularity=grain, io_dtypes=io,
        ).model_copy(update={"platform": platform(arch)})
        for number, (grain, io, arch) in enumerate(choices)
    ]  # fmt: skip
    for pair in product(kinds, repeat=2):
        names = [Int8.plan(w.format, w.demand).file_name for w in wanted(pair)]
        assert len(names) == len(set(names)), [one.constraints for one in pair]


def test_batches_that_differ_are_refused():
    four = target("four", static_shapes=True, batch=4)
    with pytest.raises(PareError, match=r"targets four and one ask for different batches"):
        batch([four, target("one", static_shapes=True)])
    assert batch([four, target("free")]) == 4
    assert batch([target("three", batch=3)]) == 3
