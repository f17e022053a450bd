"""Prints how far the predictor is from published latencies."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from pipeline.core.errors import PareError
from pipeline.core.rundir import write_text
from pipeline.profilers.published import DISTURBED, published
from pipeline.profilers.validation import Summary, Validation, validate

COLUMNS = (
    "runtime", "tool", "device", "unit", "dtype", "threads", "model", "network",
    "published_ms", "predicted_ms", "error_pct", "in_sample_pct", "borrowed",
)  # fmt: skip


def execute(*, as_json: bool, csv_file: Path | None) -> None:
    """Compare and print.

    Raises:
        PareError: an error is beyond its limit, after everything is printed; or the table
            can't be written.
    """
    found = validate(published())
    if csv_file is not None:
        try:
            write_text(csv_file, rows_as_csv(found))
        except OSError as error:
            raise PareError(f"cannot write {csv_file}: {error.strerror}.") from error
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        click.echo("\n".join(lines(found)))
    for runtime in found.runtimes:
        if not runtime.held:
            raise PareError(
                f"{runtime.runtime} is missed by {runtime.mape_pct:.1f} % "
                f"({runtime.mape_with_disturbed_pct:.1f} % with disturbed rows), allowed are "
                f"{runtime.limit_pct:g} %."
            )


def lines(found: Validation) -> Iterator[str]:
    """Return the tables as text."""
    yield "Prediction error, each network predicted from the others of its device."
    yield ""
    yield from columns(summaries(found))
    yield ""
    yield f"disturbed: a published mean beyond {DISTURBED:g} times its own fastest run."
    yield "inside: rows whose time lies in the interval of their prediction, 90 % aimed at."
    yield ""
    yield from columns(sets(found))
    yield "* too few for two rates of its own: their balance is that of the other sets."
    yield ""
    yield from columns(models(found))


def summaries(found: Validation) -> list[list[str]]:
    """Return the errors by runtime, titles first."""
    titles = ["runtime", "sets", "rows", "mean", "median", "limit", "with disturbed", "inside"]
    return [titles, *(_summary(one) for one in found.runtimes)]


def _summary(one: Summary) -> list[str]:
    return [
        one.runtime,
        str(one.sets),
        str(one.rows),
        f"{one.mape_pct:.1f} %",
        f"{one.median_pct:.1f} %",
        f"{one.limit_pct:g} %" if one.limit_pct is not None else "none",
        f"{one.mape_with_disturbed_pct:.1f} %",
        f"{one.inside_pct:.0f} %",
    ]


def sets(found: Validation) -> list[list[str]]:
    """Return the errors by device, titles first; a star says that the balance is borrowed."""
    titles = ["set", "networks", "in sample", "leave one out", "worst"]
    rows = [
        [
            ", ".join(filter(None, (one.tool, one.device, one.unit, one.dtype, one.threads))),
            f"{one.models}{'*' if one.borrowed else ''}",
            f"{one.in_sample_mape_pct:.1f} %",
            f"{one.loo_mape_pct:.1f} %",
            f"{one.worst_pct:+.0f} % {one.worst}",
        ]
        for one in found.sets
    ]
    return [titles, *rows]


def models(found: Validation) -> list[list[str]]:
    """Return the errors by network, titles first."""
    titles = ["runtime", "network", "rows", "mean error", "mean absolute"]
    rows = [
        [
            one.runtime,
            one.network,
            str(one.rows),
            f"{one.mean_pct:+.1f} %",
            f"{one.mape_pct:.1f} %",
        ]
        for one in found.models
    ]
    return [titles, *rows]


def columns(table: Sequence[Sequence[str]]) -> Iterator[str]:
    """Return the rows of a table with their cells under each other."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()


def rows_as_csv(found: Validation) -> str:
    """Return every compared row as CSV, percentages to a tenth."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in found.rows:
        row = one.row
        writer.writerow([
            row.runtime, row.tool, row.device, row.unit, row.dtype, row.threads, row.model,
            row.network, row.ms, f"{one.predicted_ms:.4g}", f"{one.error_pct:.1f}",
            f"{one.in_sample_pct:.1f}", "yes" if one.borrowed else "no",
        ])  # fmt: skip
    return text.getvalue()
