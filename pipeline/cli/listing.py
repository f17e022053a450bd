"""What `pare list` and the commands on targets print; imports none of what it lists."""

from __future__ import annotations

from pathlib import Path

from pipeline.core import own_targets, plugins
from pipeline.core.errors import PareError
from pipeline.core.recipe import shipped as shipped_recipes
from pipeline.core.target import Target
from pipeline.core.target import shipped as shipped_targets
from pipeline.core.target_review import abilities, oddities

_ROOMS = {
    "methods": plugins.METHODS,
    "models": plugins.MODELS,
    "data": plugins.DATA,
    "quantizers": plugins.QUANTIZERS,
    "exporters": plugins.EXPORTERS,
}


def listing(what: str) -> list[tuple[str, str]]:
    """Return key and help text of everything of one kind."""
    if what == "targets":
        return [(name, Target.load(path).name) for name, path in _shipped()] + _own()
    if what == "recipes":
        return [
            (name, path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# "))
            for name, path in shipped_recipes().items()
        ]
    return [(plugin.key, plugin.help) for plugin in _ROOMS[what].plugins().values()]


def target_lines(name: str) -> list[str]:
    """Return a target as lines: its limits, and every figure with its source."""
    target = Target.load(name)
    lines = [*_title(target), ""]
    for row in target.figures():
        lines.append(f"  {row.key} = {row.value:g} {row.unit}".rstrip())
        lines.append(f"      {row.basis}: {row.source}")
    return lines


def checked_lines(path: Path) -> list[str]:
    """Return what a target file lets pare say, and what in it does not go together.

    Raises:
        PareError: the file is not valid; a line for each problem.
    """
    if path.suffix != ".toml":
        raise PareError(f"{path}: a target is a TOML file. Give the path of one.")
    target = Target.load(path)
    odd = [*oddities(target), *_named(target, path)]
    lines = [f"{path} is valid.", *_title(target)]
    lines += [f"  {line}" for line in abilities(target)]
    return [*lines, *(f"warning: {one}." for one in odd)]


def _title(target: Target) -> list[str]:
    limits = target.constraints
    return [
        f"{target.name} ({target.id}, {target.class_})",
        f"  formats {', '.join(limits.formats)}; dtypes {', '.join(limits.dtypes)}",
    ]


def _named(target: Target, path: Path) -> list[str]:
    """Say where a file in the user's folder would be found by another name than its own."""
    ships = shipped_targets().get(path.stem)
    if ships and ships.resolve() != path.resolve():
        return [f"{path.stem!r} is the name of a target that ships: only the path finds yours"]
    if target.id != path.stem:
        return [
            f"its id is {target.id!r}; in {own_targets.folder()} its name is {path.stem!r}"
        ]
    return []


def _shipped() -> list[tuple[str, Path]]:
    return list(shipped_targets().items())


def _own() -> list[tuple[str, str]]:
    """Return the user's targets, marked; one that can't be read is listed with its reason."""
    found = []
    for name, path in own_targets.own().items():
        if name in shipped_targets():
            found.append((name, f"not found by its name, which is one that ships: {path}"))
            continue
        try:
            found.append((name, f"{Target.load(path).name} [yours: {path}]"))
        except PareError as error:
            found.append((name, f"not valid: {str(error).splitlines()[0]}"))
    return found
