"""The scheduled reparametrization: gates that follow the budget, by weight and by channel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import conv_net, digits, options
from torch import nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.recipe import Choice
from pipeline.graph.counting import count, prunable, prunable_count
from pipeline.graph.ranking import lamp, largest_within, thresholds, top_k
from pipeline.graph.surgery import compact
from pipeline.methods import Method, Phase, apparent, attached, create, masked, plain
from pipeline.methods._channels import ByChannel, ChannelGate
from pipeline.methods._gates import OPEN, Gate, _Gated, h, half_way
from pipeline.methods._paper import Paper
from pipeline.methods.reparam import Reparam
from pipeline.models import build
from pipeline.training.loop import train

PHASE = Phase(name="train", epochs=1)
SHAPE = (1, 8, 8)


def method(budget: Budget | float = 0.2, **own: object) -> Method:
    limit = budget if isinstance(budget, Budget) else Budget(weights=budget)
    return create(Choice(name="reparam", **own), limit, SHAPE)


def resnet() -> nn.Module:
    return build("resnet8", {"width": 8}, classes=10, channels=1, size=8, seed=0)


class TestGate:
    @given(st.floats(-3, 3), st.floats(0.5, 50), st.sampled_from([2, 4, 6]))
    def test_one_pass_equals_the_formula_and_its_gradient(self, x, t, n):
        one = torch.tensor([x], dtype=torch.float64, requires_grad=True)
        other = torch.tensor([x], dtype=torch.float64, requires_grad=True)
        width = torch.tensor(t, dtype=torch.float64)
        _Gated.apply(one, width, n).sum().backward()
        (other * h(other, width, n)).sum().backward()
        assert torch.allclose(_Gated.apply(one, width, n), other * h(other, width, n))
        if abs(t * x) ** n < 1e6:  # beyond it the formula's own gradient is cut off
            assert torch.allclose(one.grad, other.grad, rtol=1e-9, atol=1e-12)

    @given(st.floats(1e-6, 3), st.floats(0.5, 50))
    def test_in_float32_it_is_off_by_no_more_than_a_weights_own_precision(self, x, t):
        one, width = torch.tensor([x], requires_grad=True), torch.tensor(t)
        exact = torch.tensor([x], dtype=torch.float64, requires_grad=True)
        apparent_weight = _Gated.apply(one, width, 4)
        apparent_weight.sum().backward()
        expected = exact * h(exact, width.double(), 4)
        expected.sum().backward()
        assert abs(apparent_weight.item() - expected.item()) <= 1e-6 * x
        assert float(one.grad) == pytest.approx(float(exact.grad), rel=1e-4, abs=1e-6)

    def test_the_twin_sees_a_gradient_without_the_gates_own(self):
        weight = torch.tensor([0.9], dtype=torch.float64, requires_grad=True)
        (weight * h(weight, torch.tensor(1.0).double())).sum().backward()
        assert not torch.allclose(weight.grad, h(weight, torch.tensor(1.0).double()))

    @pytest.mark.parametrize("n", [2, 4, 6, 8])
    def test_half_way_is_half_way(self, n):
        assert float(h(torch.tensor(half_way(n)), torch.tensor(1.0), n)) == pytest.approx(0.5)

    def test_an_open_gate_changes_nothing(self):
        weight = torch.tensor([-5.0, -1e-9, 1e-4, 3.0])
        gated = Gate(weight, 4)(weight)
        assert torch.allclose(gated, weight, rtol=1e-5, atol=1e-9)
        assert torch.isfinite(gated).all()

    def test_whether_it_is_hard_travels_with_the_state(self):
        gate = Gate(torch.ones(2), 4)
        gate.hard = True
        other = Gate(torch.ones(2), 4)
        other.load_state_dict(gate.state_dict())
        assert other.hard


class TestRanking:
    def test_lamp_is_the_definition(self):
        sizes = {"a": torch.rand(50).double(), "b": 100 * torch.rand(30).double()}
        for name, scores in lamp(sizes).items():
            for i, score in enumerate(scores):
                rest = sizes[name][sizes[name] >= sizes[name][i]]
                assert float(score) == pytest.approx(
                    float(sizes[name][i] ** 2 / rest.square().sum())
                )

    def test_no_scale_of_a_layer_changes_what_is_kept_and_no_layer_is_emptied(self):
        sizes = {"a": torch.rand(50), "b": torch.rand(30), "c": torch.rand(4)}
        scaled = {"a": 1000 * sizes["a"], "b": sizes["b"] / 1000, "c": sizes["c"]}
        masks, again = top_k(lamp(sizes), 9), top_k(lamp(scaled), 9)
        assert all(torch.equal(masks[name], again[name]) for name in masks)
        assert all(mask.any() for mask in masks.values())
        assert not top_k(scaled, 9)["b"].any()  # the twin: magnitudes empty it

    @settings(max_examples=30)
    @given(part=st.floats(0.02, 1), scale_free=st.booleans())
    def test_thresholds_part_what_the_ranking_keeps(self, part, scale_free):
        sizes = {n: w.abs() for n, w in prunable(resnet()).items()}
        total = sum(size.numel() for size in sizes.values())
        borders = thresholds(
            sizes, dict.fromkeys(sizes, 1.0), part * total, scale_free=scale_free
        )
        kept = sum(int((size > borders[name]).sum()) for name, size in sizes.items())
        assert kept == int(part * total)
        masks = top_k(lamp(sizes) if scale_free else sizes, kept)
        for name, size in sizes.items():
            assert torch.equal(size > borders[name], masks[name])

    def test_large_layers_are_sampled_and_near_enough(self):
        sizes = {"a": torch.rand(500_000), "b": torch.rand(100)}
        borders = thresholds(sizes, {"a": 1.0, "b": 1.0}, 50_000, scale_free=False)
        kept = sum(int((size > borders[name]).sum()) for name, size in sizes.items())
        assert kept == pytest.approx(50_000, rel=0.03)

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 6))
    def test_the_largest_that_fit_are_kept_and_nothing_more_would(self, prices, limit):
        costs = torch.tensor(prices).double()
        scores = torch.arange(len(prices), 0, -1).double()

        def fits(kept: torch.Tensor) -> bool:
            return float(costs[kept].sum()) <= limit

        kept = largest_within(scores, fits)
        assert fits(kept)
        for index in range(len(prices)):
            if not kept[index]:
                more = kept.clone()
                more[index] = True
                assert not fits(more)


class TestSchedule:
    def test_the_mode_and_the_granularity_choose_the_class(self):
        assert type(method()) is Reparam
        assert type(method(mode="paper")) is Paper
        assert type(method(granularity="channel")) is ByChannel

    @pytest.mark.parametrize(
        ("own", "said"),
        [
            ({"mixing": 2.0}, "mixing is an option of mode = 'paper', not 'scheduled'"),
            ({"mode": "paper", "soft": 0.3}, "soft is an option of mode = 'scheduled'"),
            (
                {"mode": "paper", "granularity": "channel"},
                "granularity is an option of mode = 'scheduled'",
            ),
        ],
    )
    def test_an_option_that_would_be_ignored_is_refused(self, own, said):
        with pytest.raises(PareError, match=said):
            method(**own)

    def test_the_gates_count_what_the_ramp_leaves(self):
        one = method(0.1, soft=0.8, end=0.6)
        own = one.attach(resnet(), PHASE)
        total = prunable_count(own)
        for progress in (0.1, 0.2, 0.5, 0.7):
            one.after_step(own, progress)
            open_ = sum(int((gate.gates(w) > 0.5).sum()) for _, gate, w in attached(own, Gate))
            assert open_ == pytest.approx(one.left(progress, 0.1) * total, abs=2)
        assert not any(gate.hard for _, gate, _ in attached(own, Gate))

    def test_hard_gates_are_the_masks_and_keep_the_apparent_weights(self):
        one = method(0.1, soft=0.75)
        own = one.attach(resnet(), PHASE)
        one.after_step(own, 0.6)
        before = {name: weight.clone() for name, weight in apparent(own).items()}
        masks = one.masks(own)
        one.after_step(own, 0.75)
        for name, weight in apparent(own).items():
            assert torch.allclose(weight, before[name] * masks[name], rtol=1e-5, atol=1e-9)
            assert (weight[masks[name]] != 0).all()
        kept = sum(int(mask.sum()) for mask in one.masks(own).values())
        assert kept == one.kept(own)
        assert one.cost(own) == pytest.approx(kept / prunable_count(own))

    def test_what_is_trained_in_the_end_is_the_pruned_network(self):
        result = train(conv_net(), method(0.3), digits(), options(epochs=4), seed=0)
        last = result.history[-1]
        assert last.accuracy == last.pruned_accuracy
        assert result.history[0].cost > last.cost

    def test_what_the_masks_cost_at_once_is_recorded_where_they_come(self):
        result = train(conv_net(), method(0.1, soft=0.5), digits(), options(epochs=4), seed=0)
        measured = [epoch.instability is not None for epoch in result.history]
        assert measured == [False, True, False, False]

    def test_the_gates_move_a_hundred_times_and_not_at_every_step(self, monkeypatch):
        one = method(0.1)
        own = one.attach(resnet(), PHASE)
        moved = []
        monkeypatch.setattr(one, "widen", lambda model, part: moved.append(part))
        for step in range(1000):
            one.after_step(own, step / 2000)
        assert len(moved) == 50  # half of the training has passed
        assert moved == sorted(moved, reverse=True)

    def test_a_layer_that_is_kept_whole_has_an_open_gate(self):
        one = method(1.0)
        own = one.attach(conv_net(), PHASE)
        one.after_step(own, 0.3)
        assert all(float(gate.t) == pytest.approx(OPEN) for _, gate, _ in attached(own, Gate))


class TestUnits:
    @pytest.mark.parametrize("name", ["reparam", "gradual", "magnitude"])
    @pytest.mark.parametrize(
        "budget",
        [
            Budget(macs=0.2),
            Budget(bytes=10_000),
            Budget(latency_ms=0.01, target="raspberry-pi-4b"),
        ],
    )
    def test_what_is_kept_costs_no_more_than_the_budget_and_hardly_less(self, name, budget):
        one = create(Choice(name=name), budget, SHAPE)
        own = one.attach(resnet(), PHASE)
        masks = one.masks(own)
        prices = one.prices(own)
        assert prices.part < 1
        assert prices.cost(masks) <= prices.limit
        assert prices.cost(masks) > 0.98 * prices.limit

    def test_the_papers_cost_is_priced(self):
        one = method(Budget(macs=0.2), mode="paper", t=5.0)
        own = one.attach(resnet(), PHASE)
        layers = {layer.name: layer for layer in count(resnet(), SHAPE).layers}
        macs = sum(
            layers[name.removesuffix(".weight")].macs
            * float(h(weight, torch.tensor(5.0)).mean())
            for name, weight in apparent(resnet()).items()
        )
        dense = sum(layer.macs for layer in layers.values())
        assert one.cost(own) == pytest.approx(macs / dense, rel=1e-4)
        expected = ((macs - 0.2 * dense) / macs) ** 2
        assert float(one.loss(own, 1.0).detach()) == pytest.approx(expected, rel=1e-3)

    def test_a_method_that_counts_weights_only_says_so(self):
        with pytest.raises(PareError, match=r"'lottery' cannot obey budget\.macs, only"):
            create(Choice(name="lottery"), Budget(macs=0.5), SHAPE)

    @pytest.mark.parametrize(
        ("own", "said"),
        [
            ({"macs": 0.5, "bytes": 100}, "one unit, but sets macs and bytes"),
            ({"weights": 0.5, "macs": 0.5}, "sets weights and macs.*weights = 1 lifts"),
            ({"latency_ms": 1.0}, "latency_ms and target go together"),
            ({"target": "raspberry-pi-4b"}, "latency_ms and target go together"),
        ],
    )
    def test_a_budget_in_two_units_or_without_its_target_is_refused(self, own, said):
        with pytest.raises(ValueError, match=said):
            Budget(**own)


class TestChannels:
    def channels(self, budget: Budget | float = 0.4, **own: object) -> Method:
        return method(budget, granularity="channel", **own)

    @pytest.mark.parametrize(
        "budget",
        [
            Budget(weights=0.4),
            Budget(macs=0.5),
            Budget(latency_ms=0.015, target="raspberry-pi-4b"),
        ],
    )
    def test_compaction_takes_whole_channels_and_the_count_is_the_budgets(self, budget):
        one = self.channels(budget)
        own = one.attach(resnet(), PHASE)
        masks = one.masks(own)
        small, plan = compact(masked(own, masks).eval(), SHAPE)
        assert plan.removed
        assert not [kept for kept in plan.kept if "live" in kept.why]
        counted = count(small, SHAPE)
        prices = one.prices(own)
        unit = {"weights": counted.weights, "macs": counted.macs}.get(budget.unit)
        if unit is not None:
            assert unit == prices.cost(masks)
        assert 0.9 * prices.limit < prices.cost(masks) <= prices.limit

    def widths(self, budget: Budget) -> dict[str, int]:
        """Return the kept filters of each convolution after hardening, without the stem's."""
        one = self.channels(budget)
        own = one.attach(build("resnet20", {}, classes=10, channels=1, size=8, seed=0), PHASE)
        masks = one.masks(own)
        assert one.prices(own).cost(masks) <= one.prices(own).limit
        return {n: int(m.flatten(1).any(1).sum()) for n, m in masks.items() if m.dim() == 4}

    def test_widths_are_the_multiples_that_kernels_like(self):
        odd = self.widths(Budget(macs=0.5))
        assert [width for width in odd.values() if width % 4]  # the twin
        even = self.widths(Budget(macs=0.5, multiple=4))
        assert not [width for width in even.values() if width % 4]
        assert sum(even.values()) > 0.8 * sum(odd.values())

    def test_channels_that_leave_together_have_one_gate(self):
        one = self.channels(Budget(macs=0.5, multiple=4))
        own = one.attach(resnet(), PHASE)
        one.widen(own, 0.5)
        assert one.cost(own) == pytest.approx(0.5, rel=1e-3)
        gates = {name: gate.gate for name, gate, _ in attached(own, ChannelGate)}
        rows = gates["blocks.2.conv1.weight"].amax((1, 2, 3))
        assert sorted(rows.unique(return_counts=True)[1].tolist()) == [4] * (len(rows) // 4)

    def test_a_multiple_that_cannot_be_paid_for_is_refused(self):
        with pytest.raises(PareError, match=r"8 channels in each layer costs"):
            self.widths(Budget(macs=0.02, multiple=8))

    def test_a_multiple_of_channels_is_refused_where_single_weights_leave(self):
        for name in ("reparam", "gradual"):
            with pytest.raises(PareError, match=r"budget\.multiple = 8 counts channels"):
                create(Choice(name=name), Budget(weights=0.5, multiple=8), SHAPE)

    @pytest.mark.parametrize("part", [0.9, 0.5, 0.2, 0.1])
    def test_soft_gates_spend_what_is_granted(self, part):
        one = self.channels(Budget(macs=0.05))
        own = one.attach(resnet(), PHASE)
        one.widen(own, part)
        assert one.cost(own) == pytest.approx(part, rel=1e-3)

    def test_a_channel_vanishes_from_all_that_is_tied_to_it(self):
        one = self.channels(0.4)
        own = one.attach(resnet(), PHASE)
        one.after_step(own, 0.3)
        gates = {name: gate.gate for name, gate, _ in attached(own, ChannelGate)}
        block, shortcut = gates["blocks.1.conv2.weight"], gates["blocks.1.shortcut.weight"]
        rows = block.amax((1, 2, 3)), shortcut.amax((1, 2, 3))
        readers = gates["blocks.2.conv1.weight"].amax((0, 2, 3))
        assert 0 < float(rows[0].min()) < 0.4 < 0.6 < float(rows[0].max())
        order = [row.argsort(stable=True).tolist() for row in (*rows, readers)]
        assert order[0] == order[1] == order[2]

    def test_no_layer_loses_its_last_channel(self):
        one = self.channels(0.02)
        own = one.attach(resnet(), PHASE)
        with torch.no_grad():
            for name, _, latent in attached(own, ChannelGate):
                latent.mul_(1e-3 if "conv1" in name else 1.0)
        masks = one.masks(own)
        assert all(mask.any() for mask in masks.values())

    def test_a_network_of_zeros_has_closed_gates_and_no_nan(self):
        one = self.channels(0.4)
        own = one.attach(resnet(), PHASE)
        with torch.no_grad():
            for _, _, latent in attached(own, ChannelGate):
                latent.zero_()
        one.after_step(own, 0.5)
        assert all(
            torch.isfinite(gate.gate).all() for _, gate, _ in attached(own, ChannelGate)
        )

    def test_hard_gates_stay_as_they_are_and_survive_a_restart(self):
        one = self.channels(0.4)
        own = one.attach(resnet(), PHASE)
        one.after_step(own, 0.5)
        one.after_step(own, 0.95)
        masks = one.masks(own)
        other = self.channels(0.4)
        again = other.attach(resnet(), PHASE)
        again.load_state_dict(own.state_dict())
        other.restore(one.state())
        assert other.is_hard(again)
        resumed = other.masks(again)
        assert all(torch.equal(masks[name], resumed[name]) for name in masks)

    def test_what_is_trained_in_the_end_is_the_pruned_network(self):
        one = self.channels(0.5)
        result = train(resnet(), one, digits(), options(epochs=4), seed=0)
        last = result.history[-1]
        assert last.accuracy == last.pruned_accuracy
        small, _ = compact(masked(result.model, result.masks).eval(), SHAPE)
        kept = sum(int(mask.sum()) for mask in result.masks.values())
        assert count(small, SHAPE).weights == kept <= one.kept(plain(result.model))

    def test_a_network_without_a_channel_to_remove_is_refused(self):
        flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        with pytest.raises(PareError, match="no channel of this network can leave"):
            self.channels().attach(flat, PHASE)

    def test_without_the_shape_of_an_image_it_says_so(self):
        one = create(Choice(name="reparam", granularity="channel"), Budget(weights=0.4))
        with pytest.raises(PareError, match="needs the shape of an image"):
            one.attach(resnet(), PHASE)
