"""What other compactors get wrong, by name, where the exactness matrix has no case of it.

The matrix has a test for every other row of what breaks:

* scalar fold of a padded convolution: ``test_a_plain_bias_fold_would_be_wrong_on_the_border``
  and ``test_zero_padded_convolution_gets_one_carrier_for_any_number_of_dead_channels``
  (torch.ao refuses it, simplify writes a map that locks the resolution)
* beta of batch norm dropped (Tessier; NNI #2130, #3848; FPGM #27; Torch-Pruning):
  ``test_batch_norm_after_a_zero_channel_emits_more_than_beta``
* gamma and beta zero: ``test_batch_norm_with_zero_gamma_cuts_a_live_channel``
* zero rows with a bias: ``test_unpadded_convolution_folds_into_the_bias``
* activations of a constant: ``test_activations_map_constants``,
  ``test_sigmoid_of_a_dead_channel_is_a_half_not_zero``
* counted padding: ``test_average_pool_that_counts_its_padding_keeps_the_channel``
* wrong column map: ``test_flatten_takes_whole_blocks_of_columns``
* residual, pre-add filter dead, live skip (simplify drops, Torch-Pruning cuts the skip):
  ``test_residual_with_a_dead_pre_add_filter_keeps_its_constant_on_the_survivor``
* residual, stem and pre-add dead:
  ``test_residual_with_stem_and_pre_add_dead_loses_the_channel_everywhere``
* residual, inner convolution: ``test_residual_inner_channel_leaves_alone``
* concat: ``test_concat_moves_offsets_and_constants_per_slice``
* depthwise (simplify leaves it):
  ``test_depthwise_channel_with_zero_input_emits_its_bias_and_leaves``,
  ``test_padded_depthwise_of_a_nonzero_constant_is_a_map_and_stays``
* unbalanced groups (NNI): ``test_grouped_convolution_keeps_equal_groups``
* gates: ``test_a_gated_constant_is_not_a_constant``
* statistics over channels: ``test_norms_over_several_channels_keep_them_all``
* outgoing-dead: ``test_outgoing_dead_channel_leaves_and_the_cascade_goes_backwards``
* whole layer dead (simplify, NNI EmptyLayerError):
  ``test_whole_layer_dead_gives_a_constant_output_and_no_crash``,
  ``test_residual_whole_branch_dead_does_not_crash``
* classifier rows (simplify #7): ``test_classifier_rows_are_never_removed``
* inputs: ``test_network_inputs_keep_the_interface``
* signed sum: ``test_live_filter_whose_weights_sum_to_zero_stays``
* weights shared by two layers: ``test_shared_module_is_left_alone_and_right``
* subnormals after folding: ``test_subnormal_values_are_flushed``
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from proving import checked, removed, widths
from tiny import kill, prune_weights, settle
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock
from torchvision.models.squeezenet import Fire

from pipeline.graph.counting import count
from pipeline.graph.equivalence import compare, prove
from pipeline.graph.surgery import compact, rebuild

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """Named layers and a forward pass given as a function."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def layer(network: nn.Module, name: str) -> nn.Module:
    return network.get_submodule(name)


def bias_of(module: nn.Module, *values: float) -> None:
    with torch.no_grad():
        module.bias.copy_(torch.tensor(values).expand_as(module.bias))


def plain(*middle: nn.Module, bias: bool = True, padding: int = 1) -> nn.Sequential:
    first = nn.Conv2d(3, 8, 3, padding=padding, bias=bias)
    return nn.Sequential(first, *middle, nn.Conv2d(8, 6, 3, padding=padding))


# --- order and mode ----------------------------------------------------------------------


def test_batch_norm_is_read_in_evaluation_mode_also_of_a_network_in_training() -> None:
    model = settle(plain(nn.BatchNorm2d(8), nn.ReLU(), padding=0), 1)
    kill(model[0], [1, 5])
    _, expected = checked(model)
    model.train()
    small, plan = compact(model, SHAPE)
    assert plan == expected
    assert model.training
    images = torch.randn(2, *SHAPE)
    assert prove(model.eval(), small, plan, images).holds


def test_constants_cascade_forwards_through_several_layers() -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1),
            nn.ReLU(), nn.Conv2d(4, 3, 1),
        ),
        2,
    )  # fmt: skip
    kill(model[0], [0, 1])
    with torch.no_grad():
        model[2].weight[:2, 2:] = 0  # reads constants only,
        model[4].weight[:2, 2:] = 0  # and so does the next
        bias_of(model[0], 0.5)
        bias_of(model[2], 4.0)
        bias_of(model[4], 4.0)
    small, plan = checked(model)
    assert widths(small) == [2, 2, 2, 3]
    reasons = {(r.layer, r.channel): r.reason for r in plan.removed}
    assert reasons[("0", 0)] == "no input"
    assert reasons[("2", 0)] == reasons[("4", 1)] == "constant"


def test_a_cascade_through_a_residual_branch_needs_several_rounds() -> None:
    def forward(m, x):
        y = F.relu(m.stem(x))
        y = y + m.b(F.relu(m.a(y)))
        return m.last(y + m.d(F.relu(m.c(y * 0 + m.b2(F.relu(m.a2(y)))))))

    names = ("stem", "a", "b", "a2", "b2", "c", "d")
    layers = {name: nn.Conv2d(3 if name == "stem" else 4, 4, 1) for name in names}
    model = settle(Net(forward, **layers, last=nn.Conv2d(4, 2, 1)), 3)
    kill(model.a2, [0, 1, 2, 3])  # so that b2, c and d are constant one after the other
    small, plan = checked(model)
    left = {n for n, m in small.named_modules() if isinstance(m, nn.Conv2d)}
    assert left == {"stem", "a", "b", "last"}
    assert {r.layer for r in plan.removed} == {"a2", "b2", "c", "d"}


def test_equal_argmax_does_not_pass_for_equal_outputs() -> None:
    torch.manual_seed(0)
    model = settle(
        Net(
            lambda m, x: m.fc((m.a(x) + m.b(x)).mean((2, 3))),
            a=nn.Conv2d(3, 6, 1),
            b=nn.Conv2d(3, 6, 1),
            fc=nn.Linear(6, 10),
        ),
        4,
    )
    kill(model.b, [1])
    small, _ = checked(model)
    images = torch.randn(8, *SHAPE)
    with torch.no_grad():  # what simplify does: the bias of the dead addend is dropped
        layer(small, "b").bias[1] *= 0.99
        assert torch.equal(model(images).argmax(1), small(images).argmax(1))
    assert not compare(model, small, images, "noise").holds


# --- simplify ----------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [False, True], ids=["bias", "batch norm"])
def test_padded_convolution_gets_smaller_not_larger(norm: bool) -> None:
    """simplify: 5418 -> 34904 parameters, and other resolutions raise."""
    middle = [nn.BatchNorm2d(8), nn.ReLU()] if norm else [nn.ReLU()]
    model = settle(plain(*middle), 5)
    bias_of(model[1] if norm else model[0], 3.0)
    kill(model[0], [0, 2, 4, 6])
    small, plan = checked(model)
    assert count(small, SHAPE).parameters < 0.7 * count(model, SHAPE).parameters
    assert widths(small) == [5, 6]  # four live ones and the carrier
    (fold,) = plan.folds.values()
    assert fold.into.startswith("carrier:")
    other = torch.randn(2, 3, 13, 5)
    assert compare(model, small, other, "another resolution").holds


def test_padded_convolution_without_bias_needs_no_carrier() -> None:
    model = settle(plain(nn.ReLU(), bias=False), 6)
    kill(model[0], [0, 2, 4, 6])
    small, plan = checked(model)
    assert widths(small) == [4, 6]
    assert not plan.folds


def test_max_pool_flatten_and_linear() -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(96, 5),
        ),
        7,
    )
    kill(model[0], [1, 4, 5])
    bias_of(model[0], 0.3)
    small, plan = checked(model)
    assert layer(small, "4").weight.shape == (5, 3 * 16)
    assert set(plan.folds["4"].constants) == {*range(16, 32), *range(64, 96)}


@pytest.mark.parametrize("seed", range(8))
def test_98_percent_of_the_weights_gone_neither_crashes_nor_takes_classes(seed: int) -> None:
    """simplify: an exception, or ten classes become eight."""
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(256, 20), nn.ReLU(), nn.Linear(20, 10),
        ),
        seed,
    )  # fmt: skip
    small, _ = checked(prune_weights(model, seed, 0.98))
    assert small(torch.randn(2, *SHAPE)).shape == (2, 10)
    assert count(small, SHAPE).weights < 0.5 * count(model, SHAPE).weights


def test_squeezenet_shrinks_after_unstructured_pruning() -> None:
    """simplify #11: unchanged."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(inplace=True), Fire(16, 8, 16, 16),
        Fire(32, 8, 16, 16), nn.Conv2d(32, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    model = prune_weights(settle(model, 9), 9, 0.98)
    small, plan = checked(model, (3, 16, 16))
    assert count(small, (3, 16, 16)).weights < 0.25 * count(model, (3, 16, 16)).weights
    assert {"2.expand1x1", "2.expand3x3", "3.squeeze"} & {r.layer for r in plan.removed}


@pytest.mark.parametrize("fraction", [0.95, 0.98])
def test_resnet_blocks_keep_their_outputs(fraction: float) -> None:
    """simplify #12: a large accuracy drop."""
    shortcut = nn.Sequential(nn.Conv2d(8, 12, 1, stride=2, bias=False), nn.BatchNorm2d(12))
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        BasicBlock(8, 8), BasicBlock(8, 12, 2, shortcut), BasicBlock(12, 12),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    model = prune_weights(settle(model, 10), 10, fraction)
    small, _ = checked(model, (3, 16, 16))
    assert count(small, (3, 16, 16)).weights < count(model, (3, 16, 16)).weights


def test_inverted_residuals_have_matching_widths_afterwards() -> None:
    """simplify #3: wrong input and output channels in efficientnet_lite0."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU6(), InvertedResidual(8, 8, 1, 4),
        InvertedResidual(8, 12, 2, 4), InvertedResidual(12, 12, 1, 4), nn.Conv2d(12, 5, 1),
    )  # fmt: skip
    model = settle(model, 11)
    for number in (2, 3, 4):
        kill(model[number].conv[0][0], [0, 5, 9])
    small, plan = checked(model, (3, 16, 16))
    found = [m for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.weight.shape[1] * m.groups == m.in_channels for m in found)
    assert all(m.weight.shape[0] == m.out_channels for m in found)
    assert any(m.groups in (29, 30, 31) or m.groups in (45, 46, 47) for m in found)
    assert any(name.endswith("conv.1.0") for name, _ in removed(plan))


# --- column maps, slices, shuffles -------------------------------------------------------


def test_flatten_of_channels_last_takes_every_sixth_column() -> None:
    def forward(m, x):
        return m.fc(F.relu(m.a(x)).permute(0, 2, 3, 1).flatten(1))

    model = settle(Net(forward, a=nn.Conv2d(3, 6, 3), fc=nn.Linear(216, 4)), 12)
    kill(model.a, [1, 4])
    bias_of(model.a, 0.5)
    small, plan = checked(model)
    assert layer(small, "fc").in_features == 144
    assert {column % 6 for column in plan.folds["fc"].constants} == {1, 4}
    kept = [column for column in range(216) if column % 6 not in (1, 4)]
    assert torch.equal(layer(small, "fc").weight, model.fc.weight[:, kept])


def halves_by_slice(x):
    return x[:, :6], x[:, 6:]


def halves_by_split(x):
    return torch.split(x, 6, 1)


def halves_by_chunk(x):
    return x.chunk(2, 1)


def halves_by_narrow(x):
    return x.narrow(1, 0, 6), x.narrow(1, 6, 6)


@pytest.mark.parametrize(
    "halves",
    [halves_by_slice, halves_by_split, halves_by_chunk, halves_by_narrow],
    ids=lambda f: f.__name__,
)
def test_slices_of_fixed_size_behind_a_concatenation_move(halves) -> None:
    def forward(m, x):
        left, right = halves(torch.cat([F.relu(m.a(x)), F.relu(m.b(x))], 1))
        return m.left(left) + m.right(right)

    layers = {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 8, 1)}
    halved = {"left": nn.Conv2d(6, 3, 1), "right": nn.Conv2d(6, 3, 1)}
    model = settle(Net(forward, **layers, **halved), 13)
    kill(model.a, [0])
    kill(model.b, [1, 6])  # one in each half
    bias_of(model.a, 0.5)
    bias_of(model.b, 0.25)
    small, plan = checked(model)
    assert removed(plan) == {("a", 0), ("b", 1), ("b", 6)}
    assert layer(small, "left").in_channels == 4
    assert layer(small, "right").in_channels == 5
    assert plan.folds["left"].constants == {0: 0.5, 5: 0.25}
    assert plan.folds["right"].constants == {4: 0.25}


def shuffle_by_hand(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def shuffle_by_numbers(x):
    return x.reshape(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)


@pytest.mark.parametrize(
    "shuffle",
    [nn.ChannelShuffle(2), shuffle_by_hand, shuffle_by_numbers],
    ids=["module", "by hand", "by numbers"],
)
def test_channel_shuffle_deals_out_what_stays(shuffle) -> None:
    """Pairs i, i + 4 leave together; a single one of a pair stays."""

    def forward(m, x):
        return m.b(shuffle(F.relu(m.a(x))))

    modules = {"shuffle": shuffle} if isinstance(shuffle, nn.Module) else {}
    model = settle(Net(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 3, 1), **modules), 14)
    kill(model.a, [1, 5, 2])
    bias_of(model.a, 0.5)
    small, plan = compact(model, SHAPE)
    proof = prove(model, small, plan, torch.randn(2, *SHAPE))
    assert proof.holds
    assert removed(plan) == {("a", 1), ("a", 5)}
    # Channels 1 and 5 lie side by side in the shuffled order: 0 4 1 5 2 6 3 7.
    assert plan.folds["b"].constants == {2: 0.5, 3: 0.5}


@pytest.mark.parametrize("dead", ["left", "right"])
@pytest.mark.parametrize(
    "halves", [halves_by_split, halves_by_chunk], ids=lambda f: f.__name__
)
def test_a_part_of_a_split_that_is_dead_as_a_whole_leaves_the_other_its_width(
    halves, dead: str
) -> None:
    def forward(m, x):
        left, right = halves(F.relu(m.a(x)))
        return m.last(torch.cat([left, m.b(right)], 1))

    layers = {"a": nn.Conv2d(3, 12, 1), "b": nn.Conv2d(6, 6, 1), "last": nn.Conv2d(12, 3, 1)}
    model = settle(Net(forward, **layers), 33)
    bias_of(model.a, 0.5)
    if dead == "left":
        kill(model.a, list(range(6)))
    else:
        kill(model.b, list(range(6)))  # so that nobody reads the right half of a
    small, _ = checked(model)
    assert layer(small, "a").out_channels == 6
    assert layer(small, "last").in_channels == 6


def test_a_gate_does_not_hide_a_part_of_the_wrong_width() -> None:
    """A width of one is spread over the gate's channels instead of being refused."""

    def forward(m, x):
        left, right = m.a(x).chunk(2, 1)
        return m.last(torch.cat([left, m.b(right)], 1) * m.gate)

    layers = {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(2, 2, 1), "last": nn.Conv2d(4, 3, 1)}
    model = settle(Net(forward, **layers), 34)
    model.gate = nn.Parameter(torch.tensor([0.5, -1.0, 2.0, 3.0]).view(1, 4, 1, 1))
    kill(model.b, [0, 1])
    bias_of(model.b, 0.0)
    small, _ = checked(model)
    assert widths(small) == [2, 3]


def test_a_shuffle_by_hand_loses_whole_groups() -> None:
    """More groups than channels in each: then a group leaves as a whole."""

    def forward(m, x):
        y = m.a(x)
        n, c, h, w = y.shape
        y = y.view(n, 4, c // 4, h, w).transpose(1, 2).contiguous()
        return m.b(y.view(n, c, h, w))

    model = settle(Net(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 3, 1)), 35)
    kill(model.a, [2, 3, 6, 7, 0])
    small, plan = checked(model)
    assert removed(plan) == {("a", 2), ("a", 3), ("a", 6), ("a", 7)}
    assert layer(small, "b").in_channels == 4


# --- groups, gates, norms ----------------------------------------------------------------


def test_a_group_that_is_dead_as_a_whole_leaves_with_its_inputs() -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=3), nn.Conv2d(6, 4, 1)
        ),
        15,
    )
    kill(model[2], [2, 3])
    small, plan = checked(model)
    assert layer(small, "2").groups == 2
    assert widths(small) == [4, 4, 4]
    assert removed(plan) == {("0", 2), ("0", 3), ("2", 2), ("2", 3)}


def test_one_of_each_group_leaves_and_the_surplus_of_one_group_stays() -> None:
    """NNI: UnBalancedGroupError."""
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 9, 1), nn.ReLU(), nn.Conv2d(9, 9, 3, groups=3), nn.Conv2d(9, 4, 1)
        ),
        16,
    )
    kill(model[2], [0, 1, 4, 8])
    kill(model[0], [0, 1, 3, 7])
    small, plan = checked(model)
    grouped = layer(small, "2")
    assert grouped.groups == 3
    assert (grouped.in_channels, grouped.out_channels) == (6, 6)
    assert {k.layer for k in plan.kept} == {"0", "2"}
    assert all(
        k.why == "the groups of a convolution have to be equally wide" for k in plan.kept
    )


def test_a_layer_whose_groups_are_all_dead_but_one_is_an_ordinary_convolution() -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=3), nn.Conv2d(6, 4, 1)
        ),
        17,
    )
    kill(model[2], [0, 1, 2, 3])
    small, _ = checked(model)
    assert layer(small, "2").groups == 1
    assert widths(small) == [2, 2, 4]


def test_an_empty_layer_between_two_live_ones_keeps_one_channel() -> None:
    """NNI: EmptyLayerError; simplify: a weight of size [0, 3, 3, 3]."""
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 1),
        ),
        18,
    )  # fmt: skip
    kill(model[0], list(range(6)))
    small, plan = checked(model)
    assert widths(small)[0] <= 2  # one for the shape, one for the border
    assert widths(small)[-1] == 4
    images = torch.randn(2, *SHAPE)
    assert torch.equal(small(images)[0], small(images)[1])  # no image reaches the output
    assert any("empty" in k.why or "carries" in k.why for k in plan.kept)


def test_an_empty_concatenated_branch_leaves() -> None:
    model = settle(
        Net(
            lambda m, x: m.last(torch.cat([m.a(x), m.c(F.relu(m.b(x)))], 1)),
            a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(4, 4, 1),
            last=nn.Conv2d(8, 3, 1),
        ),
        19,
    )  # fmt: skip
    kill(model.c, [0, 1, 2, 3])
    small, plan = checked(model)
    assert {n for n, m in small.named_modules() if isinstance(m, nn.Conv2d)} == {"a", "last"}
    assert set(plan.folds["last"].constants) == {4, 5, 6, 7}


def test_a_gated_zero_is_zero_and_leaves() -> None:
    def forward(m, x):
        y = F.relu(m.conv(x))
        return m.last(y * torch.sigmoid(m.up(F.relu(m.down(y.mean((2, 3), keepdim=True))))))

    layers = {"conv": nn.Conv2d(3, 6, 3), "down": nn.Conv2d(6, 3, 1), "up": nn.Conv2d(3, 6, 1)}
    model = settle(Net(forward, **layers, last=nn.Conv2d(6, 4, 3, padding=1)), 20)
    kill(model.conv, [0, 5])
    bias_of(model.conv, -0.5, 0.1, 0.1, 0.1, 0.1, 0.5)
    small, plan = checked(model)
    assert ("conv", 0) in removed(plan)  # relu makes it zero, and the gate leaves it so
    assert ("up", 0) in removed(plan)
    assert ("conv", 5) not in removed(plan)  # a constant times what depends on the image
    assert widths(small) == [5, 3, 5, 4]


def test_layer_norm_keeps_all_channels_it_looks_at() -> None:
    def forward(m, x):
        x = m.norm(m.a(x).permute(0, 2, 3, 1))
        return m.fc2(F.gelu(m.fc1(x))).permute(0, 3, 1, 2)

    layers = {"a": nn.Conv2d(3, 6, 1), "fc1": nn.Linear(6, 8), "fc2": nn.Linear(8, 4)}
    model = settle(Net(forward, **layers, norm=nn.LayerNorm(6)), 21)
    kill(model.a, [0, 3])
    kill(model.fc1, [2])
    small, plan = checked(model)
    assert widths(small) == [6, 7, 4]
    assert removed(plan) == {("fc1", 2)}


# --- Torch-Pruning and NNI ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["view", "unflatten", "module"])
def test_linear_then_view_then_transposed_convolution(how: str) -> None:
    """Torch-Pruning #125: an index error."""

    def forward(m, x):
        y = F.relu(m.fc(x.flatten(1)))
        if how == "view":
            y = y.view(-1, 8, 2, 2)
        else:
            y = m.deal(y) if how == "module" else y.unflatten(1, (8, 2, 2))
        return m.last(F.relu(m.up(y)))

    layers = {"fc": nn.Linear(48, 32), "up": nn.ConvTranspose2d(8, 6, 2, stride=2)}
    deal = {"deal": nn.Unflatten(1, (8, 2, 2))} if how == "module" else {}
    model = settle(Net(forward, **layers, **deal, last=nn.Conv2d(6, 3, 1)), 22)
    kill(model.fc, [*range(4, 8), *range(20, 23)])  # channel 1, and most of channel 5
    small, plan = checked(model, (3, 4, 4))
    assert widths(small) == [32, 3]  # a channel that is a map has no rule: never wrong
    assert plan.is_empty


def test_linear_then_view_as_one_pixel_then_transposed_convolution() -> None:
    """The generator of Torch-Pruning #125, from a vector."""

    def forward(m, x):
        y = F.relu(m.fc(x.flatten(1)))
        return m.last(F.relu(m.up(y.view(-1, 8, 1, 1))))

    layers = {"fc": nn.Linear(48, 8), "up": nn.ConvTranspose2d(8, 6, 4)}
    model = settle(Net(forward, **layers, last=nn.Conv2d(6, 3, 1)), 22)
    kill(model.fc, [1, 5, 6])
    bias_of(model.fc, -0.1, -0.1, -0.1, -0.1, -0.1, 0.5, 0.75, -0.1)
    small, plan = checked(model, (3, 4, 4))
    # The overlap of the kernels makes a map of a constant: one of two stays as the carrier.
    assert removed(plan) == {("fc", 1), ("fc", 5)}
    assert plan.folds["up"].constants == {5: 0.5, 6: 0.75}
    assert layer(small, "up").weight.shape == (6, 6, 4, 4)


def test_outputs_of_a_transposed_convolution_leave() -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(5, 3, 1),
        ),
        23,
    )
    with torch.no_grad():
        model[2].weight[:, [1, 3]] = 0
    small, plan = checked(model)
    assert removed(plan) == {("2", 1), ("2", 3)}
    assert layer(small, "2").weight.shape == (6, 3, 3, 3)
    assert layer(small, "2").out_channels == 3


@pytest.mark.parametrize(("into", "out"), [(6, 1), (1, 6), (1, 1)])
def test_a_convolution_of_width_one_is_not_depthwise(into: int, out: int) -> None:
    """Torch-Pruning #179: one output channel is taken for a depthwise convolution."""
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, into, 1),
            nn.ReLU(),
            nn.Conv2d(into, out, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(out, 4, 1),
        ),
        24,
    )
    dead = {(6, 1): [0, 2], (1, 6): [], (1, 1): []}[into, out]
    kill(model[0], dead)
    bias_of(model[0], -1.0 if dead else 0.3)
    if out > 1:
        kill(model[2], [4])
    small, _ = checked(model)
    assert widths(small) == [into - len(dead), 5 if out > 1 else 1, 4]
    assert layer(small, "2").groups == 1


def test_depthwise_then_chunk() -> None:
    """Torch-Pruning #393: index errors."""

    def forward(m, x):
        left, right = m.deep(m.a(x)).chunk(2, 1)
        return m.last(F.gelu(left) * right)

    layers = {"a": nn.Conv2d(3, 8, 1), "deep": nn.Conv2d(8, 8, 3, padding=1, groups=8)}
    model = settle(Net(forward, **layers, last=nn.Conv2d(4, 3, 1)), 25)
    kill(model.a, [1, 5, 2])
    bias_of(model.a, 0.0)
    kill(model.deep, [1, 5])
    small, plan = checked(model)
    assert widths(small) == [6, 6, 3]
    assert layer(small, "deep").groups == 6
    assert layer(small, "last").in_channels == 3
    assert removed(plan) == {("a", 1), ("a", 5), ("deep", 1), ("deep", 5)}


def test_depthwise_then_chunk_of_which_one_part_is_convolved() -> None:
    def forward(m, x):
        left, right = m.deep(m.a(x)).chunk(2, 1)
        return m.last(torch.cat([left, m.b(right)], 1))

    layers = {"a": nn.Conv2d(3, 8, 1), "deep": nn.Conv2d(8, 8, 3, padding=1, groups=8)}
    more = {"b": nn.Conv2d(4, 4, 1), "last": nn.Conv2d(8, 3, 1)}
    model = settle(Net(forward, **layers, **more), 26)
    kill(model.a, [0, 6, 7])
    bias_of(model.a, 0.0)
    small, plan = checked(model)
    assert {c for name, c in removed(plan) if name == "deep"} == {0, 6, 7}
    assert layer(small, "b").in_channels == 2
    assert layer(small, "last").in_channels == 7


def test_a_live_skip_survives_a_dead_branch_and_keeps_its_width() -> None:
    def forward(m, x):
        y = F.relu(m.stem(x))
        return m.last(F.relu(y + m.norm(m.b(F.relu(m.a(y))))))

    layers = {"stem": nn.Conv2d(3, 6, 1), "a": nn.Conv2d(6, 6, 3, padding=1)}
    more = {"b": nn.Conv2d(6, 6, 1), "norm": nn.BatchNorm2d(6), "last": nn.Conv2d(6, 3, 1)}
    model = settle(Net(forward, **layers, **more), 27)
    kill(model.b, list(range(6)))
    small, plan = checked(model)
    assert {n for n, m in small.named_modules() if isinstance(m, nn.Conv2d)} == {
        "stem", "last",
    }  # fmt: skip
    assert torch.equal(layer(small, "stem").weight, model.stem.weight)
    (branch,) = plan.branches
    assert branch.shape == [1, 6, 1, 1]


def test_a_dead_skip_leaves_the_live_branch() -> None:
    def forward(m, x):
        return m.last(F.relu(m.skip(x) + m.b(F.relu(m.a(x)))))

    layers = {"skip": nn.Conv2d(3, 6, 1), "a": nn.Conv2d(3, 6, 3, padding=1)}
    model = settle(Net(forward, **layers, b=nn.Conv2d(6, 6, 1), last=nn.Conv2d(6, 3, 1)), 28)
    kill(model.skip, list(range(6)))
    small, plan = checked(model)
    assert widths(small) == [6, 6, 3]
    assert plan.branches[0].into == "bias:b"
    torch.testing.assert_close(layer(small, "b").bias, model.b.bias + model.skip.bias)


def test_a_channel_that_is_silent_on_noise_but_not_dead_stays() -> None:
    """NNI infers masks from eight random images."""
    model = settle(plain(nn.ReLU(), padding=0), 29)
    bias_of(model[0], -100.0)
    small, plan = checked(model)
    assert plan.is_empty
    bright = 300 * torch.randn(2, *SHAPE)
    assert compare(model, small, bright, "bright images").holds
    assert len(model(bright).unique()) > 6


def test_the_plan_does_not_depend_on_random_numbers() -> None:
    model = settle(plain(nn.BatchNorm2d(8), nn.ReLU()), 30)
    kill(model[0], [0, 3])
    plans = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        plans.append(compact(model, SHAPE)[1].model_dump_json())
    assert plans[0] == plans[1]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_size_works_afterwards(batch: int) -> None:
    """NNI #5735: a batch of one breaks inference."""

    def forward(m, x):
        y = F.relu(m.norm(m.a(x)))
        return m.fc(y.view(y.size(0), -1))

    layers = {"a": nn.Conv2d(3, 6, 3), "norm": nn.BatchNorm2d(6), "fc": nn.Linear(216, 4)}
    model = settle(Net(forward, **layers), 31)
    kill(model.a, [0, 3])
    small, plan = compact(model, SHAPE)
    assert len(plan.removed) == 2
    images = torch.randn(batch, *SHAPE)
    assert compare(model, small, images, "noise").holds
    assert small(images).shape == (batch, 4)


def test_constants_beyond_a_width_of_one() -> None:
    """A single channel is indistinguishable from a value that is alike everywhere."""
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid(), nn.Conv2d(1, 3, 3, padding=1),
            nn.ReLU(), nn.Conv2d(3, 2, 1),
        ),
        32,
    )  # fmt: skip
    kill(model[0], [0])
    small, _ = checked(model)
    assert widths(small)[0] == 1
    assert widths(small)[-1] == 2


def test_what_leaves_in_a_second_round_is_told_in_the_first_numbers() -> None:
    """A dead product keeps a channel of its factor, which then is a branch that leaves."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
            self.c, self.last = nn.Conv2d(6, 4, 1), nn.Conv2d(7, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            gated = self.c(F.relu(self.a(x)) * torch.sigmoid(self.b(x)))
            return self.last(torch.cat([x, gated], 1))

    model = settle(Gated(), 3)
    kill(model.a, [0, 1, 2, 3, 4, 5])
    kill(model.c, [0, 1, 2, 3])
    small, plan = checked(model)
    assert compact(small, (3, 8, 8))[1].is_empty
    told = removed(plan)
    assert {(name, channel) for name, channel in told if name == "c"} == {
        ("c", channel) for channel in range(4)
    }
    assert len(told) == len(plan.removed)
    rebuilt = rebuild(model, (3, 8, 8), type(plan).model_validate_json(plan.model_dump_json()))
    rebuilt.load_state_dict(small.state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(rebuilt(images), small(images))


def test_an_operation_in_place_behind_a_branch_that_left_changes_nothing_else() -> None:
    """`x + 0` is `x`: what changed the sum in place must not change `x`, nor the image."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.dead = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1, bias=False)
            self.onto, self.last = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(6, 2, 1)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(self.relu(x + self.onto(x)))
            return self.last(self.relu(a + self.dead(a)) + a)

    model = settle(InPlace(), 4)
    kill(model.dead, list(range(6)))
    kill(model.onto, [0, 1, 2])
    small, _ = checked(model)
    assert not hasattr(small, "dead")
    images = torch.randn(2, 3, 8, 8)
    before = images.clone()
    small(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "take",
    [
        lambda y: y.chunk(2, 1)[0],
        lambda y: y.split(3, 1)[1],
        lambda y: torch.split(y, [2, 4], dim=1)[1],
        lambda y: y.narrow(1, -3, 3),
    ],
    ids=["chunk", "split", "split by keyword", "narrow from behind"],
)
def test_a_part_whose_others_nobody_reads(take) -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.last = nn.Conv2d(3, 6, 1), nn.LazyConv2d(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(take(F.relu(self.a(x))))

    model = Part()
    model(torch.zeros(1, 3, 8, 8))
    model = settle(model, 5)
    kill(model.a, [1, 4])
    small, _ = checked(model)
    assert small.get_submodule("a").out_channels < 5


def test_code_that_hooks_into_a_module_keeps_its_channels() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)), 6)
    kill(model[0], [0])
    model[1].register_forward_hook(lambda module, given, out: out + given[0].mean())
    small, _ = compact(model, (3, 8, 8))
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(small(images), model(images))
    assert widths(small) == [6, 2]


@pytest.mark.parametrize(
    "layer",
    [nn.MaxPool3d((3, 1, 1), 1, (1, 0, 0)), nn.AdaptiveMaxPool3d((6, None, None))],
    ids=["max", "adaptive"],
)
def test_a_layer_of_another_rank_takes_channels_for_space(layer: nn.Module) -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 1), layer, nn.Conv2d(6, 2, 1)), 7)
    kill(model[0], [2])
    small, _ = checked(model)
    assert widths(small) == [6, 2]
