from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from pipeline.core.errors import PareError
from pipeline.core.record import Record, digest, parse, read_toml


class Inner(Record):
    width: int = Field(default=1, ge=1)


class Outer(Record):
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field(default_factory=dict)


def refusal(values):
    with pytest.raises(PareError) as caught:
        parse(Outer, values, "own.toml")
    return str(caught.value)


def test_a_good_table_becomes_a_record():
    assert parse(Outer, {"name": "a", "inner": {"width": 3}}, "own.toml").inner.width == 3


def test_a_record_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Inner().width = 2


@pytest.mark.parametrize("key", ["inner", "maybe"])
def test_an_unknown_key_of_a_nested_table_is_refused_with_the_nearest(key):
    assert refusal({"name": "a", key: {"widht": 3}}) == (
        f"own.toml: unknown key '{key}.widht'. Did you mean 'width'? Known here: width."
    )


@pytest.mark.parametrize(
    ("values", "key"), [({"many": [{"w": 1}]}, "many.0.w"), ({"named": {"x": {"w": 1}}}, None)]
)
def test_keys_are_known_in_lists_and_named_tables(values, key):
    message = refusal({"name": "a", **values})
    assert "unknown key" in message
    if key:
        assert f"'{key}'. Known here: width." in message


def test_a_missing_key_is_named():
    assert refusal({}) == "own.toml: key 'name' is missing."


def test_a_wrong_value_is_named_with_what_is_allowed():
    assert refusal({"name": "a", "inner": {"width": 0}}) == (
        "own.toml: inner.width = 0: input should be greater than or equal to 1."
    )


class Kinds(Record):
    whole: int = 1
    number: float = 1.0
    switch: bool = True
    text: str = ""
    several: list[str] = Field(default_factory=list)
    pair: tuple[float, ...] = ()
    one_of: Literal["a", "b"] = "a"
    inner: Inner = Inner()
    named: dict[str, Inner] = Field(default_factory=dict)


class Nothing(Record):
    pass


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("whole", "x", "whole = 'x': a whole number is wanted."),
        ("whole", 1.5, "whole = 1.5: a whole number is wanted."),
        ("whole", [1], "whole = [1]: a whole number is wanted."),
        ("number", "x", "number = 'x': a number is wanted."),
        ("number", [], "number = []: a number is wanted."),
        ("number", float("nan"), "number = nan: a finite number is wanted."),
        ("switch", "maybe", "switch = 'maybe': true or false is wanted."),
        ("switch", [], "switch = []: true or false is wanted."),
        ("text", 3, 'text = 3: a text is wanted: "3".'),
        ("several", "pi", "several = 'pi': a list is wanted: [\"pi\"]."),
        ("several", {}, "several = {}: a list is wanted."),
        ("pair", 0.5, "pair = 0.5: a list is wanted: [0.5]."),
        ("one_of", "c", "one_of = 'c': choose 'a' or 'b'."),
        ("inner", 0.5, "inner = 0.5: this is a table; its keys: width."),
        ("named", 1, "named = 1: a table is wanted."),
    ],
)
def test_a_value_of_another_type_is_refused_in_plain_words(key, value, message):
    with pytest.raises(PareError) as caught:
        parse(Kinds, {key: value}, "own.toml")
    assert str(caught.value) == f"own.toml: {message}"


def test_what_takes_no_options_says_so():
    with pytest.raises(PareError) as caught:
        parse(Nothing, {"mixing": 1}, "method 'dense'")
    assert str(caught.value) == "method 'dense': unknown key 'mixing'. It takes no options."


def test_every_problem_gets_its_own_line():
    assert len(refusal({"inner": {"width": 0}, "nme": 1}).splitlines()) == 3


def test_a_long_value_is_cut():
    assert "..." in refusal({"name": ["x" * 200]})


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), min_size=2))
def test_the_digest_ignores_the_order_of_keys_and_sees_values(values):
    assert digest(dict(reversed(values.items()))) == digest(values)
    key = next(iter(values))
    assert digest({**values, key: [values[key]]}) != digest(values)


@given(st.integers(min_value=1), st.text())
def test_a_record_survives_json(width, name):
    record = Outer(name=name, inner=Inner(width=width), many=(Inner(width=2),))
    assert Outer.model_validate_json(record.model_dump_json()) == record


def test_toml_is_read(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("a = 1")
    assert read_toml(path) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a = =\n", "not valid TOML: .*line 1"), (b"a = '\xff'", "not valid TOML")],
)
def test_what_is_not_toml_is_refused(tmp_path, content, message):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(PareError, match=message):
        read_toml(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(PareError, match=r"no file at .*none\.toml\. Check the path"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(PareError, match=r"cannot read .*: Is a directory"):
        read_toml(tmp_path)
