"""What every quantization scheme promises, over the room's own listing."""

from __future__ import annotations

from typing import get_args

import pytest

from pipeline.core.errors import PareError
from pipeline.core.plan import Demand, SchemePlan
from pipeline.core.plugins import QUANTIZERS
from pipeline.core.target import Dtype

KEYS = sorted(QUANTIZERS.plugins())
FORMATS = {"onnx", "tflite"}


def test_the_listing_is_known() -> None:
    assert {"dynamic_range", "float16", "float32", "int8"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
class TestScheme:
    def test_states_its_facts(self, key: str) -> None:
        scheme, _ = QUANTIZERS.load(key)
        assert QUANTIZERS.plugins()[key].help
        assert isinstance(scheme.DTYPE, str)
        assert set(scheme.FORMATS) <= FORMATS
        assert scheme.FORMATS
        assert isinstance(scheme.NEEDS_CALIBRATION, bool)

    def test_plans_each_of_its_formats(self, key: str) -> None:
        scheme, _ = QUANTIZERS.load(key)
        for file_format in scheme.FORMATS:
            for granularity in (None, "per-channel", "per-tensor"):
                plan = scheme.plan(file_format, Demand(granularity=granularity))
                assert isinstance(plan, SchemePlan)
                assert (plan.format, plan.scheme) == (file_format, key)
                assert plan.dtype == scheme.DTYPE
                assert plan.why
                assert plan.is_calibrated == scheme.NEEDS_CALIBRATION
                assert (plan.method is not None) == scheme.NEEDS_CALIBRATION

    def test_refuses_every_other_format(self, key: str) -> None:
        scheme, _ = QUANTIZERS.load(key)
        for file_format in {*FORMATS, "coreml"} - set(scheme.FORMATS):
            with pytest.raises(PareError, match=f"cannot be written as '{file_format}'"):
                scheme.plan(file_format)


def test_no_two_schemes_share_a_word() -> None:
    words = [QUANTIZERS.load(key)[0].DTYPE for key in KEYS]
    assert sorted(words) == sorted(get_args(Dtype))
