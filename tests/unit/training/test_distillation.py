"""What a teacher adds to the loss, and that the run depends on it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fast_run import run_fast
from small_data import conv_net, digits, options

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.recipe import Choice
from pipeline.methods import create
from pipeline.training.distillation import Teacher
from pipeline.training.loop import train

CPU = torch.device("cpu")


def test_the_loss_is_that_of_the_paper():
    model, images = conv_net(), torch.randn(5, 1, 8, 8)
    outputs, task = torch.randn(5, 10), torch.tensor(2.0)
    got = Teacher(model, 0.3, 4.0, CPU).blend(task, outputs, images)
    soft = F.softmax(model.eval()(images).detach() / 4, dim=1)
    cross = -(soft * F.log_softmax(outputs / 4, dim=1)).sum(1).mean()
    entropy = -(soft * soft.log()).sum(1).mean()
    assert float(got) == pytest.approx(0.7 * 2.0 + 0.3 * 16 * float(cross - entropy), rel=1e-4)


def test_a_student_that_says_the_same_pays_nothing():
    model, images = conv_net().eval(), torch.randn(5, 1, 8, 8)
    same = model(images).detach()
    assert float(Teacher(model, 1.0, 4.0, CPU).blend(torch.tensor(9.0), same, images)) < 1e-6
    other = same + torch.eye(5, 10)
    assert float(Teacher(model, 1.0, 4.0, CPU).blend(torch.tensor(0.0), other, images)) > 1e-3


def test_the_teacher_is_left_as_it_was_and_changes_what_is_learnt():
    data = digits(600)
    dense = create(Choice(name="dense"), Budget())
    teacher = train(conv_net(), dense, data, options(epochs=3), seed=0).model
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    how = options(epochs=2, teacher_weight=1.0)
    taught = train(conv_net(), dense, data, how, seed=0, teacher=teacher)
    alone = train(conv_net(), dense, data, how, seed=0)
    assert all(
        torch.equal(before[name], value) for name, value in teacher.state_dict().items()
    )
    assert taught.history[-1].task_loss != alone.history[-1].task_loss


def test_another_teacher_is_another_training(tmp_path):
    run_fast(tmp_path / "dense", "method.name=dense", "budget.weights=1", until="train")
    weights = tmp_path / "dense" / "1-train" / "model.safetensors"
    taught = (f"train.teacher={weights}",)
    assert run_fast(tmp_path / "run", *taught, until="train").executed == ["train"]
    assert run_fast(tmp_path / "run", *taught, until="train").executed == []
    weights.touch()
    assert run_fast(tmp_path / "run", *taught, until="train").executed == ["train"]


def test_a_teacher_that_is_not_there_is_refused_before_the_training(tmp_path):
    with pytest.raises(PareError, match=r"no checkpoint at .*nobody\.pt"):
        run_fast(tmp_path / "run", "train.teacher=/nobody.pt", until="train")
