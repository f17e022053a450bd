"""The exactness matrix: each construct with what breaks elsewhere, by name.

Every case compares the compacted network with the masked one and says what must be gone,
so that neither a wrong output nor a compaction that does nothing can pass.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from proving import checked
from tiny import kill, settle
from torch import Tensor, nn

from pipeline.graph.equivalence import compare, prove
from pipeline.graph.surgery import compact


def widths(model: nn.Module) -> list[int]:
    return [m.weight.shape[0] for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_linear_to_linear_folds_the_activated_bias() -> None:
    model = settle(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)), 0
    )
    kill(model[1], [0, 2, 5])
    with torch.no_grad():
        model[1].bias.fill_(0.7)
    small, plan = checked(model, (3, 2, 2))
    assert widths(small) == [3, 3]
    assert plan.folds["3"].into == "bias"


@pytest.mark.parametrize("kernel", [1, 3])
def test_unpadded_convolution_folds_into_the_bias(kernel: int) -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, kernel)), 1)
    kill(model[0], [1, 4])
    with torch.no_grad():
        model[0].bias.fill_(0.5)
    small, plan = checked(model)
    assert widths(small) == [4, 4]
    assert plan.folds["2"].into == "bias"


def test_zero_padded_convolution_gets_one_carrier_for_any_number_of_dead_channels() -> None:
    model = settle(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)), 2
    )
    kill(model[0], [0, 1, 2, 3, 6])
    with torch.no_grad():
        model[0].bias.copy_(torch.linspace(0.2, 0.9, 8))
    small, plan = checked(model)
    assert widths(small) == [4, 4]  # three live ones and the carrier
    assert plan.folds["2"].into.startswith("carrier:")
    assert len(plan.folds["2"].constants) == 5


def test_a_plain_bias_fold_would_be_wrong_on_the_border() -> None:
    """The twin of the carrier: what other tools do differs by far more than the limit."""
    model = settle(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)), 2
    )
    kill(model[0], [0])
    with torch.no_grad():
        model[0].bias.fill_(0.5)
        wrong = nn.Sequential(*(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)))
        wrong.load_state_dict(model.state_dict())
        wrong[0].bias[0] = 0
        wrong[2].bias += wrong[2].weight[:, 0].sum((1, 2)) * 0.5
    found = compare(model, wrong, torch.randn(2, 3, 8, 8), "noise")
    assert not found.holds
    assert found.difference > 0.01


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_paddings_keep_a_constant_constant(mode: str) -> None:
    last = nn.Conv2d(6, 4, 3, padding=1, padding_mode=mode)
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), last), 3)
    kill(model[0], [1, 4])
    with torch.no_grad():
        model[0].bias.fill_(0.5)
    small, plan = checked(model)
    assert widths(small) == [4, 4]
    assert plan.folds["2"].into == "bias"


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding: str) -> None:
    last = nn.Conv2d(6, 4, 3, padding=padding)
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), last), 3)
    kill(model[0], [1, 4])
    with torch.no_grad():
        model[0].bias.fill_(0.5)
    small, _ = checked(model)
    assert widths(small) == [5 if padding == "same" else 4, 4]


@pytest.mark.parametrize(("stride", "dilation"), [(2, 1), (1, 2), (2, 3), (3, 2)])
def test_stride_and_dilation(stride: int, dilation: int) -> None:
    last = nn.Conv2d(6, 4, 3, stride=stride, dilation=dilation, padding=dilation)
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), last), 4)
    kill(model[0], [0, 5])
    with torch.no_grad():
        model[0].bias.fill_(0.5)
    small, plan = checked(model, (3, 16, 16))
    assert widths(small) == [5, 4]
    assert plan.folds["2"].into.startswith("carrier:")


def test_batch_norm_after_a_zero_channel_emits_more_than_beta() -> None:
    model = settle(
        nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)), 5
    )
    kill(model[0], [2, 3])
    small, plan = checked(model)
    assert widths(small) == [4, 4]
    norm = model[1].requires_grad_(requires_grad=False)
    constant = (
        norm.bias[2]
        - norm.weight[2] * norm.running_mean[2] / (norm.running_var[2] + norm.eps).sqrt()
    )
    assert plan.folds["2"].constants[2] == pytest.approx(float(constant), rel=1e-6)
    assert abs(float(constant) - float(norm.bias[2])) > 1e-2  # beta alone would be wrong


def test_batch_norm_with_zero_gamma_cuts_a_live_channel() -> None:
    model = settle(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)), 6
    )
    with torch.no_grad():
        model[1].weight[4] = 0
        model[1].bias[4] = 0.8
    small, plan = checked(model)
    assert widths(small) == [5, 4]
    assert [r.reason for r in plan.removed] == ["no reader"]


def test_convolution_without_bias_before_batch_norm_folds_into_the_running_mean() -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1, bias=False), nn.BatchNorm2d(5)
        ),
        7,
    )
    kill(model[0], [0, 1])
    with torch.no_grad():
        model[0].bias.fill_(0.6)
    small, plan = checked(model)
    assert plan.folds["2"].into == "running_mean:3"
    assert dict(small.named_modules())["2"].bias is None


def test_convolution_without_bias_and_without_batch_norm_gets_a_bias() -> None:
    model = settle(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1, bias=False)), 7
    )
    kill(model[0], [0, 1])
    with torch.no_grad():
        model[0].bias.fill_(0.6)
    small, _ = checked(model)
    assert dict(small.named_modules())["2"].bias is not None


def test_relu_of_a_negative_constant_leaves_for_free() -> None:
    model = settle(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)), 8
    )
    kill(model[0], [0, 3])
    with torch.no_grad():
        model[0].bias.fill_(-0.4)
    small, plan = checked(model)
    assert widths(small) == [4, 4]
    assert plan.folds == {}


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.Hardswish(), nn.SiLU(), nn.GELU(),
        nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(), nn.ELU(), nn.Softplus(), nn.Mish(),
        nn.Dropout(0.5), nn.Identity(), nn.ReLU(inplace=True),
    ],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
@pytest.mark.parametrize("padding", [0, 1])
def test_activations_map_constants(activation: nn.Module, padding: int) -> None:
    last = nn.Conv2d(6, 4, 3, padding=padding)
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 3), activation, last), 9)
    kill(model[0], [0, 3, 4])
    with torch.no_grad():
        model[0].bias.copy_(torch.linspace(0.3, 0.8, 6))
    small, plan = checked(model)
    assert widths(small) == [4 if padding else 3, 4]
    assert plan.folds["2"].constants[0] == pytest.approx(
        float(activation(torch.tensor([0.3])).item()), rel=1e-5
    )


def test_sigmoid_of_a_dead_channel_is_a_half_not_zero() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Sigmoid(), nn.Conv2d(4, 2, 1))
    kill(model[0], [1])
    _, plan = checked(model)
    assert plan.folds["2"].constants == {1: 0.5}


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2), nn.MaxPool2d(3, stride=2, padding=1), nn.AvgPool2d(2),
        nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), nn.AdaptiveAvgPool2d(2),
        nn.AdaptiveMaxPool2d(2), nn.AvgPool2d(3, stride=2, ceil_mode=True),
    ],
    ids=repr,
)  # fmt: skip
def test_pools_that_keep_a_constant(pool: nn.Module) -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), pool, nn.Conv2d(6, 4, 1)), 10)
    kill(model[0], [0, 3])
    with torch.no_grad():
        model[0].bias.fill_(0.5)
    small, _ = checked(model)
    assert widths(small) == [4, 4]


def test_average_pool_that_counts_its_padding_keeps_the_channel() -> None:
    pool = nn.AvgPool2d(3, stride=2, padding=1)
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), pool, nn.Conv2d(6, 4, 1)), 10)
    kill(model[0], [0, 3])
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([0.5, 0, 0, -0.5, 0, 0]))
    small, plan = checked(model)
    assert widths(small) == [5, 4]  # channel 3 is the constant zero, channel 0 has a border
    assert [r.channel for r in plan.removed] == [3]


def test_global_pool_to_classifier() -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        ),
        11,
    )
    kill(model[0], [2])
    with torch.no_grad():
        model[0].bias.fill_(0.5)
    small, plan = checked(model)
    assert widths(small) == [5, 3]
    assert plan.folds["4"].into == "bias"


class Flattened(nn.Module):
    """Flattens in one of the ways users write it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6 * 36, 4)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        if self.how == "flatten":
            x = torch.flatten(x, 1)
        elif self.how == "method":
            x = x.flatten(1)
        elif self.how == "view":
            x = x.view(x.size(0), -1)
        elif self.how == "shape":
            x = x.reshape(x.shape[0], -1)
        elif self.how == "baked view":
            x = x.view(-1, 216)
        else:
            x = torch.reshape(x, (-1, 216))
        return self.fc(x)


@pytest.mark.parametrize(
    "how", ["flatten", "method", "view", "shape", "baked view", "baked reshape"]
)
def test_flatten_takes_whole_blocks_of_columns(how: str) -> None:
    model = settle(Flattened(how), 12)
    kill(model.conv, [0, 4])
    with torch.no_grad():
        model.conv.bias.fill_(0.5)
    small, plan = checked(model)
    assert dict(small.named_modules())["fc"].weight.shape == (4, 4 * 36)
    assert len(plan.folds["fc"].constants) == 2 * 36


class Residual(nn.Module):
    """A stem and one residual block, with or without batch norm."""

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.bn(self.conv2(F.relu(self.conv1(x))))
        return self.fc(F.relu(x + y).mean((2, 3)))


@pytest.mark.parametrize("norm", [True, False])
def test_residual_with_a_dead_pre_add_filter_keeps_its_constant_on_the_survivor(
    norm: bool,
) -> None:
    model = settle(Residual(norm=norm), 13)
    kill(model.conv2, [1, 3])
    small, plan = checked(model)
    assert widths(small)[:3] == [6, 8, 6]
    assert {(k.layer, k.channel) for k in plan.kept} >= {("conv2", 1), ("conv2", 3)}
    assert "tied to a live channel" in plan.kept[0].why


def test_residual_with_stem_and_pre_add_dead_loses_the_channel_everywhere() -> None:
    model = settle(Residual(), 14)
    kill(model.conv2, [1, 3])
    kill(model.stem, [1, 3])
    small, plan = checked(model)
    # The constants differ from zero and the block's first convolution is padded: one of the
    # two stays as its carrier, unless relu made the stem's constant zero.
    assert widths(small)[0] in (4, 5)
    assert widths(small)[0] == widths(small)[2]
    assert {r.layer for r in plan.removed} >= {"stem", "conv2"}


def test_residual_inner_channel_leaves_alone() -> None:
    model = settle(Residual(), 15)
    kill(model.conv1, [0, 1, 2, 3])
    small, _ = checked(model)
    assert widths(small)[1] < 8
    assert widths(small)[0] == 6


def test_residual_whole_branch_dead_does_not_crash() -> None:
    model = settle(Residual(), 16)
    kill(model.conv1, list(range(8)))
    kill(model.conv2, list(range(6)))
    small, plan = checked(model)
    assert widths(small) == [6, 3]
    (branch,) = plan.branches
    assert branch.into == "parameter:constant_add"  # the stem has the sum's other reader
    assert {r.layer for r in plan.removed} == {"conv1", "conv2"}


class Joined(nn.Module):
    """Two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 5, 3, padding=1)
        self.right = nn.Conv2d(3, 7, 1)
        self.last = nn.Conv2d(12, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], dim=1))


def test_concat_moves_offsets_and_constants_per_slice() -> None:
    model = settle(Joined(), 17)
    kill(model.left, [4])
    kill(model.right, [0, 6])
    with torch.no_grad():
        model.left.bias.fill_(0.25)
        model.right.bias.fill_(0.5)
    small, plan = checked(model)
    assert widths(small) == [4, 5, 4]
    assert plan.folds["last"].constants == {4: 0.25, 5: 0.5, 11: 0.5}


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_channel_with_zero_input_emits_its_bias_and_leaves(multiplier: int) -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(),
            nn.Conv2d(6, 6 * multiplier, 3, padding=1, groups=6), nn.ReLU(),
            nn.Conv2d(6 * multiplier, 4, 1),
        ),
        18,
    )  # fmt: skip
    kill(model[0], [0, 3])
    with torch.no_grad():
        model[0].bias.fill_(-0.5)
        model[2].bias.fill_(0.3)
    small, plan = checked(model)
    assert widths(small) == [4, 4 * multiplier, 4]
    assert len(plan.folds["4"].constants) == 2 * multiplier


def test_padded_depthwise_of_a_nonzero_constant_is_a_map_and_stays() -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1, groups=6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 1),
        ),
        19,
    )
    kill(model[0], [0])
    with torch.no_grad():
        model[0].bias.fill_(0.5)
    small, plan = checked(model)
    assert widths(small) == [6, 6, 4]
    assert plan.is_empty


def test_depthwise_with_a_zero_kernel_leaves_with_its_input() -> None:
    model = settle(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1)), 20
    )
    kill(model[1], [2])
    small, plan = checked(model)
    assert widths(small) == [5, 5, 4]
    assert "no reader" in {r.reason for r in plan.removed if r.layer == "0"}


def test_grouped_convolution_keeps_equal_groups() -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 1)
        ),
        21,
    )
    kill(model[0], [0])
    kill(model[2], [7])
    small, _ = checked(model)
    assert widths(small) == [8, 8, 4]


class Gated(nn.Module):
    """A squeeze-and-excite gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.gate = nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return self.last(x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1))))


def test_a_gated_constant_is_not_a_constant() -> None:
    model = settle(Gated(), 22)
    kill(model.conv, [0])
    with torch.no_grad():
        model.conv.bias.fill_(0.5)
    small, _ = checked(model)
    assert widths(small) == [6, 6, 4]


@pytest.mark.parametrize(
    ("norm", "left"),
    [
        (nn.GroupNorm(2, 6), 6),
        (nn.InstanceNorm2d(6, affine=True), 5),
        (nn.InstanceNorm2d(6), 5),
    ],
    ids=["group", "instance", "instance without parameters"],
)
def test_norms_over_several_channels_keep_them_all(norm: nn.Module, left: int) -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.Conv2d(6, 4, 1)), 23)
    kill(model[0], [0, 1])
    with torch.no_grad():
        model[0].bias[0] = 0  # the other's constant meets rounding divided by almost nothing
    small, _ = checked(model)
    assert widths(small) == [left, 4]


def test_outgoing_dead_channel_leaves_and_the_cascade_goes_backwards() -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)
        ),
        24,
    )
    with torch.no_grad():
        model[4].weight[:, 2] = 0  # nobody reads channel 2 of the middle layer,
        others = [0, 1, 3, 4, 5]
        model[2].weight[others, 1] = 0  # which alone read channel 1 of the first
    small, plan = checked(model)
    assert widths(small) == [4, 5, 4]
    assert {(r.layer, r.reason) for r in plan.removed} == {
        ("0", "no reader"),
        ("2", "no reader"),
    }


def test_whole_layer_dead_gives_a_constant_output_and_no_crash() -> None:
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 5, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(320, 3),
        ),
        25,
    )
    kill(model[2], list(range(5)))
    small, plan = checked(model)
    assert widths(small)[1] == 1
    assert widths(small)[2] == 3
    assert any("empty" in kept.why for kept in plan.kept)


def test_classifier_rows_are_never_removed() -> None:
    model = settle(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 10)), 26
    )
    kill(model[3], [0, 9])
    small, _ = checked(model, (3, 2, 2))
    assert widths(small)[-1] == 10


def test_network_inputs_keep_the_interface() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), 27)
    with torch.no_grad():
        model[0].weight[:, 1] = 0
    small, _ = checked(model)
    assert dict(small.named_modules())["0"].in_channels == 3


def test_live_filter_whose_weights_sum_to_zero_stays() -> None:
    """Signed constants: the dead test is any(w != 0), never a sum."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    with torch.no_grad():
        model[0].weight[0] = torch.tensor([1.0, -1.0]).view(2, 1, 1)
    small, plan = checked(model, (2, 6, 6))
    assert widths(small) == [4, 3]
    assert plan.is_empty


def test_two_consumers_each_fold_their_own_constants() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.a = nn.Conv2d(6, 4, 3, padding=1)
            self.b = nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.a(torch.sigmoid(x)) + self.b(F.relu(x))

    model = settle(Fork(), 28)
    kill(model.conv, [0, 1, 2])
    small, plan = checked(model)
    assert widths(small) == [4, 4, 4]
    assert plan.folds["a"].into.startswith("carrier:")
    assert plan.folds["b"].into == "bias"


def test_shared_module_is_left_alone_and_right() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.last = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.conv(F.relu(self.conv(x)))))

    model = settle(Twice(), 29)
    kill(model.conv, [0])
    small, _ = checked(model)
    assert widths(small) == [3, 2]


def test_parameters_used_directly_in_forward() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)
            self.scale = nn.Parameter(torch.randn(1, 5, 1, 1))
            self.last = nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.conv(x) * self.scale)

    model = settle(Scaled(), 30)
    kill(model.conv, [0])
    small, _ = checked(model)
    assert widths(small) == [4, 2]
    assert small.scale.shape == (1, 4, 1, 1)


def test_operation_without_a_rule_is_slower_never_wrong() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.last = nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.roll(self.conv(x), 1, dims=1))

    model = settle(Strange(), 31)
    kill(model.conv, [0, 1])
    small, plan = checked(model)
    assert widths(small) == [6, 2]
    assert plan.is_empty


def test_arithmetic_with_numbers() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.last = nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(2 * self.conv(x) + 3 - 0.5)

    model = settle(Shifted(), 32)
    kill(model.conv, [0, 1])
    small, plan = checked(model)
    assert widths(small) == [4, 2]
    assert plan.folds["last"].constants[0] == pytest.approx(
        2 * model.conv.bias[0].item() + 2.5
    )


def test_value_added_to_itself() -> None:
    class Double(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.last = nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.last(x + x)

    model = settle(Double(), 33)
    kill(model.conv, [5])
    small, plan = checked(model)
    assert widths(small) == [5, 2]
    assert plan.folds["last"].constants[5] == pytest.approx(2 * model.conv.bias[5].item())


def test_subnormal_values_are_flushed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[2].bias.fill_(1e-40)
    small, _ = checked(model)
    bias = small.get_submodule("2").bias.detach()
    assert bias.abs().max().item() == 0.0


def test_compact_network_trains_on() -> None:
    model = settle(Residual(), 34)
    kill(model.conv1, [0, 1])
    small, _ = checked(model)
    small.train()
    loss = small(torch.randn(4, 3, 8, 8)).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in small.parameters())


def test_the_oracle_can_see_one_spoiled_weight() -> None:
    model = settle(Residual(), 35)
    kill(model.conv1, [0, 1])
    small, plan = compact(model, (3, 8, 8))
    images = torch.randn(4, 3, 8, 8)
    assert prove(model, small, plan, images).holds
    scale = prove(model, small, plan, images).comparisons[0].scale
    with torch.no_grad():
        small.get_submodule("fc").bias[0] += 3e-5 * scale
    assert not prove(model, small, plan, images).holds
