"""What stages are given, where the code they need is no longer that of the run."""

import pytest
from fast_run import FAST
from safetensors.torch import save_file
from torch import nn

from pipeline.core.errors import PareError
from pipeline.core.recipe import Recipe
from pipeline.stages.context import Context, Shared
from pipeline.stages.runner import Quiet


def test_weights_of_a_model_whose_code_has_changed_are_refused_with_what_to_do(tmp_path):
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "model.safetensors")
    recipe = Recipe.load("quickstart", FAST)
    context = Context(recipe, [], Quiet(), Shared(recipe), {"train": tmp_path})
    message = "the model's code has changed since it was trained; run with --fresh"
    with pytest.raises(PareError, match=message) as caught:
        context.trained("train")
    assert str(tmp_path / "model.safetensors") in str(caught.value)
