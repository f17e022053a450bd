"""The report as one page that needs nothing else: no script, no link, no font to fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import tomli_w
from markupsafe import Markup

from pipeline.report import (
    candidates,
    fits,
    history,
    host,
    pictures,
    quantization,
    tables,
    target_pictures,
    verdicts,
)
from pipeline.report.tables import Table
from pipeline.report.wording import TIMES


def page(report: dict[str, Any]) -> str:
    """Return a report as a self-contained HTML page.

    Args:
        report: as ``collect`` returns it.
    """
    return (
        environment()
        .get_template("template.html")
        .render(
            report=report,
            headline=verdicts.headline(report),
            cards=verdicts.cards(report),
            tables=tables,
            candidates=candidates,
            host=host,
            matrix=fits.matrix(report),
            matrix_meaning=fits.MEANING,
            worse=history.table(report),
            panels=target_pictures.panels(report),
            quantization=quantization,
            training=pictures.training(report),
            layers=pictures.layers(report),
            files=pictures.files(report),
            limits=_limits(report),
            recipe=tomli_w.dumps(report["recipe"]),
        )
    )


def environment() -> jinja2.Environment:
    """Return what pages are made with: templates of this folder, every text escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["drawn"] = Markup  # our own SVG; its texts are escaped where drawn
    made.filters["tied"] = _tied
    return made


def _tied(text: str) -> str:
    r"""Keep a figure on one line with its unit.

    >>> _tied("95 %, 3 ms")
    '95\xa0%, 3\xa0ms'
    """
    for loose in (" = ", " %", " B", " ms", " dB", f" {TIMES} ", "p90 ", "PSNR "):
        text = text.replace(loose, loose.replace(" ", "\N{NO-BREAK SPACE}"))
    return text


def _limits(report: dict[str, Any]) -> list[tuple[dict[str, Any], str | None, Table | None]]:
    """Return for each target its file on show, and that file's limits one by one."""
    found = []
    for target in report["targets"]:
        file = verdicts.nearest(target)
        found.append((target, file, tables.checks(report, target, file) if file else None))
    return found
