import os
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import PareError
from pipeline.core.recipe import Recipe, fingerprint, shipped


def loaded(*overrides):
    return Recipe.load("quickstart", overrides)


def test_the_recipes_that_ship_are_these_and_each_loads():
    assert shipped().keys() == {"quickstart", "cifar10"}
    for name in shipped():
        assert Recipe.load(name).name == name


@pytest.mark.parametrize(
    ("override", "part", "value"),
    [
        ("budget.weights=0.05", ("budget", "weights"), 0.05),
        ("train.epochs=3", ("train", "epochs"), 3),
        ("train.augment=false", ("train", "augment"), False),
        ("train.schedule=step", ("train", "schedule"), "step"),
        ('train.schedule="step"', ("train", "schedule"), "step"),
        ("train.milestones=[0.1, 0.2]", ("train", "milestones"), (0.1, 0.2)),
        (" train . epochs = 4 ", ("train", "epochs"), 4),
        ("name=other", ("name",), "other"),
        ("targets=[]", ("targets",), []),
        ("model.width=8", ("model", "options"), {"width": 8}),
        ("method={name='dense'}", ("method", "name"), "dense"),
        ("export.opset=19", ("export", "opset"), 19),
        ("data.name=image-folder:/a=b", ("data", "name"), "image-folder:/a=b"),
    ],
)
def test_an_override_takes_every_type_of_toml(override, part, value):
    found = (
        loaded(override, "budget.weights=1") if "method={" in override else loaded(override)
    )
    for name in part:
        found = getattr(found, name)
    assert found == value


def test_the_last_override_wins_and_the_file_is_not_changed():
    assert loaded("train.epochs=3", "train.epochs=4").train.epochs == 4
    assert loaded().train.epochs == 40


@pytest.mark.parametrize("text", ["train.epochs", "=3", "train..epochs=3", ".a=1", "a.=1"])
def test_an_override_of_another_form_is_refused(text):
    with pytest.raises(PareError, match=r"is not of the form table.key=value"):
        loaded(text)


def test_an_override_into_a_value_is_refused_with_the_whole_text():
    with pytest.raises(PareError, match=r"--set 'model.name.x=1': 'name' is a value, not a"):
        loaded("model.name.x=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=resnet21", r"quickstart\.toml: no model named .*Did you mean 'resnet20'"),
        ("method.name=reparm", r"no method named 'reparm'\. Did you mean 'reparam'"),
        ("data.name=digit", r"no data set named 'digit'\. Did you mean 'digits'"),
        ("targets=['rasberry-pi-4b']", "no target named .*Did you mean 'raspberry-pi-4b'"),
        ("train.epoch=3", r"unknown key 'train.epoch'\. Did you mean 'epochs'\?"),
        ("trian.epochs=3", r"unknown key 'trian'\. Did you mean 'train'\?"),
        ("budget.weights=0", r"quickstart\.toml: budget.weights = 0: .* greater than 0\."),
        ("budget.weights=-0.5", r"budget.weights = -0\.5: .* greater than 0\."),
        ("budget.weights=1.5", r"budget.weights = 1\.5: .* less than or equal to 1\."),
        ("budget.weights=nan", "budget.weights = nan: "),
        (
            "train.schedule=cosin",
            r"train.schedule = 'cosin': .*'cosine', 'step' or 'constant'",
        ),
        *(
            (
                f"train.precision={precision}",
                rf"train.precision = '{precision}': .*'32-true', '16-mixed' or 'bf16-mixed'",
            )
            for precision in ("bf16-true", "16-true", "64-true", "12-true")
        ),
        ("train.epochs=0", "train.epochs = 0: .*greater than or equal to 1"),
        ("seed=-1", "seed = -1"),
        ("name=a/b", "name = 'a/b'"),
    ],
)
def test_what_is_not_allowed_is_refused_with_file_key_and_value(override, message):
    with pytest.raises(PareError, match=message):
        loaded(override)


def test_an_unknown_recipe_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(PareError, match=r"no recipe named 'quikstart'. Did you mean 'quickst"):
        Recipe.load("quikstart")
    with pytest.raises(PareError, match=r"none is no folder and no file\. Give the folder of"):
        Recipe.load(tmp_path / "none")
    with pytest.raises(PareError, match=r"a folder, not a recipe\. .*ships: cifar10, quickst"):
        Recipe.load(tmp_path)
    with pytest.raises(PareError, match=r"no file at .*none\.toml"):
        Recipe.load(tmp_path / "none.toml")


def test_a_recipe_without_a_name_is_named_after_its_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[model]\nname = "conv2"\n[data]\nname = "digits"\n')
    assert Recipe.load(path).name == "mine"


@given(
    st.builds(
        lambda seed, weights, epochs, stones, width: [
            f"seed={seed}",
            f"budget.weights={weights!r}",
            f"train.epochs={epochs}",
            f"train.milestones={stones}",
            f"model.width={width}",
        ],
        st.integers(0, 2**32 - 1),
        st.floats(1e-6, 1),
        st.integers(1, 10**6),
        st.lists(st.floats(0, 1), max_size=3),
        st.integers(1, 512),
    )
)
def test_a_recipe_written_and_read_again_is_the_same(overrides):
    recipe = loaded(*overrides)
    assert Recipe.model_validate(tomllib.loads(recipe.to_toml())) == recipe


def test_the_written_recipe_spells_the_defaults_out():
    assert tomllib.loads(loaded().to_toml())["train"]["momentum"] == 0.9


def test_the_parts_for_a_key_hold_the_options_of_the_plugins():
    assert loaded("model.width=8").part(["model", "seed"]) == {
        "model": {"name": "conv2", "checkpoint": None, "width": 8},
        "seed": 0,
    }


def test_the_fingerprint_follows_the_files_a_recipe_names(tmp_path, monkeypatch):
    checkpoint, module = tmp_path / "w.safetensors", tmp_path / "own_recipe_module.py"
    checkpoint.write_bytes(b"a")
    module.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    recipe = loaded(
        f"model.checkpoint={checkpoint}",
        "model.name=own_recipe_module:net",
        f"data.name=image-folder:{folder}",
    )
    seen = [fingerprint(recipe)]
    assert fingerprint(recipe) == seen[0]
    (folder / "new.png").write_bytes(b"x")
    seen.append(fingerprint(recipe))
    os.utime(checkpoint, ns=(1, 1))
    seen.append(fingerprint(recipe))
    module.write_text("changed = True")
    seen.append(fingerprint(recipe))
    assert len(set(seen)) == 4
