"""Tiny ImageNet as it is published, as tiny-imagenet:PATH: 200 classes of 64x64 pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.core.errors import PareError
from pipeline.data import Dataset
from pipeline.data.image_folder import Files, ImageFolder, from_files, images_in


class TinyImagenet(ImageFolder):
    """The folder of the extracted archive, with the options of image-folder.

    ``wnids.txt`` names the classes, ``words.txt`` says what they are, ``train/<wnid>/images``
    and ``val/images`` hold the images, ``val/val_annotations.txt`` the labels of the latter.
    The published test images have no labels: the validation images are the test split here,
    and a part of train is split off to select on. Labels are in the order of the wnids.

    Source:
        Le & Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS231N, 2015.
    """

    @staticmethod
    def load(
        params: ImageFolder.Params, argument: str | None, validation_fraction: float
    ) -> Dataset:
        """Decode the folder.

        Raises:
            PareError: a file or folder of the archive is missing, or names what is not
                there; corrupt images, or too many for the memory.
        """
        if not argument:
            raise PareError("data.name = 'tiny-imagenet' needs a folder: tiny-imagenet:PATH.")
        root = Path(argument).expanduser()
        wnids = _wnids(root)
        dataset = from_files(
            "tiny-imagenet",
            _names(root / "words.txt", wnids),
            train=_train_files(root / "train", wnids),
            test=_validation_files(root / "val", wnids),
            validation=None,
            params=params,
            validation_fraction=validation_fraction,
        )
        notes = ["tested on the published validation images", dataset.note]
        return replace(dataset, note=", ".join(filter(None, notes)))


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file of the archive, in their order."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise PareError(
            f"no file {path}. tiny-imagenet:PATH is the folder of the extracted archive, with "
            "wnids.txt, train/<wnid>/images/ and val/val_annotations.txt."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PareError(f"{path} cannot be read: {error}. Extract the archive anew.") from None


def _wnids(root: Path) -> list[str]:
    path = root / "wnids.txt"
    found = sorted({line.strip() for line in _lines(path)} - {""})
    if len(found) < 2:
        raise PareError(f"{path} names {len(found)} classes. At least two are needed.")
    return found


def _names(path: Path, wnids: Sequence[str]) -> list[str]:
    """Return what the classes are called; the wnid where that is unknown or not unique."""
    lines = _lines(path) if path.is_file() else []
    words = dict(line.strip().split("\t", 1) for line in lines if "\t" in line.strip())
    names = [words.get(wnid, wnid) for wnid in wnids]
    uses = Counter(names)
    return [
        name if uses[name] == 1 else f"{name} ({wnid})"
        for name, wnid in zip(names, wnids, strict=True)
    ]


def _train_files(train: Path, wnids: Sequence[str]) -> Files:
    """List the training images with their labels."""
    if not train.is_dir():
        raise PareError(f"no folder {train}. Extract the archive anew.")
    folders = {p.name for p in train.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if extra := sorted(folders - set(wnids)):
        raise PareError(
            f"{train} has the class {extra[0]!r}, which wnids.txt does not name. Name it "
            "there, or remove the folder."
        )
    found = []
    for label, wnid in enumerate(wnids):
        listed = images_in(train / wnid / "images")
        if not listed:
            raise PareError(
                f"no image of class {wnid!r} in {train / wnid / 'images'}. Extract the "
                "archive anew, or take the class out of wnids.txt and of val/."
            )
        found += [(path, label) for path in listed]
    return found


def _validation_files(val: Path, wnids: Sequence[str]) -> Files:
    """List the validation images with the labels of their annotations."""
    path = val / "val_annotations.txt"
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    named: dict[Path, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        name, *others = line.split("\t")
        if not others:
            raise PareError(
                f"{path}, line {number}: {line[:60]!r} is no file name, a tab and a wnid. "
                "Extract the archive anew."
            )
        if others[0].strip() not in labels:
            raise PareError(
                f"{path}, line {number}: the class {others[0].strip()!r} is not in wnids.txt. "
                "Name it there, or take the line out."
            )
        named[val / "images" / name] = labels[others[0].strip()]
    _demand_same_images(path, set(named), set(images_in(val / "images")))
    if missing := sorted(set(labels.values()) - set(named.values())):
        raise PareError(
            f"{path} names no image of class {wnids[missing[0]]!r}. Every class of wnids.txt "
            "needs images to test on."
        )
    return sorted(named.items())


def _demand_same_images(annotations: Path, named: set[Path], there: set[Path]) -> None:
    """Refuse annotations of other images than those that are there.

    Raises:
        PareError: names the first image that is missing, or that has no annotation.
    """
    if missing := sorted(named - there):
        raise PareError(
            f"no image {missing[0]}, which {annotations.name} names. Extract the archive anew."
        )
    if extra := sorted(there - named):
        raise PareError(
            f"{annotations} does not name {extra[0].name}. Extract the archive anew, or "
            "remove the image."
        )
