"""The report of a run: what was made, for whom it fits, and the proof, in three files.

``collect`` gathers the records of the stages, ``tables`` puts them into words, ``pictures``
draws them, ``html`` and ``markdown`` lay both out. ``schema.json`` says what is in
``report.json``; ``compare`` holds the figures of several runs against each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.core.rundir import write_json, write_text


def write(folder: Path) -> dict[str, Any]:
    """Write ``report.html``, ``report.md`` and ``report.json`` of a finished run.

    Everything is rendered before the first file is replaced, and ``report.json`` comes last:
    where it names the keys of the stages, the other two are from the same stages.

    Args:
        folder: of the run.

    Returns:
        The content of ``report.json``.

    Raises:
        PareError: a stage is missing; names the command that runs it.
    """
    from pipeline.report.collect import collect
    from pipeline.report.history import with_history
    from pipeline.report.html import page
    from pipeline.report.markdown import text

    report = with_history(collect(folder), folder / "report.json")
    html, markdown = page(report), text(report)
    write_text(folder / "report.html", html)
    write_text(folder / "report.md", markdown)
    write_json(folder / "report.json", report)
    return report
