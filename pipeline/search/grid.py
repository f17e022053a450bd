"""A grid of trials: every combination of the values, each with several seeds."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.core.errors import PareError
from pipeline.core.recipe import Recipe, value_of
from pipeline.core.record import digest
from pipeline.search.trial import Trial

_LONGEST = 100  # signs of a name; file systems take 255 with what is added to it
MAX_TRIALS = 10_000  # a slip of the keyboard must not fill a disk

Axis = tuple[str, tuple[str, ...]]


def axes(texts: Sequence[str]) -> list[Axis]:
    """Read ``key=value,value,...`` into keys with their values, as they are written.

    Commas inside brackets, braces and quotes belong to the value.

    Raises:
        PareError: not of that form, a key twice, or a value twice.

    >>> axes(["budget.weights=0.1,0.05", "profile.threads=[1],[1, 2]"])
    [('budget.weights', ('0.1', '0.05')), ('profile.threads', ('[1]', '[1, 2]'))]
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, rest = text.partition("=")
        values = tuple(value.strip() for value in _split(rest))
        if not equals or not key.strip() or not all(values):
            raise PareError(f"--grid {text!r} is not of the form table.key=value,value,...")
        if key.strip() in found:
            raise PareError(
                f"--grid names {key.strip()} twice. Give all of its values at once."
            )
        if len(set(values)) < len(values):
            raise PareError(f"--grid {text!r} names a value twice.")
        found[key.strip()] = values
    return list(found.items())


def trials(
    source: str | Path,
    grid: Sequence[Axis],
    seeds: int,
    *,
    overrides: Sequence[str] = (),
    until: str | None = None,
) -> list[Trial]:
    """Return every combination of the grid, all seeds of one before the next.

    Args:
        source: of the recipe, as ``Recipe.load`` takes it.
        grid: of :func:`axes`.
        seeds: runs of each combination; they begin at the recipe's own seed.
        overrides: of all trials.
        until: last stage of each.

    Raises:
        PareError: too many, or one that the recipe refuses; it is named.
    """
    if seeds > 1 and "seed" in dict(grid):
        raise PareError("--grid names seed, and --seeds counts them. Leave one of them out.")
    count = seeds
    for _, values in grid:
        count *= len(values)
    if count > MAX_TRIALS:
        raise PareError(f"the grid asks for {count:,} runs; {MAX_TRIALS:,} are the limit.")
    found = list(_combined(source, grid, seeds, list(overrides), until))
    _demand_different(found)
    names = Counter(trial.name for trial in found)
    if twice := [name for name, times in names.items() if times > 1]:
        raise PareError(
            f"{names[twice[0]]} trials of the grid would share the folder {twice[0]!r}: their "
            "values differ in signs that no folder has. Run them apart."
        )
    return found


def _demand_different(trials: Sequence[Trial]) -> None:
    """Refuse two trials that are one.

    Raises:
        PareError: names both.
    """
    known: dict[str, str] = {}
    for trial in trials:
        recipe = digest(trial.recipe.model_dump(mode="json"))
        other = known.setdefault(recipe, trial.name)
        if other != trial.name:
            raise PareError(
                f"the trials {other} and {trial.name} of the grid are the same recipe. Leave "
                "one of the values out."
            )


def _combined(
    source: str | Path,
    grid: Sequence[Axis],
    seeds: int,
    overrides: list[str],
    until: str | None,
) -> Iterator[Trial]:
    first = Recipe.load(source, overrides).seed
    numbered = len(str(first + seeds - 1))
    for values in itertools.product(*(values for _, values in grid)):
        texts = [f"{key}={value}" for (key, _), value in zip(grid, values, strict=True)]
        settings = {key: value_of(v) for (key, _), v in zip(grid, values, strict=True)}
        for seed in range(first, first + seeds):
            more = [*texts, f"seed={seed}"] if seeds > 1 else texts
            recipe = _load(source, [*overrides, *more])
            name = _name([*texts, *([f"seed={seed:0{numbered}}"] if seeds > 1 else [])])
            own = {**settings, "seed": seed} if seeds > 1 else settings
            yield Trial(name=name, settings=own, recipe=recipe, until=until)


def _load(source: str | Path, overrides: list[str]) -> Recipe:
    try:
        return Recipe.load(source, overrides)
    except PareError as error:
        raise PareError(
            f"the trial with {', '.join(overrides) or 'no change'}: {error}"
        ) from error


def _split(text: str) -> list[str]:
    """Split at the commas that are in no bracket, brace or quote.

    >>> _split('1,"a,b",[2, 3]'), _split("1,")
    (['1', '"a,b"', '[2, 3]'], ['1', ''])
    """
    parts, depth, quoted = [""], 0, False
    for sign in text:
        quoted ^= sign == '"'
        depth += (sign in "[{") - (sign in "]}")
        if sign == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _name(texts: Sequence[str]) -> str:
    """Write settings as the name of a folder, the tables of the keys left out.

    >>> _name(["train.method=reparam", "data.name=image-folder:a/b"])
    'method=reparam,name=image-folder-a-b'
    """
    parts = (text.partition("=") for text in texts)
    short = (f"{key.rpartition('.')[2]}={value}" for key, _, value in parts)
    name = re.sub(r"[^A-Za-z0-9._=,-]+", "-", ",".join(short)).strip("-") or "run"
    if len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}-{digest([*texts])[:8]}"
