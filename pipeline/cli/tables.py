"""The tables at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_report(console: Console, report: dict[str, Any], folder: Path) -> None:
    """Print the files, the verdict of each target, and where the report is."""
    console.print(_files(report))
    console.print(_targets(report))
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _files(report: dict[str, Any]) -> Table:
    table = _table("Files: difference from PyTorch, host latency with one thread")
    for name in ("file", "format", "scheme"):
        table.add_column(name, no_wrap=True)
    for name in ("bytes", "gzip", "top-1"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("difference, agreement", justify="right", overflow="fold")
    for name in ("median ms", "p90 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in report["files"]:
        table.add_row(*file_cells(entry))
    return table


def file_cells(entry: dict[str, Any]) -> list[str]:
    """Return the cells of one file's row; a missing figure is a dash, never a zero."""
    head = [entry["file"], entry["format"], entry["scheme"]]
    if entry["state"] == "refused":
        return [*head, "-", "-", "-", "refused", "-", "-"]
    parity = entry["parity"]
    timing = entry.get("latency") or []
    first = timing[0] if timing else None
    return [
        *head,
        f"{entry['bytes']:,}",
        f"{entry['gzip_bytes']:,}",
        f"{parity['top1']['value']:.2%}",
        parity_text(entry),
        f"{first['median']['value']:.3f}" if first else "-",
        f"{first['p90']['value']:.3f}" if first and first["p90"] else "-",
    ]


def parity_text(entry: dict[str, Any]) -> str:
    """Say how far a file is from PyTorch: by difference if float, in steps if integer."""
    parity = entry["parity"]
    agreement = f"{parity['agreement']:.1%}"
    if parity["max_steps"] is not None:
        text = f"{parity['max_steps']:.1f} steps, {agreement}"
    elif parity["max_abs_difference"] is not None:
        text = f"{parity['max_abs_difference']:.1e}, {agreement}"
    else:
        text = f"not finite, {agreement}"
    return text if entry["state"] == "made" else f"REJECTED {text}"


def _targets(report: dict[str, Any]) -> Table:
    table = _table("Targets")
    for name in ("target", "file", "fits"):
        table.add_column(name, no_wrap=True)
    for name in ("predicted latency", "peak RAM", "why"):
        table.add_column(name, overflow="fold")
    for target in report["targets"]:
        shown = target["chosen"] or target["nearest"]
        rows = [row for row in target["files"] if row["file"] == shown]
        row = rows[0] if rows else None
        table.add_row(
            target["id"],
            target["chosen"] or (f"nearest: {shown}" if shown else "none"),
            "yes" if target["chosen"] else "NO",
            latency_text(row) if row else "-",
            f"{row['peak_ram']['value']:.3g} MB" if row else "-",
            target["why"],
        )
    return table


def latency_text(row: dict[str, Any]) -> str:
    """Return the prediction with its interval, or the bound, said to be one."""
    predicted, bound = row["predicted"], row["bound"]
    if predicted:
        low, high = predicted["spread"]
        note = ", extrapolated" if predicted["conditions"].get("extrapolated") else ""
        return f"{predicted['value']:.2g} ms ({low:.2g} to {high:.2g}{note})"
    if bound:
        return f"at least {bound['value']:.2g} ms (bound)"
    return "not predictable"
