"""Packages the file of a run for the command line and prints what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.core.target import Target
from pipeline.stages.package import Order, package


def execute(run: Path, *, name: str, quiet: bool, **how: Any) -> None:
    """Package a file, and print each step and the result.

    Raises:
        PareError: whatever the packager refuses.
    """
    order = Order(run=run, target=Target.load(name), **how)
    found = package(order, (lambda _text: None) if quiet else click.echo)
    if not quiet:
        click.echo("\n".join(lines(found)))


def lines(found: dict[str, Any]) -> list[str]:
    """Return the record of a package as lines for a terminal."""
    told = [f"{found['file']} ({found['bytes']:,} bytes, top-1 {found['top1']:.2%})"]
    if found["kind"] == "bundle":
        return [*told, f"push it: {found['folder']}/push.sh SERIAL"]
    if found["kind"] == "context":
        return [*told, f"build it: {found['command']}"]
    size = f", {found['bytes_on_disk'] / 1e6:.0f} MB on disk" if found["bytes_on_disk"] else ""
    told.append(
        f"image {found['tag']} for {found['platform']}: {found['layers']} layers{size}"
    )
    if smoke := found.get("smoke"):
        how = "emulated" if smoke["emulated"] else f"ready after {smoke['ready_s']} s"
        told.append(
            f"tested with {smoke['memory_mb']} MB and {smoke['cpus']:g} cores, read-only, "
            f"without rights: self-test, predict, serve; {how}"
        )
    return [*told, f"run it: see {found['context']}/compose.yaml"]
