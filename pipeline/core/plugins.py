"""The listing is the registry: what a room offers is what its folder holds.

A file's name is its key and the first line of its docstring its help text. Listing
parses the files and never imports them; only the plug-in asked for is loaded. Third
parties add theirs by entry points of the group ``pare.<room>`` or by writing
``package.module:name`` in the recipe.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pipeline.core.errors import PareError, did_you_mean, unknown

_PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Plugin:
    """One listed thing: its key, its help text and where it is."""

    key: str
    help: str
    module: str
    name: str


@dataclass(frozen=True)
class Room:
    """A family of plug-ins, one folder of the package.

    Attributes:
        folder: the folder's name below ``pipeline/``, also the entry-point group.
        kind: the word for one of them in messages.
        functions: the keys are the public functions of the files (models), instead of
            the files themselves, which then stand for their one public class.
        prefix: leading part of the file names that is not part of the key.
    """

    folder: str
    kind: str
    functions: bool = False
    prefix: str = ""

    def plugins(self) -> dict[str, Plugin]:
        """List what the room offers, by key, without importing any of it."""
        found = {}
        for path in sorted((_PACKAGE / self.folder).glob(f"{self.prefix}[a-z]*.py")):
            for plugin in self._in_file(path):
                found[plugin.key] = plugin
        for entry in entry_points(group=f"pare.{self.folder}"):
            module, _, name = entry.value.partition(":")
            found[entry.name] = Plugin(entry.name, f"from {module}", module, name)
        return found

    def _in_file(self, path: Path) -> list[Plugin]:
        module = f"pipeline.{self.folder}.{path.stem}"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if self.functions:
            return [
                Plugin(node.name, _first_line(node), module, node.name)
                for node in tree.body
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
            ]
        key = path.stem.removeprefix(self.prefix)
        name = "".join(word.title() for word in path.stem.split("_"))
        return [Plugin(key, _first_line(tree), module, name)]

    def load(self, key: str) -> tuple[Any, str | None]:
        """Import the one plug-in a recipe asks for.

        Returns:
            The plug-in, and its argument where the key is ``adapter:argument`` (such as
            ``image-folder:PATH``). ``package.module:name`` loads the user's own.

        Raises:
            PareError: nothing has that key, or its import fails; says what is missing.
        """
        plugins = self.plugins()
        head, colon, argument = key.partition(":")
        listed = plugins.get(head) or plugins.get(head.replace("-", "_"))
        if listed:
            return _load(listed.module, listed.name, key), argument if colon else None
        if head and argument.isidentifier():
            return _load(head, argument, key, did_you_mean(head, plugins)), None
        raise unknown(self.kind, key, plugins)

    def source(self, key: str) -> str | None:
        """Return the file of the user's own ``package.module:name``, if it can be found."""
        head, colon, _ = key.partition(":")
        if not (head and colon) or {head, head.replace("-", "_")} & self.plugins().keys():
            return None
        try:
            found = importlib.util.find_spec(head)
        except (ImportError, ValueError):
            return None
        return found.origin if found else None


def _first_line(node: ast.Module | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _load(module: str, name: str, key: str, hint: str = "") -> Any:
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PareError(
            f"{key!r} needs the Python module {error.name!r}, which is not installed. {hint}"
            "Install it (`pare doctor` lists what is missing) or check the name."
        ) from error
    try:
        return getattr(loaded, name)
    except AttributeError:
        raise PareError(f"{key!r}: module {module} has no {name!r}. Check the name.") from None


METHODS = Room("methods", "method")
MODELS = Room("models", "model", functions=True)
DATA = Room("data", "data set")
QUANTIZERS = Room("quantizers", "quantizer")
EXPORTERS = Room("exporters", "exporter", prefix="to_")
