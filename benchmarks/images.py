"""The sizes of the images that docker/images.sh built, as a table.

    python benchmarks/images.py FOLDER > benchmarks/results/images.md

FOLDER holds for each image its record (``NAME.json``) and its compressed size in bytes
(``NAME.compressed``), and perhaps for a model file what was counted (``FILE.instructions``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = """\
# Images for devices

Made by `make images`. Each image runs its self-test while it is built, and is then run as it
will be on the device, read-only, without rights, under its memory and cores: self-test and
prediction without a network, then served and asked over loopback. On disk is what the engine
says; compressed is `docker save | gzip -6`; MB are 10^6 bytes. Arm is emulated, which shows
that the answers are right, and nothing of time.

| image | platform | runtime | file | on disk | compressed | golden vectors | ready |
|---|---|---|---|---|---|---|---|
"""


COUNTS = """
Instructions that an emulator took for an inference of a file (`docker/icount.sh`), its call
from Python included. They are counts and no times: they know no cache and no pipeline. Two
programs count each, and what they count has to agree to 1e-5: so they show what became worse.

"""


def row(record: dict[str, Any], compressed: int) -> str:
    """Return one image as a line of the table."""
    smoke = record["smoke"]
    tested, ready = smoke["selftest"], smoke["ready_s"]
    count, worst, unit = tested["vectors"], tested["worst"], tested["unit"]
    cells = [
        record["tag"],
        record["platform"],
        f"{tested['runtime']} {tested['runtime_version']}",
        record["file"],
        f"{record['bytes_on_disk'] / 1e6:.0f} MB",
        f"{compressed / 1e6:.1f} MB",
        f"{count} of {count}, {worst:g} {unit} off ({tested['tolerance']:g} allowed)",
        "emulated" if ready is None else f"{ready:.2f} s",
    ]
    return f"| {' | '.join(cells)} |\n"


def table(folder: Path) -> str:
    """Return the page."""
    rows = [
        row(json.loads(path.read_text()), int(path.with_suffix(".compressed").read_text()))
        for path in sorted(folder.glob("*.json"))
    ]
    counts = [
        f"- {path.stem}: {line}\n"
        for path in sorted(folder.glob("*.instructions"))
        for line in path.read_text().splitlines()
    ]
    return HEAD + "".join(rows) + (COUNTS + "".join(counts) if counts else "")


if __name__ == "__main__":
    sys.stdout.write(table(Path(sys.argv[1])))
