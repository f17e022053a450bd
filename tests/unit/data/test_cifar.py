"""CIFAR as torchvision keeps it on disk, in small; its checksums are not tested here."""

import pickle

import numpy as np
import pytest
import torch

from pipeline.core.errors import PareError
from pipeline.core.recipe import DataChoice
from pipeline.data import load

PER_FILE = 20


def batch(path, seed, classes, key):
    generator = np.random.default_rng(seed)
    labels = [index % classes for index in range(PER_FILE)]
    pixels = generator.integers(0, 256, (PER_FILE, 3 * 32 * 32), dtype=np.uint8)
    pixels[:, 0] = labels  # the first red pixel says what the image is
    path.write_bytes(pickle.dumps({"data": pixels, key: labels}))


@pytest.fixture
def root(tmp_path, monkeypatch):
    import torchvision.datasets.cifar as module

    monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: path_exists(path))
    ten, hundred = tmp_path / "cifar-10-batches-py", tmp_path / "cifar-100-python"
    ten.mkdir()
    hundred.mkdir()
    for number in range(1, 6):
        batch(ten / f"data_batch_{number}", number, 10, "labels")
    batch(ten / "test_batch", 6, 10, "labels")
    names = [f"class {index}" for index in range(10)]
    (ten / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    batch(hundred / "train", 1, 4, "fine_labels")
    batch(hundred / "test", 2, 4, "fine_labels")
    names = [f"fine {index}" for index in range(100)]
    (hundred / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    return tmp_path


def path_exists(path):
    from pathlib import Path

    return Path(path).is_file()


@pytest.mark.parametrize(("name", "train"), [("cifar10", 100), ("cifar100", 20)])
def test_a_root_that_holds_the_data_is_used_as_it_is(root, name, train):
    data = load(DataChoice(name=name, root=str(root), validation_fraction=0.2))
    assert data.name == name
    assert data.shape == (3, 32, 32)
    assert len(data.classes) == int(name.removeprefix("cifar"))
    assert len(data.train) + len(data.validation) == train
    assert len(data.validation) == train // 5
    assert len(data.test) == PER_FILE
    for split in (data.train, data.validation, data.test):
        assert torch.equal(split.images[:, 0, 0, 0].long(), split.labels)
    assert (data.augmentation.shift, data.augmentation.flip) == (4, True)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_data_that_is_not_there_is_refused_by_its_place(tmp_path, name):
    with pytest.raises(PareError, match=f"no {name.upper()} at {tmp_path}. Check data.root"):
        load(DataChoice(name=name, root=str(tmp_path), download=False))


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    import torchvision.datasets.cifar as module

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(module, "download_and_extract_archive", offline)
    with pytest.raises(
        PareError, match=r"could not be downloaded: no route to host\. Put the extracted"
    ):
        load(DataChoice(name="cifar10", root=str(tmp_path)))
