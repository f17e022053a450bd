"""Frozen records with strict keys, and validation errors a user can act on."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.core.errors import PareError, did_you_mean


class Record(BaseModel):
    """Base of everything that travels: frozen, no unknown keys, JSON both ways."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


R = TypeVar("R", bound=BaseModel)

#: What is wanted where pydantic's own words are those of a programmer.
_WANTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number is wanted"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number is wanted"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false is wanted"),
    "finite_number": "a finite number is wanted",
    "dict_type": "a table is wanted",
}


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON-able value, independent of the order of its keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        PareError: the file is missing, unreadable or not TOML; names the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PareError(f"no file at {path}. Check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PareError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise PareError(f"cannot read {path}: {error.strerror}.") from None


def parse(model: type[R], values: Mapping[str, Any], where: str) -> R:
    """Validate ``values`` into a record.

    Args:
        model: the record's class.
        values: parsed TOML or JSON.
        where: what the values came from, as the user knows it (a file's path).

    Raises:
        PareError: a key is unknown ("did you mean") or a value is not allowed; the
            message names the place, the key, the value and what is allowed.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = [_sentence(model, issue) for issue in error.errors()]
        raise PareError(f"{where}: " + f"\n{where}: ".join(lines)) from None


def _sentence(model: type[BaseModel], issue: Any) -> str:
    """Turn one pydantic issue into a sentence in the user's words."""
    loc = tuple(part for part in issue["loc"])
    key = ".".join(str(part) for part in loc)
    if issue["type"] == "extra_forbidden":
        known = _keys_at(model, loc[:-1])
        hint = did_you_mean(str(loc[-1]), known)
        if not known and len(loc) == 1:
            return f"unknown key {key!r}. It takes no options."
        return f"unknown key {key!r}. {hint}Known here: {', '.join(sorted(known))}."
    if issue["type"] == "missing":
        return f"key {key!r} is missing."
    message = _in_plain_words(model, issue)
    if not key:
        return f"{message}."
    return f"{key} = {_shown(issue['input'])}: {message}."


def _in_plain_words(model: type[BaseModel], issue: Any) -> str:
    """Say what is allowed; pydantic's own words are kept where they are plain."""
    kind, value = issue["type"], issue["input"]
    if kind == "model_type":
        keys = ", ".join(sorted(_keys_at(model, issue["loc"])))
        return "this is a table" + (f"; its keys: {keys}" if keys else "")
    if kind in ("list_type", "tuple_type"):
        return "a list is wanted" + (f": {json.dumps([value])}" if _is_plain(value) else "")
    if kind == "string_type":
        return "a text is wanted" + (f': "{value}"' if _is_plain(value) else "")
    if kind == "literal_error":
        return f"choose {issue['ctx']['expected']}"
    message = _WANTED.get(kind) or str(issue["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _keys_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Return the keys allowed in the table at ``path`` below ``model``."""
    for part in path:
        if isinstance(part, int):
            continue
        field = next(
            (f for name, f in model.model_fields.items() if part in (name, f.alias)), None
        )
        inner = _record_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _record_in(annotation: Any) -> type[BaseModel] | None:
    """Find the record inside ``X``, ``X | None``, ``list[X]`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, list, tuple, dict):
        found = (_record_in(arg) for arg in get_args(annotation))
        return next((model for model in found if model), None)
    return None
