"""The file chosen for a target -> a container image that runs it, smoke-tested; or a bundle.

Not one of the stages that every run goes through: it needs a finished run, and an engine that
builds images. What it leaves lies in ``packages/<target>/`` of the run.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import PareError
from pipeline.core.rundir import write_json
from pipeline.core.target import Target
from pipeline.stages.android_bundle import write_bundle
from pipeline.stages.build_command import build_command
from pipeline.stages.chosen import card_of, chosen_file, golden_answers
from pipeline.stages.image_context import labels, limits, write_context
from pipeline.stages.image_engine import Engine, NoEngine
from pipeline.stages.smoke import smoke

PACKAGES = "packages"
_LARGEST_MB = {"tflite-armv7": 140}  # on disk; the others:
_LARGEST_OF_OTHERS_MB = 200

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What is to be packaged, and how.

    Attributes:
        run: folder of a finished run.
        target: the device.
        file: a file of the run that fits the device, instead of the one chosen for it.
        engine: docker, podman or buildah; the first that is installed where not given.
        platform: such as ``linux/arm/v7``; the target's own by default.
        push: another name to push the image under.
        context_only: write the context and build nothing.
        base: image that gives apt and pip while building.
    """

    run: Path
    target: Target
    file: str | None = None
    engine: str | None = None
    platform: str | None = None
    push: str | None = None
    context_only: bool = False
    base: str | None = None


def package(order: Order, tell: Tell = lambda _text: None) -> dict[str, Any]:
    """Package the file chosen for a target, and return the record of it.

    Args:
        order: what and how.
        tell: is given a line for each step.

    Raises:
        PareError: the run is not finished, no file fits the target, the device takes no
            containers, or the image fails its build or one of its tests.
        NoEngine: the context was written, and nothing is installed that builds it.
    """
    target, chosen = order.target, chosen_file(order.run, order.target, order.file)
    name = _name(order)
    folder = order.run / PACKAGES / name
    (folder / "package.json").unlink(missing_ok=True)  # its presence is completion
    golden, card = golden_answers(order.run, chosen), card_of(order.run, chosen, target)
    if target.platform.os == "android":
        made = write_bundle(_emptied(folder / "bundle"), chosen, golden, card, target)
        tell(f"bundle: {made}")
        return _kept(folder, {"kind": "bundle", "folder": str(made), **card})
    platform = _platform(order)
    tag = f"pare:{name}"
    context = _emptied(folder / "context")
    runtime = write_context(
        context, model=chosen, golden=golden, card=card, target=target, platform=platform,
        tag=tag,
    )  # fmt: skip
    tell(f"context: {context}")
    record = {"kind": "context", "context": str(context), "runtime": runtime, "tag": tag,
              "platform": platform, **card}  # fmt: skip
    arguments = {"LARGEST_MB": str(_LARGEST_MB.get(runtime, _LARGEST_OF_OTHERS_MB))}
    arguments |= {"BASE": order.base} if order.base else {}
    marks = labels(card)
    by_hand = {"command": _by_hand(order.engine, context, platform, tag, marks, arguments)}
    if order.context_only:
        return _kept(folder, record | by_hand)
    try:
        engine = Engine(order.engine)
    except NoEngine as error:
        _kept(folder, record | by_hand)
        raise NoEngine(
            f"{error}\nThe context is in {context}; this builds it: {by_hand['command']}"
        ) from None
    tell(f"building {tag} for {platform} with {engine.name}")
    engine.build(context, platform=platform, tag=tag, labels=marks, arguments=arguments)
    record |= {"kind": "image", "engine": engine.name, **engine.facts(tag)}
    memory, cpus = limits(target)
    if engine.name != "buildah":  # which builds and runs nothing
        tell(f"testing {tag} with {memory} MB and {cpus} cores")
        record["smoke"] = smoke(
            engine, tag, golden, platform=platform, memory_mb=memory, cpus=cpus
        )
    if order.push:
        _kept(folder, record)  # whole, whatever the registry says
        engine.push(tag, order.push)
        record["pushed"] = order.push
    return _kept(folder, record)


def _platform(order: Order) -> str:
    """Return the platform of the image, which has to be one that the device runs."""
    facts = order.target.platform
    known = [facts.docker_platform, *(one.docker_platform for one in facts.variants)]
    runs = [platform for platform in known if platform]
    if not runs:
        raise PareError(
            f"{order.target.id} runs no containers. Take the file itself: "
            f"{chosen_file(order.run, order.target, order.file)}"
        )
    if order.platform is None:
        return runs[0]
    if order.platform not in runs:
        raise PareError(
            f"{order.target.id} does not run {order.platform}, only {', '.join(runs)}."
        )
    return order.platform


def _name(order: Order) -> str:
    """Return the name of a folder and a tag: what was asked for by name is in it.

    >>> target = Target.load("raspberry-pi-4b")
    >>> _name(Order(Path("run"), target, file="model.int8.onnx", platform="linux/arm64"))
    'raspberry-pi-4b-arm64-int8-onnx'
    """
    parts = [order.target.id]
    if order.platform:
        parts.append(order.platform.removeprefix("linux/").replace("/", ""))
    if order.file:
        parts.append(re.sub(r"[^a-z0-9]+", "-", order.file.lower().removeprefix("model.")))
    return "-".join(parts)


def _by_hand(engine: str | None, *how: Any) -> str:
    return f"DOCKER_BUILDKIT=1 {shlex.join(build_command(engine or 'docker', *how))}"


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _kept(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    write_json(folder / "package.json", record)
    return record
