"""Calibrations in a target's text: replaced or added, every other byte as it was."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import PareError
from pipeline.core.target import Calibration, Target, shipped
from pipeline.profilers.target_text import with_calibrations

TEXTS = {name: path.read_text(encoding="utf-8") for name, path in shipped().items()}
PI = TEXTS["raspberry-pi-4b"]


def rates(version="2.3.0", threads=4, dtype="fp32", **more):
    values = {"r_gmac_s": 12.5, "b_gb_s": 2.5, "n_models": 3, "source": "pare profile"}
    return Calibration(
        runtime="xnnpack", version=version, dtype=dtype, threads=threads, basis="fitted",
        **(values | more),
    )  # fmt: skip


def load(text, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8", newline="")
    return Target.load(path)


def test_there_are_targets_to_test_with():
    assert len(TEXTS) >= 3


@pytest.mark.parametrize("name", TEXTS)
def test_a_new_calibration_is_added_and_nothing_else_changes(name, tmp_path):
    text = with_calibrations(TEXTS[name], [rates()], name)
    before = Target.load(name)
    after = load(text, tmp_path)
    assert after.calibration == (*before.calibration, rates())
    assert after.model_copy(update={"calibration": ()}) == before.model_copy(
        update={"calibration": ()}
    )
    old, new = TEXTS[name].split("\n"), text.split("\n")
    added = len(new) - len(old)
    pairs = enumerate(zip(old, new, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), len(old))
    assert new[:start] + new[start + added :] == old


@pytest.mark.parametrize("name", TEXTS)
def test_a_calibration_of_the_same_conditions_is_replaced(name, tmp_path):
    once = with_calibrations(TEXTS[name], [rates()], name)
    twice = with_calibrations(once, [rates(r_gmac_s=99.0)], name)
    assert twice == once.replace("r_gmac_s = 12.5\n", "r_gmac_s = 99.0\n")
    assert with_calibrations(twice, [rates()], name) == once


def test_a_published_calibration_is_replaced_where_it_stands(tmp_path):
    text = with_calibrations(PI, [rates(version=None)], "pi")
    assert load(text, tmp_path).calibration[0] == rates(version=None)
    head, tail = PI.split('[[calibration]]\nruntime = "xnnpack"\ndtype = "fp32"')
    assert text.startswith(head)
    assert text.endswith(tail[tail.index("\n\n[[calibration]]") :])


def test_several_are_written_at_once(tmp_path):
    new = [rates(version=None), rates(threads=1), rates(dtype="int8")]
    found = load(with_calibrations(PI, new, "pi"), tmp_path).calibration
    assert found == (new[0], Target.load("raspberry-pi-4b").calibration[1], *new[1:])


def test_a_target_without_any_gets_its_first_at_the_end(tmp_path):
    parts = PI.split("[[calibration]]")
    bare = parts[0] + parts[-1][parts[-1].index("[budgets]\nbasis") :]
    text = with_calibrations(bare, [rates()], "bare")
    assert text.startswith(bare.rstrip("\n"))
    assert load(text, tmp_path).calibration == (rates(),)


def test_comments_of_what_follows_stay_with_it():
    commented = PI.replace("\n[budgets]", "\n# what the product grants\n[budgets]")
    text = with_calibrations(commented, [rates()], "pi")
    assert "\n\n# what the product grants\n[budgets]" in text
    assert 'source = "pare profile"\n\n# what' in text


def test_windows_line_ends_are_kept(tmp_path):
    text = with_calibrations(PI.replace("\n", "\r\n"), [rates()], "pi")
    assert text.count("\n") == text.count("\r\n")
    assert load(text, tmp_path).calibration[-1] == rates()


@given(st.text(min_size=1, max_size=80))
def test_any_words_of_a_source_survive(source):
    row = rates(source=source)
    text = with_calibrations(PI, [row], "pi")
    assert tomllib.loads(text)["calibration"][-1]["source"] == source
    assert with_calibrations(text, [row], "pi") == text


def test_headers_inside_a_text_are_not_taken_for_tables():
    tricky = PI.replace(
        'name = "Raspberry Pi 4 Model B"', 'name = """Pi\n[[calibration]]\nfour"""'
    )
    with pytest.raises(PareError, match="in a way that can't be extended"):
        with_calibrations(tricky, [rates()], "tricky.toml")


def test_calibrations_written_in_a_line_are_refused():
    start, end = PI.index("[[calibration]]"), PI.index("[budgets]\nbasis")
    keys = 'runtime = "xnnpack", dtype = "fp32", r_gmac_s = 1, b_gb_s = 1'
    inline = f'calibration = [{{{keys}, basis = "fitted", source = "s"}}]'
    text = PI[:start] + PI[end:]
    text = text.replace('class = "sbc"', f'class = "sbc"\n{inline}')
    with pytest.raises(PareError, match=r"own\.toml writes its calibrations in a way"):
        with_calibrations(text, [rates()], "own.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[", "own.toml is not valid TOML"), ('schema = "x"', "own.toml: ")],
)
def test_what_is_no_target_is_refused(text, message):
    with pytest.raises(PareError, match=message):
        with_calibrations(text, [rates()], "own.toml")
