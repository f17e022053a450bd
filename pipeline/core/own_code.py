"""The user's own code: the files a module runs, found by following its imports.

Files are parsed, never imported. What is installed is followed inside of its own package
only: its other imports change with an installation, not from one run to the next.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

_PARE = __name__.partition(".")[0]
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def importable_from_here() -> None:
    """Let the user's own ``package.module:name`` be found in the current folder."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def own_files(module: str, origin: Path) -> list[Path]:
    """Return a module's file and those it imports from the folder it is found in, sorted.

    Args:
        module: its name, such as ``package.module``.
        origin: its file.
    """
    if not origin.is_file():  # built into Python
        return []
    depth = module.count(".") + (origin.name == "__init__.py")
    root = origin.parents[depth]
    only = module.partition(".")[0] if _INSTALLED & {*root.parts} else None
    found: set[Path] = set()
    waiting = {origin, *_files(module, root)}
    while waiting:
        path = waiting.pop()
        found.add(path)
        names = [n for n in _imported(path, root) if _is_own(n.partition(".")[0], only)]
        waiting |= {file for name in names for file in _files(name, root)} - found
    return sorted(found)


def _is_own(package: str, only: str | None) -> bool:
    """Leave this package out: what a stage runs of it is part of the stage's key."""
    return package != _PARE and only in (None, package)


def _imported(path: Path, root: Path) -> Iterator[str]:
    """Yield the full names of what a file imports; a name may be a module or in one."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # no Python, or broken: its import says so
        return
    here = ".".join(path.relative_to(root).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _full_name(node, here)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _full_name(node: ast.ImportFrom, here: str) -> str:
    try:
        return resolve_name("." * node.level + (node.module or ""), here)
    except ImportError:  # more dots than folders: its import says so
        return ""


def _files(module: str, root: Path) -> set[Path]:
    """Return a module's file and those of the packages around it, as far as they exist."""
    parts = [part for part in module.split(".") if part]
    if not parts:
        return set()
    folders = [root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    places = [folder / "__init__.py" for folder in folders]
    places.append(folders[-1].with_name(f"{folders[-1].name}.py"))
    return {place for place in places if place.is_file()}
