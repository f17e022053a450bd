"""The one loop: the same every time, broken off or not, and what it selects."""

import math

import pytest
import torch
from small_data import conv_net, digits, noise, options, same_weights
from torch import nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.recipe import Choice
from pipeline.data import Augmentation, Dataset, Split
from pipeline.methods import Method, create
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.evaluation import accuracy, logits
from pipeline.training.loop import train

DIGIT = (1, 8, 8)


class Stop(Exception):
    """Stands for a kill right after an epoch."""


def method(name="reparam", shape=None, **own):
    budget = Budget(weights={"dense": 1.0, "filter_norm": 0.6}.get(name, 0.3))
    return create(Choice(name=name, **own), budget, shape)


def trained(how=None, *, epochs=3, seed=0, data=None, stop_after=None, path=None, **changes):
    def progress(done, total, text):
        if done == stop_after:
            raise Stop

    how = how or method()
    return train(
        conv_net(), how, data or digits(), options(epochs=epochs, **changes),
        seed=seed, checkpoint=path, progress=progress,
    )  # fmt: skip


def history(result):
    return [epoch.model_dump(exclude={"seconds"}) for epoch in result.history]


def test_the_same_seed_gives_the_same_network_and_another_does_not():
    one, same, other = trained(), trained(), trained(seed=1)
    assert same_weights(one.model.state_dict(), same.model.state_dict())
    assert same_weights(one.masks, same.masks)
    assert history(one) == history(same)
    assert not same_weights(one.model.state_dict(), other.model.state_dict())


def test_it_learns():
    result = trained(method("dense"), epochs=40, lr=0.2)
    assert result.history[-1].task_loss < 0.7 * result.history[0].task_loss
    assert accuracy(result.model, digits().test, digits()) > 0.5


CASES = {
    "reparam": (method, {}),
    "paper": (lambda: method(mode="paper"), {}),
    "channels": (lambda: method(shape=DIGIT, granularity="channel", soft=0.5), {}),
    "gradual": (lambda: method("gradual"), {}),
    "filter norm": (lambda: method("filter_norm", DIGIT, finetune_epochs=2), {"epochs": 1}),
    "aslp": (lambda: method("aslp"), {}),
    "edge popup": (lambda: method("edge_popup"), {}),
    "hard concrete": (lambda: method("hard_concrete"), {}),
    "supermask": (lambda: method("supermask"), {}),
    "adam": (method, {"optimizer": "adam", "lr": 0.01}),
    "step": (method, {"schedule": "step"}),
    "warm-up": (method, {"warmup_epochs": 1}),
    "constant": (method, {"schedule": "constant"}),
    "magnitude": (lambda: method("magnitude"), {}),
    "finetune": (lambda: method("magnitude", finetune_epochs=2), {"epochs": 2}),
}


@pytest.mark.parametrize("stop_after", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
def test_broken_off_and_continued_it_is_the_unbroken_run_to_the_last_bit(
    tmp_path, case, stop_after
):
    how, changes = CASES[case]
    whole = trained(how(), **changes)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        trained(how(), stop_after=stop_after, path=path, **changes)
    left = Checkpoint.load(path)
    assert len(left.history) == stop_after
    again = trained(how(), path=path, **changes)
    assert same_weights(again.model.state_dict(), whole.model.state_dict())
    assert same_weights(again.masks, whole.masks)
    assert history(again) == history(whole)
    assert again.best_epoch == whole.best_epoch
    # Continued, not repeated: the epochs before the stop took the very same time.
    assert [e.seconds for e in again.history[:stop_after]] == [e.seconds for e in left.history]


def test_the_twin_a_resumed_run_of_another_state_is_noticed(tmp_path):
    whole, path = trained(), tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        trained(stop_after=1, path=path)
    left = Checkpoint.load(path)
    with torch.no_grad():
        left.model["5.bias"][0] += 1e-6
    left.save(path)
    ends = trained(path=path).attached, whole.attached  # of the last epoch, chosen or not
    assert not same_weights(*(end.state_dict() for end in ends))


def test_stopped_twice_is_as_good_as_once(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for stop_after in (1, 2):
        with pytest.raises(Stop):
            trained(stop_after=stop_after, path=path)
    again = trained(path=path)
    assert same_weights(again.model.state_dict(), trained().model.state_dict())


def test_killed_while_a_checkpoint_is_written_the_one_before_counts(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        trained(stop_after=2, path=path)
    path.with_suffix(".partial").write_bytes(path.read_bytes()[:100])
    again = trained(path=path)
    assert same_weights(again.model.state_dict(), trained().model.state_dict())


@pytest.mark.parametrize("harm", ["cut", "text", "other"])
def test_a_damaged_checkpoint_is_named_and_never_forgotten_in_silence(tmp_path, harm):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        trained(stop_after=1, path=path)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "text":
        path.write_text("no checkpoint")
    else:
        torch.save({"phase": 0}, path)
    with pytest.raises(PareError, match=r"cannot be resumed from .*checkpoint\.pt.*--fresh"):
        trained(path=path)
    assert path.exists()


class Scripted(Method):
    """Keeps everything, and pretends to have been as accurate as it is told."""


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.1, 0.9, 0.5], 2), ([0.5, 0.5, 0.5], 3), ([0.9, 0.1, 0.9], 3), ([0.9, 0.2, 0.1], 1)],
)
def test_the_last_of_the_most_accurate_pruned_networks_is_kept(monkeypatch, scores, best):
    # The network it starts from, then each epoch's: all is kept, so it is assessed once.
    calls = iter([0.0, *scores])
    monkeypatch.setattr("pipeline.training.loop.accuracy", lambda *args: next(calls))
    states = []
    how = Scripted(Scripted.Params(), Budget())
    after = how.after_epoch
    how.after_epoch = lambda model, progress: (
        after(model, progress),
        states.append({k: v.clone() for k, v in model.state_dict().items()}),
    )
    result = trained(how, recalibration_batches=0)
    assert result.best_epoch == best
    assert same_weights(result.model.state_dict(), states[best - 1])
    assert not same_weights(states[0], states[1])


@pytest.mark.parametrize(
    ("first", "scores", "epoch"),
    [(0.1, [0.4, 0.9, 0.9, 0.2], 3), (0.95, [0.4, 0.9, 0.9, 0.2], 0)],
)
def test_the_reference_is_the_most_accurate_network_seen(monkeypatch, first, scores, epoch):
    """Whatever the phase, pruned or not; a network that starts better stays the reference."""
    events = [first, scores[0], 0.1, scores[1], 0.1, 0.5, 0.5, scores[2], scores[3]]
    # Between the phases, before and after the pruning; then trained and pruned are one.
    calls = iter(events)
    monkeypatch.setattr("pipeline.training.loop.accuracy", lambda *args: next(calls))
    result = trained(method("magnitude", finetune_epochs=2), epochs=2)
    assert result.reference_epoch == epoch
    assert result.best_epoch == 3
    assert next(calls, None) is None


def test_images_with_their_channels_last_give_the_same_network():
    plain, last = (
        train(conv_net(), method("dense"), digits(), options(channels_last=value), seed=0)
        for value in (False, True)
    )
    states = plain.model.state_dict(), last.model.state_dict()
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-4), name


def test_a_ruined_network_is_compared_with_what_it_was(monkeypatch):
    """Fine-tuning cannot hide what the pruning cost: the reference is not the pruned one."""
    tiny = create(Choice(name="magnitude", finetune_epochs=1), Budget(weights=0.004))
    result = train(conv_net(width=8), tiny, digits(600), options(epochs=6, lr=0.1), seed=0)
    data = digits(600)
    reference = accuracy(result.reference, data.test, data)
    assert reference > 0.5
    assert accuracy(result.model, data.test, data) < reference - 0.2


def test_the_best_of_the_final_phase_is_kept_and_not_a_better_one_before():
    result = trained(method("magnitude", finetune_epochs=2), epochs=2)
    assert [(e.phase, e.epoch) for e in result.history] == [
        ("train", 1), ("train", 2), ("finetune", 3), ("finetune", 4),
    ]  # fmt: skip
    assert result.best_epoch in (3, 4)
    for name, mask in result.masks.items():
        assert not result.model.state_dict()[name][~mask].any()


def test_finetuning_goes_on_from_the_trained_weights_at_its_own_rate():
    result = trained(
        method("magnitude", finetune_epochs=1, finetune_lr_factor=0.5), epochs=1,
        schedule="constant", lr=0.04,
    )  # fmt: skip
    assert [epoch.lr for epoch in result.history] == pytest.approx([0.04, 0.02])


@pytest.mark.parametrize(("count", "batch", "seen"), [(9, 4, 8), (10, 4, 10), (3, 4, 3)])
def test_a_lone_last_image_is_left_out_so_that_batch_norm_has_two(count, batch, seen):
    class Count(Scripted):
        images = 0

        def attach(self, model, phase):
            own = super().attach(model, phase)
            own[0].register_forward_hook(self.note)
            return own

        def note(self, module, inputs, output):
            Count.images += len(inputs[0]) if module.training else 0

    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    how = Count(Count.Params(), Budget())
    own = options(batch_size=batch, epochs=2, lr=0.1, recalibration_batches=0)
    result = train(net, how, noise(count), own, seed=0)
    assert Count.images == 2 * seen
    assert result.history[-1].lr == pytest.approx(0, abs=1e-9)  # the schedule is used up


def test_batches_of_one_are_trained_where_they_are_asked_for():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    result = train(
        net, method("dense"), noise(5), options(batch_size=1, augment=False), seed=0
    )
    assert math.isfinite(result.history[0].task_loss)


def test_without_augmentation_the_images_stay_as_they_are(monkeypatch):
    from pipeline.data import Augmentation

    def refuse(self, images, generator):
        raise AssertionError("augmented")

    monkeypatch.setattr(Augmentation, "__call__", refuse)
    assert trained(epochs=1, augment=False).history
    with pytest.raises(AssertionError, match="augmented"):
        trained(epochs=1)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("before", [(False, False), (True, True), (True, False)])
def test_the_random_state_and_the_determinism_of_the_caller_are_left(before, deterministic):
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    try:
        torch.manual_seed(11)
        state = torch.get_rng_state()
        trained(epochs=1, deterministic=deterministic)
        with pytest.raises(Stop):
            trained(epochs=2, stop_after=1, deterministic=deterministic)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.are_deterministic_algorithms_enabled() is before[0]
        assert torch.is_deterministic_algorithms_warn_only_enabled() is before[1]
    finally:
        torch.use_deterministic_algorithms(False)


def test_progress_is_told_of_every_epoch_of_every_phase():
    seen = []
    train(
        conv_net(), method("magnitude", finetune_epochs=1), digits(), options(epochs=2),
        seed=0, progress=lambda *args: seen.append(args),
    )  # fmt: skip
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert [epoch.epoch for _, _, epoch in seen] == [done for done, _, _ in seen]


def test_the_method_is_asked_after_each_step_and_epoch():
    class Noted(Scripted):
        def __init__(self):
            super().__init__(Scripted.Params(), Budget())
            self.steps, self.epochs = [], []

        def after_step(self, model, progress):
            self.steps.append(progress)

        def after_epoch(self, model, progress):
            self.epochs.append(progress)

    how = Noted()
    trained(how, epochs=2, batch_size=50)
    assert how.steps == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert how.epochs == [0.5, 1.0]


def test_logits_leave_the_mode_of_the_network_and_do_not_depend_on_batches(monkeypatch):
    model, images = conv_net().train(), digits().test.images
    whole = logits(model, images, digits())
    assert model.training
    monkeypatch.setattr("pipeline.data._BATCH", 7)
    assert torch.allclose(logits(model, images, digits()), whole, atol=1e-6)
    assert not whole.requires_grad


def test_accuracy_is_the_share_of_right_answers():
    data = noise(8)

    class Always(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([1.0, 0.0]))

        def forward(self, x):
            return self.bias.expand(len(x), 2)

    assert accuracy(Always(), data.test, data) == 0.5


@pytest.mark.parametrize(("batch", "fed"), [(7, [7] * 8 + [4]), (512, [60])])
def test_never_more_than_a_batch_is_normalised(monkeypatch, batch, fed):
    seen = []
    normalise = Dataset.normalise

    def noted(self, images):
        seen.append(len(images))
        return normalise(self, images)

    monkeypatch.setattr(Dataset, "normalise", noted)
    monkeypatch.setattr("pipeline.data._BATCH", batch)
    accuracy(conv_net(), digits().test, digits())
    assert seen == fed


class LeNet(nn.Module):
    """A network as users write it: `view` takes no tensor whose channels are last."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 8, 2)

    def forward(self, x):
        return self.fc(x.view(-1, 3 * 8 * 8))


def test_a_network_that_views_its_images_is_trained_with_augmentation():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.arange(40) % 2)
    move = Augmentation(shift=1, flip=True)
    data = Dataset("own", ["a", "b"], split, split, split, [0.5] * 3, [0.3] * 3, move)
    result = train(LeNet(), method(), data, options(), seed=0)
    assert [math.isfinite(epoch.task_loss) for epoch in result.history] == [True]


def test_a_mixed_precision_trains_and_keeps_the_weights_in_float32():
    result = trained(epochs=1, precision="bf16-mixed")
    assert math.isfinite(result.history[0].task_loss)
    assert {w.dtype for w in result.model.parameters()} == {torch.float32}
    assert not same_weights(
        result.model.state_dict(), trained(epochs=1).model.state_dict()
    )  # it is not float32 under another name


@pytest.mark.parametrize(
    ("name", "value"),
    [("accelerator", "bananas"), ("strategy", "hope")],
)
def test_hardware_that_is_not_there_is_refused_by_its_option(name, value):
    with pytest.raises(PareError, match=rf"cannot train with .*train\.{name} = '{value}'"):
        trained(**{name: value})


def test_a_training_that_diverges_says_what_to_lower():
    with pytest.raises(PareError, match=r"diverged in epoch 1.*Lower train\.lr"):
        trained(method("dense"), lr=1e30, epochs=2)
