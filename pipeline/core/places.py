"""The paths in a recipe: where a relative one starts, so that a run resumes from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_FOLDERS = ("image-folder:", "tiny-imagenet:")


def placed(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a recipe's values with absolute paths.

    Paths are target files, that of ``budget.target`` too, ``model.checkpoint``,
    ``train.teacher``, ``data.root``, a folder at ``track.mlflow``, and the one in
    ``image-folder:PATH`` and ``tiny-imagenet:PATH``. What is of another type is left to be
    refused by its check.

    Args:
        values: parsed TOML.
        folder: where a relative path starts.

    >>> placed({"targets": ["raspberry-pi-4b", "own.toml"]}, Path("/recipes"))
    {'targets': ['raspberry-pi-4b', '/recipes/own.toml']}
    """
    found = dict(values)
    if isinstance(found.get("targets"), list):
        found["targets"] = [_target(name, folder) for name in found["targets"]]
    _change(found, "model", "checkpoint", lambda text: _absolute(text, folder))
    _change(found, "budget", "target", lambda text: _target(text, folder))
    _change(found, "train", "teacher", lambda text: _absolute(text, folder))
    _change(found, "track", "mlflow", lambda text: _address(text, folder))
    _change(found, "data", "root", lambda text: _absolute(text, folder))
    _change(found, "data", "name", lambda text: _data(text, folder))
    return found


def is_folder_of_images(name: Any) -> bool:
    """Tell whether the name of a data set ends in the folder that holds its images."""
    return isinstance(name, str) and name.replace("_", "-").startswith(_FOLDERS)


def _change(
    values: dict[str, Any], table: str, key: str, change: Callable[[str], str]
) -> None:
    """Replace one text of a table, if there is one."""
    old = values.get(table)
    if isinstance(old, Mapping) and isinstance(text := old.get(key), str) and text:
        values[table] = {**old, key: change(text)}


def _target(name: Any, folder: Path) -> Any:
    is_file = isinstance(name, str) and Path(name).suffix == ".toml"
    return _absolute(name, folder) if is_file else name


def _address(text: str, folder: Path) -> str:
    return text if "://" in text else _absolute(text, folder)


def _data(name: str, folder: Path) -> str:
    head, _, path = name.partition(":")
    return f"{head}:{_absolute(path, folder)}" if is_folder_of_images(name) and path else name


def _absolute(text: str, folder: Path) -> str:
    """Return a path in full; links stay, for what they lead to may have another suffix."""
    path = Path(text)
    with suppress(RuntimeError):  # a home that nobody has: a plain name then
        path = path.expanduser()
    return str(folder.absolute() / path)
