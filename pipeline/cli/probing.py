"""Writes this machine down as a target file."""

from __future__ import annotations

from pathlib import Path

import tomli_w

from pipeline.core import own_targets
from pipeline.core.errors import PareError
from pipeline.core.record import parse
from pipeline.core.target import Target

_HEAD = """\
# This machine, as `pare targets probe` found it on {date}.
# Add [budgets] (basis, source, latency_p90_ms, model_mb, peak_ram_mb, accuracy_drop_pct) to
# say what a network may spend here; without it only the form of a file is checked.
"""


def execute(out: Path | None, *, force: bool) -> list[str]:
    """Describe this machine in a file, and return what to print.

    Args:
        out: the file; ``host.toml`` in the user's folder of targets where not given.
        force: write over a file that is there.

    Raises:
        PareError: the file is there already, is no TOML file, or can't be written.
    """
    from datetime import UTC, datetime

    from pipeline.profilers.probe import probe

    path = out or own_targets.folder() / f"{own_targets.HOST}.toml"
    if path.suffix != ".toml":
        raise PareError(f"{path}: a target is a TOML file. End its name in .toml.")
    if path.exists() and not force:
        raise PareError(f"{path} is there already. Give --force to write over it, or --out.")
    found = probe()
    parse(Target, found.values, str(path))
    head = _HEAD.format(date=f"{datetime.now(UTC):%Y-%m-%d}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{head}\n{tomli_w.dumps(found.values)}", encoding="utf-8")
    except OSError as error:
        raise PareError(f"cannot write {path}: {error.strerror}. Give --out.") from None
    return [str(path), *(f"warning: {note}." for note in found.notes)]
