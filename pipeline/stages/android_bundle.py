"""A folder that adb pushes to a phone: no containers run there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from pipeline.core.rundir import write_json, write_text
from pipeline.core.target import Target
from pipeline.profilers.transports.payload import runtime

_PUSH = Template("""\
#!/bin/sh
# Push the model to a phone and run it there, if Python with numpy, Pillow and an engine is
# on it (Termux); an app takes $model and reads how to prepare images from its metadata.
#   ./push.sh SERIAL [IMAGE]
set -eu
cd "$$(dirname "$$0")"
serial=$${1:?give the serial that adb devices prints}
to=/data/local/tmp/pare-$target
adb -s "$$serial" shell mkdir -p "$$to"
adb -s "$$serial" push $model $model.golden.json pare-runtime.pyz "$$to"/
adb -s "$$serial" shell "cd $$to && python3 pare-runtime.pyz selftest $model"
if [ $$# -gt 1 ]; then
  adb -s "$$serial" push "$$2" "$$to/image"
  adb -s "$$serial" shell "cd $$to && python3 pare-runtime.pyz predict --model $model image"
fi
""")


def write_bundle(
    folder: Path,
    model: Path,
    golden: Mapping[str, Any],
    card: Mapping[str, Any],
    target: Target,
) -> Path:
    """Write the model, its golden answers, the runtime and a script that pushes them.

    Args:
        folder: an empty one.
        model: the file chosen for the target.
        golden: its golden vectors.
        card: facts of it for people.
        target: the phone.

    Returns:
        The folder.
    """
    name = f"model{model.suffix}"
    shutil.copy(model, folder / name)
    write_json(folder / f"{name}.golden.json", dict(golden))
    write_json(folder / "card.json", dict(card))
    (folder / "pare-runtime.pyz").write_bytes(runtime())
    write_text(folder / "push.sh", _PUSH.substitute(model=name, target=target.id))
    (folder / "push.sh").chmod(0o755)
    return folder
