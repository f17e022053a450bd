"""Fits a target's rates to profiles, writes them, and prints how well they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from pipeline.core.errors import PareError
from pipeline.core.own_targets import own
from pipeline.core.rundir import write_text
from pipeline.core.target import Calibration, Target, shipped
from pipeline.profilers.calibration import Sample, calibrate, named, residuals, samples
from pipeline.profilers.target_text import with_calibrations


def execute(name: str, profiles: Sequence[Path], out: Path | None) -> None:
    """Write a target file with rates fitted to profiles.

    Raises:
        PareError: no such target, profiles that can't be used, or a file that would be lost.
    """
    target = Target.load(name)
    source = shipped().get(name) or own().get(name) or Path(name)
    place = _place(name, source, out)
    found = samples(profiles)
    rates = calibrate(found, target.id, datetime.now(UTC).date())
    text = source.read_bytes().decode("utf-8")
    written = with_calibrations(text, rates, str(source))
    try:
        write_text(place, written)
    except OSError as error:
        raise PareError(f"cannot write {place}: {error.strerror}.") from error
    for one in rates:
        click.echo("\n".join(_lines(one, found)))
    click.echo(f"written: {place}")


def _place(name: str, source: Path, out: Path | None) -> Path:
    """Return where to write: never over a target that ships or another file."""
    place = out or (Path(f"{name}.toml") if name in shipped() else source)
    if place.exists() and not place.samefile(source):
        raise PareError(
            f"{place} exists. Give it as NAME to calibrate that one, or write elsewhere with "
            "--out."
        )
    if any(place.exists() and place.samefile(one) for one in shipped().values()):
        raise PareError(
            f"{place} ships with pare and is not written over. Write a copy with --out."
        )
    return place


def _lines(found: Calibration, group: Sequence[Sample]) -> Iterator[str]:
    loo = (
        f"leave-one-out error {found.loo_mape_pct:g} %"
        if found.loo_mape_pct is not None
        else "no leave-one-out error can be told: intervals are half to twice the prediction"
    )
    yield named(found)
    yield f"  R = {found.r_gmac_s:g} GMAC/s, B = {found.b_gb_s:g} GB/s, {loo}"
    for file, percent in residuals(found, group):
        yield f"  {percent:+6.1f} %  {file}"
