"""Tiny ImageNet as its archive is laid out, in small."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import PareError
from pipeline.core.places import placed
from pipeline.core.recipe import DataChoice
from pipeline.data import load

WNIDS = ["n02", "n01", "n03"]


def put(path, red):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0] = red
    Image.fromarray(pixels).save(path, "JPEG", quality=100)


@pytest.fixture
def folder(tmp_path):
    """Three classes: five images each to train on, two to test on; red says which."""
    (tmp_path / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    words = ["n00\tentity", "n01\tgoldfish, Carassius auratus", "n02\tcrane", "n03\tcrane"]
    (tmp_path / "words.txt").write_text("\n".join(words) + "\n")
    lines = []
    for wnid in WNIDS:
        red = 60 * int(wnid[-1])
        for index in range(5):
            put(tmp_path / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", red)
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes")
        for index in range(2):
            name = f"val_{index}{wnid}.JPEG"
            put(tmp_path / "val" / "images" / name, red)
            lines.append(f"{name}\t{wnid}\t0\t0\t7\t7")
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    put(tmp_path / "test" / "images" / "test_0.JPEG", 0)  # unlabelled: nobody reads it
    return tmp_path


def read(folder, **options):
    choice = {"validation_fraction": 0.2, **options}
    return load(DataChoice(name=f"tiny-imagenet:{folder}", **choice))


def test_splits_labels_and_names_come_as_the_files_say(folder):
    data = read(folder)
    assert data.name == "tiny-imagenet"
    assert data.classes == ["goldfish, Carassius auratus", "crane (n02)", "crane (n03)"]
    assert [len(s) for s in (data.train, data.validation, data.test)] == [12, 3, 6]
    assert data.shape == (3, 8, 8)
    for split in (data.train, data.validation, data.test):
        reds = split.images[:, 0].float().mean((1, 2))
        assert torch.equal((reds / 60).round().long() - 1, split.labels)
    assert data.note == "tested on the published validation images"


def test_without_words_a_class_is_called_by_its_wnid(folder):
    (folder / "words.txt").unlink()
    assert read(folder).classes == ["n01", "n02", "n03"]


def test_the_options_are_those_of_an_image_folder(folder):
    data = read(folder, size=4, per_class=3, color="grey", flip=False, shift=2)
    assert data.shape == (1, 4, 4)
    assert len(data.train) + len(data.validation) == 9
    assert (data.augmentation.shift, data.augmentation.flip) == (2, False)
    (folder / "val" / "images" / "val_0n01.JPEG").write_bytes(b"no image")
    with pytest.raises(PareError, match=r"1 corrupt image: .*val_0n01\.JPEG"):
        read(folder)
    skipped = read(folder, on_corrupt="skip")
    assert len(skipped.test) == 5
    assert skipped.note.endswith("images, 1 corrupt images skipped")
    with pytest.raises(PareError, match=r"Choose a smaller data\.size"):
        read(folder, max_gigabytes=1e-6)


def test_hidden_files_and_empty_lines_are_left_out(folder):
    (folder / "train" / ".thumbs").mkdir()
    annotations = folder / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text() + "\n\n")
    assert len(read(folder).test) == 6


def test_its_folder_starts_where_the_recipe_is(tmp_path):
    values = {"data": {"name": "tiny_imagenet:images"}}
    assert placed(values, tmp_path)["data"]["name"] == f"tiny_imagenet:{tmp_path}/images"


def without(path):
    if path.is_dir():
        path.rename(path.parent / "elsewhere")
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("wnids.txt", r"no file .*wnids\.txt\. tiny-imagenet:PATH is the folder of the extr"),
        ("val/val_annotations.txt", r"no file .*val_annotations\.txt\. tiny-imagenet:PATH is"),
        ("train", r"no folder .*train\. Extract the archive anew"),
        ("train/n02/images", r"no image of class 'n02' in .*n02/images\. Extract"),
        ("val/images/val_1n03.JPEG", r"no image .*val_1n03\.JPEG, which val_annotations\.txt"),
        ("val/images", r"no image .*val_0n01\.JPEG, which val_annotations\.txt names"),
    ],
)
def test_what_is_missing_is_named(folder, gone, message):
    without(folder / gone)
    with pytest.raises(PareError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val_0n01.JPEG\tn09\t0", r"line 1: the class 'n09' is not in wnids\.txt"),
        ("\nval_0n01.JPEG n01", "line 2: 'val_0n01.JPEG n01' is no file name, a tab and a wn"),
        ("val_0n01.JPEG\tn01", r"val_annotations\.txt does not name val_0n02\.JPEG"),
        ("", r"does not name val_0n01\.JPEG"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(folder, text, message):
    (folder / "val" / "val_annotations.txt").write_text(text)
    with pytest.raises(PareError, match=message):
        read(folder)


def test_classes_that_do_not_fit_are_refused(folder):
    (folder / "train" / "n07" / "images").mkdir(parents=True)
    with pytest.raises(
        PareError, match=r"has the class 'n07', which wnids\.txt does not name"
    ):
        read(folder)
    (folder / "train" / "n07" / "images").rmdir()
    (folder / "train" / "n07").rmdir()
    annotations = folder / "val" / "val_annotations.txt"
    kept = [line for line in annotations.read_text().splitlines() if "n03" not in line]
    annotations.write_text("\n".join(kept))
    for path in (folder / "val" / "images").glob("*n03*"):
        path.unlink()
    with pytest.raises(PareError, match=r"names no image of class 'n03'\. Every class of w"):
        read(folder)
    (folder / "wnids.txt").write_text("n01\n")
    with pytest.raises(PareError, match=r"wnids\.txt names 1 classes\. At least two"):
        read(folder)


def test_a_name_without_a_folder_is_refused():
    with pytest.raises(PareError, match="needs a folder: tiny-imagenet:PATH"):
        load(DataChoice(name="tiny-imagenet"))
