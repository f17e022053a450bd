"""The code a stage runs, found by following its imports: where it changes, so does its key.

Files are parsed, never imported. Followed are the imports of this package at the top of a
file and inside its functions; a room whose plug-ins a file loads by name counts whole.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

from pipeline.core import plugins
from pipeline.core.plugins import Room
from pipeline.core.record import digest

_PACKAGE = Path(__file__).parent.parent

#: They show what stages left, and no stage runs them.
_ROOMS_ABOVE = ("cli", "report")

#: They say in which order stages run, not what any of them computes.
_FRAME = ("__init__.py", "stages/__init__.py", "stages/runner.py")


@cache
def code(stage: str, package: Path = _PACKAGE) -> str:
    """Return the digest of every file that a stage can run.

    It is made once a process: what was imported does not change with the file.

    Args:
        stage: its name, also that of its file.
        package: folder of the package.
    """
    return digest({_name(path, package): _text(path) for path in sources(stage, package)})


def sources(stage: str, package: Path = _PACKAGE) -> list[Path]:
    """Return the files that a stage can run, sorted."""
    found: set[Path] = set()
    waiting = {package / "stages" / f"{stage}.py"}
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= _imported(path, package) - found
    return sorted(found)


@cache
def _imported(path: Path, package: Path) -> frozenset[Path]:
    """Return the files of the package that a file imports, or loads plug-ins from."""
    here = ".".join((package.name, *path.relative_to(package).parts[:-1]))
    found: set[Path] = set()
    for node in _imports(ast.parse(_text(path))):
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), here)
            if module == plugins.__name__:
                found |= _plugged_in(names, package)
            names = [module, *(f"{module}.{name}" for name in names)]
        for name in names:
            found |= _files(name, package)
    return frozenset(file for file in found if _counts(_name(file, package)))


def _imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that can run: those for the type checker alone never do."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += [
                child
                for child in ast.iter_child_nodes(node)
                if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case)
            ]


def _plugged_in(names: list[str], package: Path) -> set[Path]:
    rooms = [room for name in names if isinstance(room := getattr(plugins, name, None), Room)]
    return {file for room in rooms for file in (package / room.folder).rglob("*.py")}


def _files(module: str, package: Path) -> set[Path]:
    """Return a module's file and those of the packages around it, as far as they exist."""
    first, *parts = module.split(".")
    if first != package.name:
        return set()
    folders = [package.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    places = [folder / "__init__.py" for folder in folders]
    if parts:
        places.append(package.joinpath(*parts).with_suffix(".py"))
    return {place for place in places if place.is_file()}


def _counts(name: str) -> bool:
    return name not in _FRAME and name.partition("/")[0] not in _ROOMS_ABOVE


def _name(path: Path, package: Path) -> str:
    return path.relative_to(package).as_posix()


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
