import io

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.core.errors import PareError
from pipeline.core.recipe import DataChoice
from pipeline.data import image_folder, load


def put(path, pixels=100, size=(4, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(pixels, int):
        pixels = np.full((size[1], size[0], 3), pixels, np.uint8)
    Image.fromarray(np.asarray(pixels, np.uint8)).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes, four images each to train on, two to test on, of four pixels' height."""
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                put(tmp_path / split / name / f"{index}.png", 100 * label + index)
    return tmp_path


def read(folder, **options):
    return load(DataChoice(name=f"image-folder:{folder}", **options))


def test_images_and_labels_come_as_the_folders_say(folder):
    data = read(folder)
    assert data.classes == ["cat", "dog"]
    assert [len(s) for s in (data.train, data.validation, data.test)] == [6, 2, 4]
    assert data.shape == (3, 4, 4)
    for split in (data.train, data.validation, data.test):
        assert torch.equal((split.images[:, 0, 0, 0] >= 100).long(), split.labels)


def test_a_validation_folder_is_used_and_train_is_left_whole(folder):
    for name in ("cat", "dog"):
        put(folder / "val" / name / "a.png", 7)
    data = read(folder)
    assert len(data.train) == 8
    assert data.validation.images.unique().tolist() == [7]


def test_the_shorter_side_is_resized_and_the_centre_kept(folder):
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, :4], wide[:, 4:8], wide[:, 8:] = 10, 20, 30
    put(folder / "test" / "cat" / "0.png", wide)
    assert read(folder).test.images[0].unique().tolist() == [20]
    shrunk = read(folder, size=2).test.images
    assert shrunk.shape[1:] == (3, 2, 2)
    tall = wide.transpose(1, 0, 2)
    put(folder / "test" / "cat" / "0.png", tall)
    assert read(folder).test.images[0].unique().tolist() == [20]


def test_grey_has_one_channel(folder):
    assert read(folder, color="grey").shape == (1, 4, 4)


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "P"])
def test_every_mode_of_image_is_read(folder, mode):
    put(folder / "train" / "cat" / "0.png", 255, mode=mode)
    assert int(read(folder).train.images.max()) == 255


def test_the_first_images_of_each_class_may_be_asked_for(folder):
    data = read(folder, per_class=2)
    assert len(data.train) + len(data.validation) == 4
    assert set(data.train.images.unique().tolist()) <= {0, 1, 100, 101}
    assert len(data.test) == 4


def test_augmentation_follows_the_options(folder):
    assert read(folder, size=16).augmentation == image_folder.Augmentation(2, flip=True)
    assert read(folder, flip=False, shift=1).augmentation == image_folder.Augmentation(1)


def test_other_files_and_hidden_folders_are_left_out(folder):
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    (folder / "train" / ".thumbs").mkdir()
    (folder / "test" / ".thumbs").mkdir()
    assert read(folder).classes == ["cat", "dog"]


def remove(path):
    for file in path.rglob("*"):
        if file.is_file():
            file.unlink()
    for place in sorted(path.rglob("*"), reverse=True):
        place.rmdir()
    path.rmdir()


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("train", "no folder .*train. An image folder holds"),
        ("test", "no folder .*test. An image folder holds"),
        ("train/dog", r"train has one class only \('cat'\). At least two are needed"),
        ("test/dog", "no image of class 'dog' in .*dog. Every class of train/ needs images"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(folder, gone, message):
    remove(folder / gone)
    with pytest.raises(PareError, match=message):
        read(folder)


def test_a_missing_an_empty_and_no_folder_are_refused(folder, tmp_path):
    with pytest.raises(PareError, match=r"no folder .*nowhere"):
        read(tmp_path / "nowhere")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(PareError, match="is empty: it should hold one folder per class"):
        read(tmp_path / "empty")
    with pytest.raises(PareError, match="needs a folder: image-folder:PATH"):
        load(DataChoice(name="image-folder"))


def test_a_class_that_was_never_trained_is_refused(folder):
    put(folder / "test" / "fox" / "0.png")
    with pytest.raises(PareError, match="test has the class 'fox', which train/ does not"):
        read(folder)


def test_a_class_without_an_image_to_validate_on_is_no_problem_but_none_at_all_is(folder):
    for split in ("train",):
        for name in ("cat", "dog"):
            for index in (1, 2, 3):
                (folder / split / name / f"{index}.png").unlink()
    with pytest.raises(PareError, match="the validation split has no image"):
        read(folder)


def harm(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_text("this is text")


@pytest.mark.parametrize("how", ["cut", "empty", "text"])
@pytest.mark.parametrize("place", ["train/cat/0.png", "test/dog/1.png"])
def test_a_corrupt_image_is_refused_by_name_or_skipped_and_counted(folder, how, place):
    harm(folder / place, how)
    with pytest.raises(PareError, match=f"1 corrupt image: .*{place}. Replace them, or"):
        read(folder)
    data = read(folder, on_corrupt="skip", size=4)
    assert data.note == "1 corrupt images skipped"
    assert sum(len(s) for s in (data.train, data.validation, data.test)) == 11


def test_only_some_of_many_corrupt_images_are_named(folder):
    for index in range(4):
        harm(folder / "train" / "dog" / f"{index}.png", "cut")
    with pytest.raises(PareError, match=r"4 corrupt images: .* and 1 more\."):
        read(folder)
    with pytest.raises(PareError, match=r"a class has only corrupt images, such as .*dog"):
        read(folder, on_corrupt="skip")


def test_when_no_image_can_be_read_there_is_no_size(folder):
    for path in (folder / "train").rglob("*.png"):
        harm(path, "text")
    with pytest.raises(PareError, match="no readable image in the training split"):
        read(folder, on_corrupt="skip")


def test_an_image_made_to_fill_the_memory_is_corrupt(folder, monkeypatch):
    put(folder / "train" / "cat" / "0.png", size=(20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PareError, match=r"corrupt image: .*cat/0\.png"):
        read(folder)
    assert read(folder, on_corrupt="skip").note == "1 corrupt images skipped"


def test_more_images_than_fit_in_memory_are_refused_before_they_are_decoded(
    folder, monkeypatch
):
    monkeypatch.setattr(image_folder, "_decode", None)
    with pytest.raises(PareError, match=r"12 images of 1000x1000 need 0\.0 GB .*smaller data"):
        read(folder, size=1000, max_gigabytes=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": "rgb"}, "unknown key 'colour'. Did you mean 'color'"),
        ({"size": 0}, "size = 0: "),
        ({"on_corrupt": "ignore"}, "on_corrupt = 'ignore': .*'refuse' or 'skip'"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused(folder, options, message):
    with pytest.raises(PareError, match=message):
        read(folder, **options)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["png", "jpeg", "bmp", "webp", "ppm"]),
    st.integers(0, 10**6),
    st.integers(1, 255),
    st.integers(0, 10**6),
)
def test_whatever_is_broken_in_an_image_it_is_read_or_corrupt_and_no_crash(
    tmp_path, kind, place, flip, length
):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    content[place % len(content)] ^= flip
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content[: 1 + length % (2 * len(content))])
    found = image_folder._read(path, 5, "rgb")
    assert found is None or (found.shape, found.dtype) == ((5, 5, 3), np.uint8)
