"""Draws a figure as SVG that goes into the page itself, in the page's own colours.

Text stays text, in the page's font. Colours are written as the page's CSS variables, so that
a picture follows its light and its dark scheme. Nothing refers to anything outside.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, NamedTuple

# Drawn in these colours, then written as variables of the page, which knows both schemes.
INK, SOFT, LINE = "#10a001", "#10a002", "#10a003"
SERIES = ("#10a011", "#10a012", "#10a013", "#10a014")
PALE = "#10a021"
_VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    LINE: "--line",
    PALE: "--pale",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)},
}

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of layers and files may hold a dollar sign
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 1.4,
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.4,
}


class Picture(NamedTuple):
    """An SVG element, what it shows in a title, and what its figures are."""

    title: str
    note: str
    svg: str


def svg(title: str, note: str, size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Draw on an axes of ``size`` inches and return an SVG element for a page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(written.getvalue(), title, note)


def _for_page(svg: str, title: str, note: str) -> str:
    """Take off an SVG file what a page can't use: header, links, fonts, unused ids."""
    body = svg[svg.index("<svg ") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", body, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', body)
    assert view, "matplotlib writes a view box"
    label = _attribute(f"{title}: {note}")
    start = f'<svg {view[0]} role="img" aria-label="{label}">'
    body = start + body[body.index(">") + 1 :]
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    used = set(re.findall(r"#([\w.-]+)[\")]", body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return re.sub(r"\s*\n\s*", " ", body)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
