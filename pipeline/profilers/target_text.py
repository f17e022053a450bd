"""Write calibrations into a target's TOML file; every other byte stays as it was."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from typing import Any

import tomli_w

from pipeline.core.errors import PareError
from pipeline.core.record import parse
from pipeline.core.target import Calibration, Target

_HEADER = re.compile(r"\s*\[\[?[\w.\"' -]+\]\]?\s*(#.*)?$")
_CALIBRATION = re.compile(r"\s*\[\[\s*calibration\s*\]\]")
_KEY = ("runtime", "version", "dtype", "threads")


def with_calibrations(text: str, rows: Sequence[Calibration], where: str) -> str:
    """Return a target file's text with calibrations replaced or added.

    A calibration replaces the one of the same runtime, version, dtype and threads, if there
    is one. New ones follow the last one there is, or end the file.

    Args:
        text: of a target file.
        rows: no two of the same runtime, version, dtype and threads.
        where: what the text is from, for messages.

    Raises:
        PareError: the text is no target, or writes its calibrations in another way than as
            ``[[calibration]]`` tables.
    """
    before = _parsed(text, where)
    parse(Target, before, where)
    kept = list(before.get("calibration", ()))
    lines = text.split("\n")
    ending = "\r" if lines[0].endswith("\r") else ""
    for row in rows:
        blocks = _blocks(lines)
        if len(blocks) != len(kept):
            raise _unusual(where)
        place = _same(kept, row)
        block = [line + ending for line in _block(row)]
        if place is not None:
            first, end = blocks[place]
            kept[place] = _plain(row)
            lines = lines[:first] + block + lines[end:]
        else:
            end = blocks[-1][1] if blocks else _end(lines)
            kept.append(_plain(row))
            lines = [*lines[:end], ending, *block, *lines[end:]]
    result = "\n".join(lines)
    if _parsed(result, where) != {**before, "calibration": kept}:
        raise _unusual(where)
    parse(Target, _parsed(result, where), where)
    return result


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PareError(f"{where} is not valid TOML: {error}") from None


def _unusual(where: str) -> PareError:
    return PareError(
        f"{where} writes its calibrations in a way that can't be extended. Write each as a "
        "table that starts with a line [[calibration]]."
    )


def _blocks(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Return where each calibration's lines start and end.

    Comments and blank lines before the next header belong to what follows.
    """
    headers = [i for i, line in enumerate(lines) if _HEADER.match(line)]
    found = []
    for first, following in zip(headers, [*headers[1:], len(lines)], strict=True):
        if _CALIBRATION.match(lines[first]):
            found.append((first, _end(lines[:following])))
    return found


def _end(lines: Sequence[str]) -> int:
    """Return the place behind the last line that says something."""
    telling = [i for i, line in enumerate(lines) if line.strip() and line.strip()[0] != "#"]
    return telling[-1] + 1 if telling else len(lines)


def _same(kept: Sequence[dict[str, Any]], row: Calibration) -> int | None:
    key = [getattr(row, name) for name in _KEY]
    for place, other in enumerate(kept):
        if [other.get(name) for name in _KEY] == key:
            return place
    return None


def _plain(row: Calibration) -> dict[str, Any]:
    """Return a calibration as the file says it: what is known, and no defaults."""
    order = (*_KEY, "r_gmac_s", "b_gb_s", "overhead_us", "n_models", "loo_mape_pct")
    known = row.model_dump(exclude_none=True, exclude_defaults=True)
    first = {name: known[name] for name in order if name in known}
    return first | known


def _block(row: Calibration) -> list[str]:
    written = tomli_w.dumps(_plain(row)).rstrip("\n").split("\n")
    return ["[[calibration]]", *written]
