"""What is installed, what is missing, and the command that installs it."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version

# What each part of the way needs, and the extra that brings it.
_NEEDS = {
    "train, prune, compact": ("", ["torch", "torchvision", "lightning-fabric", "safetensors"]),
    "data": ("", ["numpy", "pillow", "scikit-learn"]),
    "ONNX": ("", ["onnx", "onnxscript", "onnxruntime"]),
    "TFLite by litert-torch": (
        "litert",
        ["litert-torch", "ai-edge-quantizer", "ai-edge-litert"],
    ),
    "TFLite by onnx2tf": (
        "onnx2tf",
        [
            "tensorflow", "tf-keras", "onnx2tf", "onnx-graphsurgeon", "sng4onnx", "psutil",
            "ai-edge-litert",
        ],
    ),
    "report": ("", ["matplotlib", "jinja2", "rich"]),
    "tracking": ("", ["tensorboardX"]),
}  # fmt: skip
# What the way does without: trials run one after another, and nobody proposes or tracks more.
_OPTIONAL = {
    "sweep and fit on several cores": ("sweep", ["ray", "optuna"]),
    "MLflow": ("track", ["mlflow-skinny", "alembic", "sqlalchemy"]),
}


def examine() -> tuple[list[str], bool]:
    """Return the findings as lines, and whether nothing is missing."""
    lines = [
        f"pare {_version('pare')}, Python {platform.python_version()}, {platform.platform()}"
    ]
    whole = True
    for part, (extra, names) in {**_NEEDS, **_OPTIONAL}.items():
        found = {name: _version(name) for name in names}
        missing = [name for name, installed in found.items() if installed is None]
        shown = ", ".join(
            f"{name} {installed}" for name, installed in found.items() if installed
        )
        absent = "without" if part in _OPTIONAL else "MISSING"
        lines.append(f"{absent if missing else 'ok     '}  {part}: {shown}")
        if missing:
            whole = whole and part in _OPTIONAL
            package = f"pare[{extra}]" if extra else "pare"
            lines.append(f"         missing: {', '.join(missing)}")
            lines.append(f'         install: {sys.executable} -m pip install "{package}"')
    return [*lines, *_too_old()], whole


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _too_old() -> list[str]:
    """Return a line for each dependency whose installed version is out of bounds."""
    from packaging.requirements import Requirement

    try:
        needs = requires("pare") or []
    except PackageNotFoundError:
        return ["pare itself is not installed: its bounds on versions are not known here"]
    lines = []
    for text in needs:
        need = Requirement(text)
        installed = _version(need.name)
        if installed and not need.specifier.contains(installed, prereleases=True):
            lines.append(
                f"CONFLICT {need.name} {installed} is installed, pare needs {need.specifier}"
            )
    return lines
