import os
import re
import tomllib

import pytest
from fast_run import ROOT
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import PareError
from pipeline.core.plugins import METHODS
from pipeline.core.recipe import Recipe, fingerprint, shipped
from pipeline.methods import create


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


@pytest.mark.parametrize("method", METHODS.plugins())
def test_every_method_takes_the_place_of_the_recipes_own(method):
    weights = "budget.weights=1" if method == "dense" else "budget.weights=0.5"
    recipe = loaded(f"method.name={method}", weights)
    assert create(recipe.method, recipe.budget) is not None


OWN = """
targets = ["raspberry-pi-4b", "devices/own.toml"]
[model]
name = "conv2"
width = 4
checkpoint = "weights/first.safetensors"
[data]
name = "image-folder:images"
size = 16
validation_fraction = 0.3
[method]
name = "reparam"
mixing = 3.0
"""


DEVICE = """
schema = "edge-target/1"
id = "own"
name = "own"
class = "sbc"
[platform]
os = "linux"
[constraints]
basis = "assumed"
source = "test"
formats = ["onnx"]
dtypes = ["fp32"]
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine" / "devices").mkdir(parents=True)
    (tmp_path / "mine" / "devices" / "own.toml").write_text(DEVICE)
    (tmp_path / "mine" / "own.toml").write_text(OWN)
    return tmp_path / "mine" / "own.toml"


def test_another_plugin_takes_nothing_from_the_file_but_what_all_share(own):
    names = ["model.name=vgg16", "data.name=digits", "method.name=magnitude"]
    recipe = Recipe.load(own, [*names, "model.width=8"])
    assert (recipe.model.options, recipe.model.checkpoint) == ({"width": 8}, None)
    assert (recipe.data.options, recipe.data.validation_fraction) == ({}, 0.3)
    assert recipe.method.options == {}
    first = Recipe.load(own, ["model.width=8", *names])
    assert first == recipe  # in whatever order


def test_the_same_plugin_keeps_the_options_of_the_file(own, tmp_path):
    names = ["model.name=conv2", f"data.name=image-folder:{tmp_path}", "method.name=reparam"]
    recipe = Recipe.load(own, names)
    assert recipe.model.options == {"width": 4}
    assert recipe.data.options == {"size": 16}
    assert recipe.method.options == {"mixing": 3.0}


def test_a_path_in_a_file_starts_at_the_file(own, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = Recipe.load("../mine/own.toml")
    folder = tmp_path / "elsewhere" / ".." / "mine"
    assert recipe.targets == ["raspberry-pi-4b", f"{folder}/devices/own.toml"]
    assert recipe.model.checkpoint == f"{folder}/weights/first.safetensors"
    assert recipe.data.name == f"image-folder:{folder}/images"


def test_a_path_of_an_override_starts_at_the_current_folder(own, tmp_path, monkeypatch):
    monkeypatch.chdir(own.parent / "devices")
    recipe = Recipe.load(
        own,
        [
            "targets=['own.toml']",
            "model.checkpoint=w.pt",
            "data.name=image_folder:here",
            "data.root=data",
        ],
    )
    here = own.parent / "devices"
    assert recipe.targets == [f"{here}/own.toml"]
    assert recipe.model.checkpoint == f"{here}/w.pt"
    assert recipe.data.name == f"image_folder:{here}/here"
    assert recipe.data.options["root"] == f"{here}/data"
    written = tmp_path / "recipe.toml"
    written.write_text(recipe.to_toml())
    monkeypatch.chdir(tmp_path)
    assert Recipe.load(written) == recipe  # a run goes on from any folder


def test_a_recipe_that_ships_downloads_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Recipe.load("cifar10").data.options["root"] == str(tmp_path / "data")


def test_a_path_may_start_at_the_home_of_the_user(own, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = Recipe.load(own, ["model.checkpoint=~/w.pt", "data.name=image-folder:~/a"])
    assert recipe.model.checkpoint == str(tmp_path / "w.pt")
    assert recipe.data.name == f"image-folder:{tmp_path}/a"


def test_a_target_file_that_is_missing_is_named_in_full(own):
    (own.parent / "devices" / "own.toml").unlink()
    with pytest.raises(PareError, match=f"no file at {own.parent}/devices/own.toml"):
        Recipe.load(own)


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


def test_the_fingerprint_follows_the_rates_of_a_budgets_target(tmp_path):
    text = (ROOT / "targets" / "raspberry-pi-4b.toml").read_text(encoding="utf-8")
    own = tmp_path / "own.toml"
    own.write_text(text)
    recipe = loaded("budget.weights=1", "budget.latency_ms=1", f"budget.target={own}")
    before = fingerprint(recipe)
    own.write_text(text.replace('name = "Raspberry Pi 4 Model B"', 'name = "Another"'))
    assert fingerprint(recipe) == before
    changed = re.sub(r"r_gmac_s = [\d.]+", "r_gmac_s = 1.25", text, count=1)
    assert changed != text
    own.write_text(changed)
    assert fingerprint(recipe) != before


def test_a_budgets_target_that_is_not_there_is_refused_before_the_training():
    with pytest.raises(PareError, match="raspberry-pi-4b"):
        loaded("budget.weights=1", "budget.latency_ms=1", "budget.target=raspberry")


@pytest.mark.parametrize("room", ["model", "data", "method"])
def test_the_fingerprint_follows_what_the_users_code_imports(room, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"own_{room}_main.py").write_text(f"import own_{room}_layers")
    layers = tmp_path / f"own_{room}_layers.py"
    layers.write_text("")
    recipe = loaded(f"{room}.name=own_{room}_main:thing")
    before = fingerprint(recipe)
    layers.write_text("changed = True")
    assert fingerprint(recipe) != before


def test_a_recipe_that_ships_is_the_same_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Recipe.load(shipped()["cifar10"]) == Recipe.load("cifar10")
    folder = shipped()["cifar10"].parent
    crooked = folder / ".." / folder.name / "cifar10.toml"
    assert Recipe.load(crooked) == Recipe.load("cifar10")
