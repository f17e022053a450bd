"""Images in class folders, as image-folder:PATH with train/, test/ and perhaps validation/."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.data import Augmentation, Dataset, Split, split_off, statistics
from pipeline.runtime.images import ImageError, decode

#: Images with their labels.
Files = list[tuple[Path, int]]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})


class ImageFolder:
    """``PATH/train/<class>/*`` and ``PATH/test/<class>/*``; images are decoded once.

    ``PATH/validation`` (or ``val``) is used where it exists; otherwise a part of train is
    split off, class by class, with a fixed seed.
    """

    class Params(Record):
        """Options of the data table.

        Attributes:
            size: height and width after resizing; by default those of the first image.
            color: three channels, or one.
            on_corrupt: refuse a folder with an unreadable image, or skip and count them.
            per_class: use only the first images of each class of the training split, by
                file name (0: all).
            flip: mirror training images; ``shift``: translate them by up to so many pixels
                (by default an eighth of the size).
            max_gigabytes: refuse folders that would not fit in memory when decoded.
        """

        size: int | None = Field(default=None, ge=1, le=4096)
        color: Literal["rgb", "grey"] = "rgb"
        on_corrupt: Literal["refuse", "skip"] = "refuse"
        per_class: int = Field(default=0, ge=0)
        flip: bool = True
        shift: int | None = Field(default=None, ge=0)
        max_gigabytes: float = Field(default=8.0, gt=0)

    @staticmethod
    def load(params: Params, argument: str | None, validation_fraction: float) -> Dataset:
        """Decode the folder.

        Raises:
            PareError: the folder is missing, empty, has one class, classes that differ
                between the splits, corrupt images, or too many for the memory.
        """
        if not argument:
            raise PareError("data.name = 'image-folder' needs a folder: image-folder:PATH.")
        root = Path(argument).expanduser()
        classes = _classes(_existing(root / "train"))
        held_out = next((p for p in (root / "validation", root / "val") if p.is_dir()), None)
        return from_files(
            root.name,
            classes,
            train=_files(root / "train", classes),
            test=_files(_existing(root / "test"), classes),
            validation=_files(held_out, classes) if held_out else None,
            params=params,
            validation_fraction=validation_fraction,
        )


def from_files(
    name: str,
    classes: Sequence[str],
    *,
    train: Files,
    test: Files,
    validation: Files | None,
    params: ImageFolder.Params,
    validation_fraction: float,
) -> Dataset:
    """Decode listed images into a data set.

    Args:
        name: of the data set.
        classes: names, in the order of the labels.
        train: images with their labels, in a fixed order.
        test: the same.
        validation: the same; without, a part of train is split off, class by class.
        params: how images are read and augmented.
        validation_fraction: the part of train that is split off.

    Raises:
        PareError: corrupt images, or too many for the memory.
    """
    files = [_first(train, params.per_class), test, *([validation] if validation else [])]
    size = params.size or _size_of_first(files[0], params)
    _check_memory(sum(len(part) for part in files), size, params)
    (trained_on, skipped), *others = [_decode(part, size, params) for part in files]
    if validation:
        rest, held_out = trained_on, others[1][0]
    else:
        rest, held_out = split_off(trained_on, validation_fraction, seed=1)
    skipped += sum(count for _, count in others)
    mean, std = statistics(rest.images)
    return Dataset(
        name=name,
        classes=list(classes),
        train=rest,
        validation=held_out,
        test=others[0][0],
        mean=mean,
        std=std,
        augmentation=Augmentation(
            shift=size // 8 if params.shift is None else params.shift, flip=params.flip
        ),
        note=f"{skipped} corrupt images skipped" if skipped else "",
    )


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder, by name; none if it is not there."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise PareError(
            f"no folder {folder}. An image folder holds train/<class>/ and test/<class>/."
        )
    return folder


def _classes(train: Path) -> list[str]:
    names = sorted(
        p.name for p in train.iterdir() if p.is_dir() and not p.name.startswith(".")
    )
    if not names:
        raise PareError(f"{train} is empty: it should hold one folder per class.")
    if len(names) == 1:
        raise PareError(f"{train} has one class only ({names[0]!r}). At least two are needed.")
    return names


def _files(folder: Path, classes: Sequence[str]) -> Files:
    """List images with their labels, in a fixed order."""
    unknown = sorted(
        p.name
        for p in folder.iterdir()
        if p.is_dir() and p.name[0] != "." and p.name not in classes
    )
    if unknown:
        raise PareError(
            f"{folder} has the class {unknown[0]!r}, which train/ does not have. The classes "
            "of train/ are those the network knows."
        )
    found = []
    for label, name in enumerate(classes):
        listed = images_in(folder / name)
        if not listed:
            raise PareError(
                f"no image of class {name!r} in {folder / name}. Every class of train/ needs "
                "images in each split."
            )
        found += [(path, label) for path in listed]
    return found


def _first(files: Files, per_class: int) -> Files:
    if not per_class:
        return files
    seen: dict[int, int] = {}
    kept = []
    for path, label in files:
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= per_class:
            kept.append((path, label))
    return kept


def _size_of_first(files: Files, params: ImageFolder.Params) -> int:
    for path, _ in files:
        try:
            with Image.open(path) as image:
                return min(image.size)
        except Exception as error:  # as in _read
            if params.on_corrupt == "refuse":
                raise _corrupt([path]) from error
    raise PareError("no readable image in the training split.")


def _check_memory(count: int, size: int, params: ImageFolder.Params) -> None:
    gigabytes = count * size * size * (3 if params.color == "rgb" else 1) / 1e9
    if gigabytes > params.max_gigabytes:
        raise PareError(
            f"{count} images of {size}x{size} need {gigabytes:.1f} GB of memory, over "
            f"data.max_gigabytes = {params.max_gigabytes}. Choose a smaller data.size."
        )


def _decode(files: Files, size: int, params: ImageFolder.Params) -> tuple[Split, int]:
    """Decode a split; return it with the number of images that were skipped."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        pixels = list(
            pool.map(lambda item: _read(item[0], size, params.color), files, chunksize=64)
        )
    bad = [path for (path, _), image in zip(files, pixels, strict=True) if image is None]
    if bad and params.on_corrupt == "refuse":
        raise _corrupt(bad)
    kept = [
        (image, label)
        for (_, label), image in zip(files, pixels, strict=True)
        if image is not None
    ]
    if len({label for _, label in kept}) < len({label for _, label in files}):
        raise PareError(f"a class has only corrupt images, such as {bad[0]}. Replace them.")
    images = torch.from_numpy(np.stack([image for image, _ in kept])).permute(0, 3, 1, 2)
    return Split(images.contiguous(), torch.tensor([label for _, label in kept])), len(bad)


def _read(path: Path, size: int, color: str) -> np.ndarray | None:
    """Decode one image to ``[size, size, c]`` as a device does, or nothing if it is broken."""
    try:
        pixels: np.ndarray = decode(path, size, size, 3 if color == "rgb" else 1)
    except ImageError:
        return None
    return pixels


def _corrupt(paths: Sequence[Path]) -> PareError:
    shown = ", ".join(str(path) for path in paths[:3])
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return PareError(
        f"{len(paths)} corrupt image{'s' * (len(paths) > 1)}: {shown}{more}. Replace them, or "
        'set data.on_corrupt = "skip" to leave them out and count them.'
    )
