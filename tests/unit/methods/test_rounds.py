"""gradual, lottery and continuous: schedules, rewinding, and what a pruning event costs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import conv_net, digits, options, same_weights

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.recipe import Choice
from pipeline.graph.counting import prunable, prunable_count
from pipeline.methods import Method, apparent, attached, create, plain
from pipeline.methods.continuous import SoftMask
from pipeline.training.loop import train

BUDGET = Budget(weights=0.25)


def method(name: str, **own: object) -> Method:
    return create(Choice(name=name, **own), BUDGET)


def zeros(model: torch.nn.Module) -> int:
    return sum(int((weight == 0).sum()) for weight in apparent(model).values())


class TestGradual:
    @given(st.floats(0, 1), st.floats(0, 1))
    def test_the_ramp_falls_from_all_to_the_budget(self, a: float, b: float) -> None:
        own = method("gradual", begin=0.1, end=0.8)
        early, late = sorted((a, b))
        assert 1 >= own.kept_fraction(early, 0.25) >= own.kept_fraction(late, 0.25) >= 0.25
        assert own.kept_fraction(0.1, 0.25) == 1
        assert own.kept_fraction(0.8, 0.25) == pytest.approx(0.25)

    def test_the_formula_of_the_paper(self) -> None:
        """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 with s_i = 0."""
        own = method("gradual", begin=0.0, end=1.0)
        for done in (0.2, 0.5, 0.9):
            sparsity = 0.75 + (0 - 0.75) * (1 - done) ** 3
            assert own.kept_fraction(done, 0.25) == pytest.approx(1 - sparsity)

    def test_weights_leave_and_never_come_back(self) -> None:
        own = method("gradual", end=1.0)
        model = own.attach(conv_net(), own.phases(4)[0])
        gone = {
            name: torch.zeros_like(w, dtype=torch.bool) for name, w in apparent(model).items()
        }
        for epoch in range(1, 5):
            own.after_epoch(model, epoch / 4)
            now = {name: weight == 0 for name, weight in apparent(model).items()}
            assert all(bool((now[name] | ~gone[name]).all()) for name in now)
            gone = now
        total = prunable_count(model)
        assert zeros(model) == total - BUDGET.kept(total)

    def test_begin_after_end_is_refused(self) -> None:
        with pytest.raises(PareError, match=r"begin = 0.9 is not before end = 0.5"):
            method("gradual", begin=0.9, end=0.5)

    def test_every_event_is_recorded(self) -> None:
        trained = train(conv_net(), method("gradual"), digits(), options(epochs=3), seed=0)
        assert all(epoch.instability is not None for epoch in trained.history)


class TestLottery:
    def test_each_round_takes_the_same_part_of_what_is_left(self) -> None:
        own = method("lottery", rounds=2)
        model = conv_net()
        total = prunable_count(model)
        kept = [sum(int(m.sum()) for m in own._masks_after(model, n).values()) for n in (1, 2)]
        assert kept == [round(0.5 * total), BUDGET.kept(total)]

    def test_what_is_left_starts_from_the_initial_weights(self) -> None:
        own = method("lottery", rounds=1)
        model = conv_net()
        first = own.attach(model, own.phases(2)[0])
        with torch.no_grad():
            for weight in first.parameters():
                weight.add_(torch.randn_like(weight))
        second = plain(own.attach(first, own.phases(2)[1]))
        masks = own._masks_after(first, 1)
        for name, weight in prunable(model).items():
            assert torch.equal(second.get_parameter(name), weight * masks[name])

    def test_continued_goes_on_from_where_it_was_and_reinit_does_not(self) -> None:
        for reset, same in (("continued", True), ("reinit", False)):
            own = method("lottery", rounds=1, reset=reset)
            first = own.attach(conv_net(), own.phases(2)[0])
            with torch.no_grad():
                first[0].weight.add_(0.5)
            second = plain(own.attach(first, own.phases(2)[1]))
            masks = own._masks_after(first, 1)
            expected = first[0].weight * masks["0.weight"]
            assert torch.equal(second[0].weight, expected) is same

    def test_a_step_that_the_first_round_does_not_have_is_refused_at_once(self) -> None:
        own = method("lottery", rounds=1, reset="rewind", rewind_steps=50)
        with pytest.raises(PareError, match=r"rewind_steps = 50, .* first round has 10 opt"):
            train(conv_net(), own, digits(), options(epochs=4), seed=0)

    def test_rewinding_goes_back_to_the_step_asked_for(self) -> None:
        own = method("lottery", rounds=1, reset="rewind", rewind_steps=2)
        first = own.attach(conv_net(), own.phases(2)[0])
        for step in range(4):
            with torch.no_grad():
                first[5].bias.fill_(float(step + 1))
            own.after_step(first, 0.0)
        second = own.attach(first, own.phases(2)[1])
        assert second[5].bias.tolist() == [2.0] * 10

    def test_the_same_rate_in_every_layer_and_half_of_it_in_the_last(self) -> None:
        own = method("lottery", rounds=1, scope="layer")
        masks = own._masks_after(conv_net(width=16), 1)
        rates = [float(mask.double().mean()) for mask in masks.values()]
        assert rates == pytest.approx([0.25, 0.25], abs=0.01)
        half = create(
            Choice(name="lottery", rounds=1, scope="layer", output_rate_factor=0.5),
            Budget(weights=0.6),
        )
        first, last = (
            float(m.double().mean()) for m in half._masks_after(conv_net(width=16), 1).values()
        )
        assert last == pytest.approx(first**0.5, abs=0.01)

    def test_by_layer_the_smallest_of_each_layer_leave(self) -> None:
        own = method("lottery", rounds=1, scope="layer")
        model = conv_net(width=16)
        for name, mask in own._masks_after(model, 1).items():
            weight = apparent(model)[name].abs()
            assert float(weight[mask].min()) >= float(weight[~mask].max())


class TestContinuous:
    def test_masks_become_binary_as_beta_grows(self) -> None:
        own = method("continuous", rounds=1)
        model = own.attach(conv_net(), own.phases(2)[0])
        (_, mask, _), *_ = attached(model, SoftMask)
        with torch.no_grad():
            spread = torch.linspace(-1, 1, mask.s.numel()).view_as(mask.s)
            mask.s.copy_(spread + 0.05 * spread.sign())
        distance = []
        for progress in (0.0, 0.5, 1.0):
            own.after_step(model, progress)
            soft = (mask.beta * mask.s).sigmoid().detach()
            distance.append(float((soft - (mask.s > 0).float()).abs().max()))
        assert mask.beta.item() == pytest.approx(200)
        assert distance == sorted(distance, reverse=True)
        assert distance[0] > 0.4
        assert distance[-1] < 0.01

    def test_the_scale_starts_with_the_weights_themselves(self) -> None:
        own = method("continuous", initial=-0.5)
        model = own.attach(conv_net(), own.phases(3)[0])
        for name, weight in prunable(conv_net()).items():
            torch.testing.assert_close(apparent(model)[name], weight)

    def test_between_rounds_s_is_hardened_below_and_capped_above(self) -> None:
        own = method("continuous", rounds=2)
        first = own.attach(conv_net(), own.phases(3)[0])
        (_, mask, _), *_ = attached(first, SoftMask)
        with torch.no_grad():
            mask.s.copy_(torch.linspace(-1, 1, mask.s.numel()).view_as(mask.s))
        own.after_epoch(first, 1.0)
        second = own.attach(first, own.phases(3)[1])
        (_, after, _), *_ = attached(second, SoftMask)
        assert torch.equal(after.s, (200 * mask.s).clamp(max=0.0))
        assert after.beta.item() == 1.0
        assert mask.beta.item() == pytest.approx(200)  # the argument is left as it was

    def test_the_ticket_starts_from_the_early_weights(self) -> None:
        own = method("continuous", rounds=1, rewind_epochs=0)
        model = conv_net()
        first = own.attach(model, own.phases(2)[0])
        with torch.no_grad():
            first[5].bias.add_(1.0)
        ticket = plain(own.attach(first, own.phases(2)[1]))
        assert torch.equal(ticket[5].bias, model[5].bias)
        total = prunable_count(model)
        assert zeros(ticket) == total - BUDGET.kept(total)

    def test_s_has_no_weight_decay(self) -> None:
        own = method("continuous")
        model = own.attach(conv_net(), own.phases(3)[0])
        groups = own.parameter_groups(model, 0.1)
        assert [group.get("weight_decay") for group in groups] == [None, 0.0]


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("gradual", {}),
        ("lottery", {"rounds": 1}),
        ("lottery", {"rounds": 1, "reset": "rewind", "rewind_steps": 3}),
        ("continuous", {"rounds": 1}),
    ],
)
@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_training_ends_as_an_unbroken_one(name, own, stop_after, tmp_path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int, text: str) -> None:
        if done == stop_after:
            raise Stopped

    fast, data = options(epochs=4), digits()
    whole = train(conv_net(), method(name, **own), data, fast, seed=1)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Stopped):
        train(
            conv_net(), method(name, **own), data, fast, seed=1, checkpoint=path, progress=stop
        )
    again = train(conv_net(), method(name, **own), data, fast, seed=1, checkpoint=path)
    assert same_weights(again.model.state_dict(), whole.model.state_dict())
    assert all(torch.equal(again.masks[key], whole.masks[key]) for key in whole.masks)
    assert [e.instability for e in again.history] == [e.instability for e in whole.history]
