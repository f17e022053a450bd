"""What `pare list` and `pare targets show` print; imports none of what it lists."""

from __future__ import annotations

from pipeline.core import plugins
from pipeline.core.recipe import shipped as shipped_recipes
from pipeline.core.target import Target
from pipeline.core.target import shipped as shipped_targets

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
        return [(name, Target.load(name).name) for name in shipped_targets()]
    if what == "recipes":
        return [
            (name, path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# "))
            for name, path in shipped_recipes().items()
        ]
    return [(plugin.key, plugin.help) for plugin in _ROOMS[what].plugins().values()]


def target_lines(name: str) -> list[str]:
    """Return a target as lines: its limits, and every figure with its source."""
    target = Target.load(name)
    limits = target.constraints
    lines = [
        f"{target.name} ({target.id}, {target.class_})",
        f"  formats {', '.join(limits.formats)}; dtypes {', '.join(limits.dtypes)}",
        "",
    ]
    for row in target.figures():
        lines.append(f"  {row.key} = {row.value:g} {row.unit}".rstrip())
        lines.append(f"      {row.basis}: {row.source}")
    return lines
