"""filter_norm: the filters of the definition, whole groups, and the sizes of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from small_data import conv_net, digits, options, same_weights
from torch import Tensor, nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.recipe import Choice
from pipeline.graph.counting import count, prunable, prunable_count
from pipeline.graph.equivalence import prove
from pipeline.graph.surgery import compact
from pipeline.methods import Method, apparent, create, masked
from pipeline.models import build
from pipeline.training.loop import train

SHAPE = (3, 16, 16)


def method(
    budget: float = 1.0, shape: tuple[int, ...] | None = SHAPE, **own: object
) -> Method:
    return create(Choice(name="filter_norm", **own), Budget(weights=budget), shape)


def network(name: str, width: int = 8, **own: object) -> nn.Module:
    options = {"width": width, **own}
    return build(name, options, classes=5, channels=3, size=16, seed=1)


def gone(masks: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Return the filters that leave, by layer."""
    rows = {
        name: (~mask.flatten(1).any(1)).nonzero().flatten() for name, mask in masks.items()
    }
    return {n.removesuffix(".weight"): r.tolist() for n, r in rows.items() if r.numel()}


def kept(masks: Mapping[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def filters(*values: list[float]) -> Tensor:
    """Return 1x1 filters ``[out, in, 1, 1]``."""
    return torch.tensor(values)[:, :, None, None]


def chain(first: Tensor, second: Tensor) -> nn.Module:
    """Return two 1x1 convolutions of given filters and a third that reads both."""
    tensors = (first, second, torch.ones(2, second.shape[0], 1, 1))
    convs = [nn.Conv2d(w.shape[1], w.shape[0], 1) for w in tensors]
    with torch.no_grad():
        for conv, weight in zip(convs, tensors, strict=True):
            conv.weight.copy_(weight)
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])


class TestWhichFilters:
    def test_l1_and_l2_as_the_definition_says(self) -> None:
        """By magnitudes 2.1 < 3, by squares 2.1 > sqrt(3)."""
        first = filters([1.0, 1.0, 1.0], [2.1, 0.0, 0.0], [9.0, 9.0, 9.0])
        model = chain(first, torch.ones(3, 3, 1, 1))
        assert gone(method(rate=0.3, norm="l1").masks(model))["0"] == [1]
        assert gone(method(rate=0.3, norm="l2").masks(model))["0"] == [0]

    def test_greedy_leaves_out_the_kernels_of_maps_that_left(self) -> None:
        first = filters([0.1, 0.0, 0.0], [5.0, 0.0, 0.0])
        second = filters([8.0, 1.0], [1.0, 2.0])  # nine against three; without map 0, 1 and 2
        model = chain(first, second)
        independent = method(rate=0.5, selection="independent").masks(model)
        greedy = method(rate=0.5, selection="greedy").masks(model)
        assert gone(independent) == {"0": [0], "2": [1]}
        assert gone(greedy) == {"0": [0], "2": [0]}

    def test_every_layer_by_hand(self) -> None:
        model = network("conv2", hidden=16)
        masks = method(rate=0.4).masks(model)
        for layer in ("0", "2"):
            norms = model.get_submodule(layer).weight.detach().abs().sum((1, 2, 3))
            assert gone(masks)[layer] == norms.argsort()[:4].sort().values.tolist()
        assert gone(masks).keys() == {"0", "2"}  # units of linear layers stay

    @pytest.mark.parametrize("norm", ["l1", "l2"])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_filters_of_a_plain_network_are_those_of_the_definition(
        self, norm: str, seed: int
    ) -> None:
        """Section 3.1: sort the filters of a layer by the norm, prune the m smallest."""
        model = build("vgg16", {"width": 8}, classes=5, channels=3, size=32, seed=seed)
        masks = create(
            Choice(name="filter_norm", rate=0.25, norm=norm), Budget(), (3, 32, 32)
        ).masks(model)
        power = 1 if norm == "l1" else 2
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                sums = [
                    float((f.double().abs() ** power).sum()) for f in module.weight.detach()
                ]
                m = math.ceil(len(sums) / 4)
                smallest = sorted(sorted(range(len(sums)), key=sums.__getitem__)[:m])
                assert gone(masks)[name] == smallest, name

    def test_what_reads_a_filter_leaves_with_it(self) -> None:
        model = network("conv2", hidden=16)
        masks = method(rate=0.4).masks(model)
        for before, after, columns in (("0", "2", 1), ("2", "6", 64)):
            lost = gone(masks)[before]
            seen = masks[f"{after}.weight"].flatten(2).any(-1) if columns == 1 else None
            read = (seen if seen is not None else masks[f"{after}.weight"]).any(0)
            expected = [row * columns + n for row in lost for n in range(columns)]
            assert (~read).nonzero().flatten().tolist() == expected

    def test_a_filter_stays_in_every_layer(self) -> None:
        model = network("conv2", hidden=16)
        assert [len(rows) for rows in gone(method(rate=0.99).masks(model)).values()] == [7, 7]

    @pytest.mark.parametrize(("rate", "leaving"), [(0.1, 3), (0.0, 0), (0.11, 4)])
    def test_the_count_is_rounded_up_and_a_tenth_of_30_is_3(self, rate, leaving) -> None:
        model = nn.Sequential(nn.Conv2d(3, 30, 1), nn.Conv2d(30, 2, 1))
        assert len(gone(method(rate=rate).masks(model)).get("0", [])) == leaving


class TestOptions:
    def test_skipped_layers_lose_nothing(self) -> None:
        masks = method(rate=0.5, skip=["blocks.0", "blocks.[78].conv1"]).masks(
            network("resnet20")
        )
        assert gone(masks).keys() == {f"blocks.{n}.conv1" for n in range(1, 7)}

    def test_rates_by_layer_the_last_that_matches(self) -> None:
        model = network("resnet20")
        masks = method(rates={"blocks.*.conv1": 0.25, "blocks.1": 0.5}).masks(model)
        lost = {name: len(rows) for name, rows in gone(masks).items()}
        assert (lost["blocks.0.conv1"], lost["blocks.1.conv1"]) == (2, 4)
        only = method(rates={"blocks.4.conv1": 0.5}).masks(model)
        assert gone(only).keys() == {"blocks.4.conv1"}
        both = method(rate=0.125, rates={"blocks.4.conv1": 0.5}).masks(model)
        lost = {name: len(rows) for name, rows in gone(both).items()}
        assert (lost["blocks.4.conv1"], lost["blocks.5.conv1"]) == (8, 2)

    @pytest.mark.parametrize(
        ("own", "message"),
        [
            (
                {"skip": ["blocks.0.conv3"]},
                r"no layer named 'blocks.0.conv3'. Did you mean 'bl",
            ),
            ({"rates": {"block.0": 0.5}}, "no layer named 'block.0'"),
            (
                {"rates": {"fc": 0.5}},
                r"names 'fc', which holds no layer.*: blocks.0.conv1, bl",
            ),
            ({"rates": {"conv1": 1.0}}, "rates.conv1 = 1.0"),
            ({"rate": 1.0}, "rate = 1.0"),
            (
                {"rounds": 10, "finetune_epochs": 10},
                "rounds = 10, but the network has 9 layers",
            ),
            ({"rounds": 2}, "rounds = 2 needs finetune_epochs of at least 2"),
        ],
    )
    def test_what_cannot_be_is_refused_before_the_training(self, own, message) -> None:
        model, phase = network("resnet20"), method().phases(1)[0]
        with pytest.raises(PareError, match=message):
            method(**own).attach(model, phase)

    def test_without_a_shape_it_says_what_it_needs(self) -> None:
        with pytest.raises(PareError, match=r"'filter_norm' .* needs the shape of one image"):
            method(shape=None).masks(network("resnet20"))

    def test_a_network_without_convolutions_is_refused(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 2))
        with pytest.raises(
            PareError, match=r"no convolution .* can lose a filter.*another method"
        ):
            method(shape=(3, 4, 4)).masks(model)


class TestResidual:
    """Blocks 3 and 6 of shortcut B project; stage 1 adds to the stem and has none."""

    def test_the_projection_decides_for_its_stage(self) -> None:
        model = network("resnet20", shortcut="B")
        masks = method(rate=0.25).masks(model)
        found = gone(masks)
        for first, blocks in ((3, (3, 4, 5)), (6, (6, 7, 8))):
            weight = model.get_submodule(f"blocks.{first}.shortcut.0").weight.detach()
            smallest = weight.abs().sum((1, 2, 3)).argsort()[: weight.shape[0] // 4]
            chosen = smallest.sort().values.tolist()
            assert found[f"blocks.{first}.shortcut.0"] == chosen
            assert all(found[f"blocks.{block}.conv2"] == chosen for block in blocks)
        assert "conv1" not in found
        assert not any(f"blocks.{block}.conv2" in found for block in (0, 1, 2))
        assert all(f"blocks.{block}.conv1" in found for block in range(9))

    def test_only_the_first_of_a_block_if_asked(self) -> None:
        masks = method(rate=0.25, residual="first").masks(network("resnet20", shortcut="B"))
        assert gone(masks).keys() == {f"blocks.{block}.conv1" for block in range(9)}

    def test_padded_shortcuts_leave_only_the_first_of_a_block(self) -> None:
        masks = method(rate=0.25).masks(network("resnet20"))
        assert gone(masks).keys() == {f"blocks.{block}.conv1" for block in range(9)}

    def test_a_stage_is_skipped_by_any_of_its_layers(self) -> None:
        masks = method(rate=0.25, skip=["blocks.4.conv2"]).masks(
            network("resnet20", shortcut="B")
        )
        assert "blocks.3.shortcut.0" not in gone(masks)
        assert "blocks.6.shortcut.0" in gone(masks)

    def test_the_last_convolution_of_a_bottleneck_is_no_projection(self) -> None:
        """ResNet50 adds the 1x1 conv3 of each block to a 1x1 projection of its input."""
        model = build("torchvision:resnet50", {"width_per_group": 4}, classes=2, channels=3,
                      size=32, seed=0)  # fmt: skip
        own = method(rate=0.25, shape=(3, 32, 32))
        own.masks(model)
        names = [layer.name for layer in own._layers]
        assert "layer1.0.downsample.0" in names
        assert not any(name.endswith("conv3") for name in names)

    def test_a_depthwise_filter_follows_the_one_before_it(self) -> None:
        model = network("mobilenet_v1", width=4)
        found = gone(method(rate=0.25).masks(model))
        convs = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
        for before, depthwise in zip(convs[:-1:2], convs[1::2], strict=True):
            assert found[before] == found[depthwise]


class TestBudget:
    @pytest.mark.parametrize("budget", [0.9, 0.5, 0.2])
    def test_the_smallest_rate_that_fits(self, budget) -> None:
        model = network("vgg16")
        limit = Budget(weights=budget).kept(prunable_count(model))
        masks = method(budget).masks(model)
        assert kept(masks) <= limit
        one = len(gone(masks)["40"])  # of 64 filters, the widest layer
        assert kept(method(rate=one / 64).masks(model)) == kept(masks)
        assert kept(method(rate=(one - 1) / 64).masks(model)) > limit

    def test_a_budget_that_filters_cannot_reach_is_refused_with_the_figure(self) -> None:
        message = (
            r"one filter left in each layer keeps 49 of 196 weights \(25.00%\), over the 39"
        )
        with pytest.raises(PareError, match=message + r".*at least 0\.2500, or skip fewer"):
            method(0.2, shape=(1, 8, 8)).masks(conv_net())

    def test_what_stays_is_a_multiple_where_asked(self) -> None:
        budget = Budget(weights=0.6, multiple=4)
        one = create(Choice(name="filter_norm"), budget, (3, 16, 16))
        model = network("resnet20")
        masks = one.masks(model)
        assert sum(int(mask.sum()) for mask in masks.values()) <= one.kept(model)
        left = {len(rows) % 4 for rows in gone(masks).values()}
        assert left == {0}
        without = gone(method(0.6).masks(model)).values()
        assert {len(rows) % 4 for rows in without} != {0}  # the twin

    def test_given_rates_have_to_fit_the_budget(self) -> None:
        model = network("vgg16")
        with pytest.raises(PareError, match=r"the given rates keeps .* over the .* raise the"):
            method(0.1, rate=0.1).masks(model)
        assert kept(method(0.9, rate=0.5).masks(model)) < 0.3 * prunable_count(model)

    def test_all_is_kept_of_a_whole_budget(self) -> None:
        assert not gone(method().masks(network("resnet20")))


NETWORKS = [
    ("conv4", {"hidden": 16}), ("vgg16", {}), ("resnet8", {}), ("resnet18", {}),
    ("resnet20", {}), ("resnet20", {"shortcut": "B"}), ("mobilenet_v1", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "own"), NETWORKS)
def test_compaction_removes_exactly_the_filters(name: str, own: dict[str, object]) -> None:
    model = network(name, **own).eval()
    masks = method(rate=0.3, selection="greedy").masks(model)
    pruned = masked(model, masks)
    small, plan = compact(pruned, SHAPE)
    removed = {(record.layer, record.channel) for record in plan.removed}
    assert removed == {(name, row) for name, rows in gone(masks).items() for row in rows}
    sizes = {f"{layer.name}.weight": layer.weights for layer in count(small, SHAPE).layers}
    assert sizes == {name: int(mask.sum()) for name, mask in masks.items()}
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert prove(pruned, small, plan, images).holds


class TestPaper:
    """Table 1: parameters and multiply-accumulates of the pruned networks, and their parts."""

    SHAPE = (3, 32, 32)

    def figures(self, model: nn.Module, **own: object) -> tuple[int, int, float, float]:
        before = count(model, self.SHAPE)
        masks = method(shape=self.SHAPE, **own).masks(model)
        after = count(compact(masked(model, masks), self.SHAPE)[0], self.SHAPE)
        parts = [
            100 * (1 - small / large)
            for small, large in (
                (after.parameters, before.parameters), (after.macs, before.macs),
            )
        ]  # fmt: skip
        return after.parameters, after.macs, parts[0], parts[1]

    def resnet56(self) -> nn.Module:
        return build("resnet56", {}, classes=10, channels=3, size=32, seed=0)

    def layers(self, *numbers: int) -> list[str]:
        """Name layers by the paper's numbers: 1 is the stem, the first block has 2 and 3."""
        return [f"blocks.{number // 2 - 1}.conv1" for number in numbers]

    def test_resnet56_a(self) -> None:
        found = self.figures(self.resnet56(), rate=0.1, skip=self.layers(16, 20, 38, 54))
        assert found[:2] == (773_336, 112_435_840)  # published: 7.7e5, 1.12e8
        assert found[2:] == pytest.approx((9.4, 10.4), abs=0.1)

    def test_resnet56_b(self) -> None:
        stages = {
            "blocks.?.conv1": 0.6, "blocks.9.conv1": 0.3, "blocks.1[0-7].conv1": 0.3,
            "blocks.1[89].conv1": 0.1, "blocks.2?.conv1": 0.1,
        }  # fmt: skip
        skip = self.layers(16, 18, 20, 34, 38, 54)
        found = self.figures(self.resnet56(), rates=stages, skip=skip)
        assert found[:2] == (735_712, 90_907_264)  # published: 7.3e5, 9.09e7
        assert found[2:] == pytest.approx((13.7, 27.6), abs=0.1)

    def test_vgg16_a(self) -> None:
        """The paper's VGG-16 has a second linear layer, 512 wide, with batch norm."""
        model = build("vgg16", {}, classes=10, channels=3, size=32, seed=0)
        head = [nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 10)]
        model[-1] = nn.Sequential(*head)
        convs = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
        rates = {convs[number - 1]: 0.5 for number in (1, *range(8, 14))}
        found = self.figures(model, rates=rates)
        assert found[:2] == (5_399_690, 206_279_680)  # published: 5.4e6, 2.06e8
        assert found[2:] == pytest.approx((64.0, 34.2), abs=0.1)


class TestRetraining:
    def net(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(32, 10),
        )  # fmt: skip

    def own(self, **more: object) -> Method:
        return method(0.5, shape=(1, 8, 8), finetune_epochs=2, **more)

    def test_layers_leave_part_by_part(self) -> None:
        own, model = self.own(rounds=2, selection="greedy"), self.net()
        phases = own.phases(3)
        assert [(p.name, p.epochs) for p in phases] == [
            ("train", 3), ("finetune 1", 1), ("finetune 2", 1),
        ]  # fmt: skip
        all_of_it = own.masks(own.attach(model, phases[0]))
        first = own.attach(model, phases[1])
        zero = gone({name: weight != 0 for name, weight in apparent(first).items()})
        assert zero == {"0": gone(all_of_it)["0"]}
        assert gone(own.masks(first)) == gone(all_of_it)
        second = own.attach(first, phases[2])
        zero = gone({name: weight != 0 for name, weight in apparent(second).items()})
        assert zero == gone(all_of_it)

    @pytest.mark.parametrize("rounds", [1, 2])
    def test_what_left_stays_away_and_the_rest_trains(self, rounds: int) -> None:
        model = self.net()
        trained = train(model, self.own(rounds=rounds), digits(), options(epochs=1), seed=0)
        limit = Budget(weights=0.5).kept(prunable_count(model))
        assert kept(trained.masks) <= limit
        weights = prunable(trained.model)
        assert all(not weights[name][~mask].any() for name, mask in trained.masks.items())
        small, _ = compact(trained.model, (1, 8, 8))
        assert prunable_count(small) == kept(trained.masks)

    def test_a_resumed_training_ends_as_an_unbroken_one(self, tmp_path) -> None:
        class Stopped(Exception):
            pass

        def stop(done: int, total: int, text: str) -> None:
            if done == 2:
                raise Stopped

        model, path = self.net(), tmp_path / "checkpoint.pt"

        def run(**more):
            return train(model, self.own(rounds=2), digits(), options(), seed=1, **more)

        whole = run()
        with pytest.raises(Stopped):
            run(checkpoint=path, progress=stop)
        again = run(checkpoint=path)
        assert same_weights(again.model.state_dict(), whole.model.state_dict())
        assert all(torch.equal(again.masks[key], whole.masks[key]) for key in whole.masks)
