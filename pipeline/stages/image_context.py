"""The folder that an image is built from: everything in it, and nothing that is not needed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from pipeline.core.errors import PareError
from pipeline.core.rundir import write_json, write_text
from pipeline.core.target import Target

_PACKAGE = Path(__file__).resolve().parent.parent
PORT = 8080
_RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime"}
_ARM_32 = "linux/arm/v7"
#: By the name of an accelerator: its delegate's library, which no image ships, and its node.
_DELEGATES = {"VeriSilicon VIPNano-SI+": ("libvx_delegate.so", "/dev/galcore")}
#: Of such nodes in Debian and in Yocto; a name would be looked up in the image.
_VIDEO = 44
_COMPOSE = """\
    # The $accelerator, by its delegate: put $library and the libraries that it needs into
    # /opt/delegate of the device. Without the lines below the model computes on the CPU.
    devices: [$node]
    group_add: ["$group"]  # whose device it is; see ls -ln $node
    environment:
      PARE_DELEGATE: /opt/delegate/$library
      LD_LIBRARY_PATH: /opt/delegate
    volumes:
      - type: bind
        source: /opt/delegate
        target: /opt/delegate
        read_only: true
        bind: {create_host_path: false}
"""
_SYSTEMD = """\
  --device $node --group-add $group \\
  --mount type=bind,source=/opt/delegate,target=/opt/delegate,readonly \\
  --env PARE_DELEGATE=/opt/delegate/$library --env LD_LIBRARY_PATH=/opt/delegate \\
"""


def templates() -> Path:
    """Return the folder of Dockerfiles, in the package or beside it in a checkout."""
    installed = _PACKAGE / "_docker"
    return installed if installed.is_dir() else _PACKAGE.parent / "docker"


def runtime_for(kind: str, platform: str) -> str:
    """Return which runtime an image of a file has, the ending of its Dockerfile.

    Raises:
        PareError: 32-bit Arm and an ONNX file: there is no engine for it.
    """
    if platform == _ARM_32:
        if kind != "tflite":
            raise PareError(
                f"onnxruntime has no wheel for {platform}. Package a TFLite file: let the "
                f"target's constraints.formats be tflite alone."
            )
        return "tflite-armv7"
    return _RUNTIMES[kind]


def limits(target: Target) -> tuple[int, int]:
    """Return the memory in MB of 10^6 bytes and the cores that the device grants a model."""
    room = target.memory.budget_mb
    clusters = target.cpu.clusters if target.cpu else ()
    cores = sum(int(cluster.count.value) for cluster in clusters)
    return max(64, int(room.value)) if room else 512, cores or 1


def write_context(
    folder: Path,
    *,
    model: Path,
    golden: Mapping[str, Any],
    card: Mapping[str, Any],
    target: Target,
    platform: str,
    tag: str,
) -> str:
    """Write a context and return the name of its runtime.

    Args:
        folder: an empty or missing one.
        model: the file chosen for the target.
        golden: its golden vectors.
        card: facts of it for people and labels.
        target: the device.
        platform: such as ``linux/arm64``.
        tag: of the image.

    Raises:
        PareError: the file has no engine on the platform.
    """
    runtime = runtime_for(model.suffix.removeprefix("."), platform)
    source, name = templates(), f"model{model.suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    for script in ("rootfs.sh", "wheels.sh", "size.sh", "docker-bake.hcl"):
        shutil.copy(source / script, folder / script)
    shutil.copy(source / f"Dockerfile.{runtime}", folder / "Dockerfile")
    shutil.copy(source / "context.dockerignore", folder / ".dockerignore")
    (folder / "lock").mkdir(exist_ok=True)
    shutil.copy(source / "lock" / f"{runtime}.txt", folder / "lock" / f"{runtime}.txt")
    _copy_runtime(folder / "pipeline")
    (folder / "model").mkdir(exist_ok=True)
    shutil.copy(model, folder / "model" / name)
    write_json(folder / "model" / f"{name}.golden.json", dict(golden))
    write_json(folder / "model" / "card.json", dict(card))
    memory, cpus = limits(target)
    words = {
        "target": target.id, "tag": tag, "platform": platform, "memory": memory,
        "cpus": cpus, "name": f"pare-{target.id}",
    }  # fmt: skip
    for name, to, delegate in (
        ("compose", "compose.yaml", _COMPOSE),
        ("systemd", f"pare-{target.id}.service", _SYSTEMD),
    ):
        text = (source / f"{name}.template").read_text(encoding="utf-8")
        words["delegate"] = _delegated(delegate, target, runtime)
        write_text(folder / to, Template(text).substitute(words))
    return runtime


def _delegated(text: str, target: Target, runtime: str) -> str:
    """Return what grants a container its device's accelerator, where it can use one."""
    name = target.accelerator.name if target.accelerator else ""
    if name not in _DELEGATES or runtime == "onnxruntime":
        return ""
    library, node = _DELEGATES[name]
    return Template(text).substitute(
        accelerator=name, library=library, node=node, group=_VIDEO
    )


def labels(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the OCI labels of an image: where it comes from, and what it was shown to do."""
    known = {
        "org.opencontainers.image.title": f"{card['name']} for {card['target']}",
        "org.opencontainers.image.version": card["recipe_hash"][:12],
        "org.opencontainers.image.created": card["created"],
        "org.opencontainers.image.licenses": card.get("licence"),
        "io.pare.recipe": card["recipe_hash"],
        "io.pare.model.sha256": card["sha256"],
        "io.pare.model.accuracy": card.get("top1"),
        "io.pare.target": card["target"],
    }
    return {key: str(value) for key, value in known.items() if value is not None}


def _copy_runtime(to: Path) -> None:
    """Copy the one room that ships, without what Python made of it."""
    shutil.rmtree(to, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_PACKAGE / "runtime", to / "runtime", ignore=ignored)
    write_text(to / "__init__.py", "")
