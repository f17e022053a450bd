"""The shares of several processes are the batches of one."""

import pytest
import torch
from small_data import digits, noise, options

from pipeline.core.errors import PareError
from pipeline.training.batches import batch_count, batches, shares
from pipeline.training.loop import train
from pipeline.training.processes import alone, check_processes


def of_all(data, own, world, seed=3):
    """Return the batches of all processes, each put together again."""
    parts = [list(shares(data, own, seed, rank=rank, world=world)) for rank in range(world)]
    for batch in zip(*parts, strict=True):
        images = torch.empty(sum(len(share.labels) for share in batch), *data.shape)
        for rank, share in enumerate(batch):
            images[rank::world] = share.images
        yield images, batch


@pytest.mark.parametrize("world", [1, 2, 4])
def test_together_they_are_fed_the_very_same_images(world):
    data, own = digits(150), options(batch_size=32)
    whole = list(batches(data, own, 3))
    together = list(of_all(data, own, world))
    assert len(whole) == len(together) == batch_count(data, own, world)
    for (images, labels), (put, parts) in zip(whole, together, strict=True):
        assert torch.equal(images, put)
        # The mean of the weighted means is the mean over the batch: here of the labels.
        means = [share.labels.double().mean() * share.weight for share in parts]
        assert sum(means) / world == pytest.approx(labels.double().mean())


def test_another_seed_is_another_augmentation():
    data, own = digits(64), options(batch_size=64)
    (one, _), (other, _) = (next(of_all(data, own, 2, seed)) for seed in (3, 4))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("images", "world", "count"), [(9, 2, 2), (10, 2, 3), (11, 4, 2), (12, 4, 3), (9, 1, 2)]
)
def test_a_last_batch_that_leaves_a_process_without_an_image_is_left_out(images, world, count):
    data, own = noise(images), options(batch_size=4)
    assert batch_count(data, own, world) == count
    for rank in range(world):
        fed = list(shares(data, own, 0, rank=rank, world=world))
        assert len(fed) == count
        assert all(len(share.labels) for share in fed)


def test_what_divides_is_shared_and_the_strategy_of_one_process_is_free():
    check_processes(options(devices=2, batch_size=64))
    check_processes(options(devices=2, strategy="ddp_find_unused_parameters_true"))
    check_processes(options(devices=1, batch_size=63, strategy="fsdp"))
    with pytest.raises(PareError, match=r"batch_size = 63 .*\.batch_size = 62 or 64\."):
        check_processes(options(devices=2, batch_size=63))


def test_alone_is_the_same_training_in_one_process():
    pair = options(devices=2, strategy="ddp", lr=0.3)
    assert alone(pair) == options(lr=0.3)
    assert alone(options(strategy="dp")) == options(strategy="dp")


def test_one_process_does_not_wait_for_others_that_nobody_started(monkeypatch):
    from small_data import conv_net

    from pipeline.core.budget import Budget
    from pipeline.core.recipe import Choice
    from pipeline.methods import create

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    dense = create(Choice(name="dense"), Budget())
    with pytest.raises(
        PareError, match=r"devices = 2: .* nobody started the others.*pare train"
    ):
        train(conv_net(), dense, digits(), options(devices=2), seed=0)
