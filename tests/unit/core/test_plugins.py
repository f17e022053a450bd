import subprocess
import sys
import textwrap

import pytest

from pipeline.core.errors import PareError
from pipeline.core.plugins import DATA, EXPORTERS, METHODS, MODELS, QUANTIZERS

ROOMS = {
    METHODS: {
        "aslp", "continuous", "dense", "edge_popup", "filter_norm", "gradual",
        "hard_concrete", "lottery", "magnitude", "reparam", "supermask",
    },
    MODELS: {
        "conv2", "conv4", "conv6", "mobilenet_v1", "resnet8", "resnet18", "resnet20",
        "resnet56", "vgg16", "vgg19", "torchvision",
    },
    DATA: {"digits", "cifar10", "cifar100", "image_folder", "tiny_imagenet"},
    QUANTIZERS: {
        "float32", "float16", "dynamic_range", "int4", "int8", "int16x8", "weight_only",
    },
    EXPORTERS: {"onnx", "tflite_litert", "tflite_onnx2tf"},
}  # fmt: skip


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.folder)
def test_a_room_lists_exactly_what_its_folder_holds(room):
    assert room.plugins().keys() == ROOMS[room]
    for key, plugin in room.plugins().items():
        assert plugin.key == key
        assert plugin.help, f"{plugin.module} has no first line of a docstring"


def test_listing_imports_nothing():
    code = """
    import sys
    from pipeline.core import plugins
    for room in ("METHODS", "MODELS", "DATA", "QUANTIZERS", "EXPORTERS"):
        assert getattr(plugins, room).plugins()
    heavy = {"torch", "numpy", "torchvision", "onnx", "onnxruntime", "tensorflow", "PIL"}
    print(sorted(heavy & sys.modules.keys()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_loading_gives_the_class_and_the_argument():
    plugin, argument = METHODS.load("dense")
    assert (plugin.__name__, argument) == ("Dense", None)
    plugin, argument = DATA.load("image-folder:some/where:else")
    assert (plugin.__name__, argument) == ("ImageFolder", "some/where:else")


def test_the_users_own_is_loaded_by_module_and_name():
    assert MODELS.load("textwrap:dedent") == (textwrap.dedent, None)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("reparm", r"no method named 'reparm'\. Did you mean 'reparam'\? Known: aslp, "),
        ("no_such_module:thing", "needs the Python module 'no_such_module'.*check the name"),
        ("reparm:thing", "'reparm', which is not installed. Did you mean 'reparam'"),
        ("textwrap:nothing", "module textwrap has no 'nothing'"),
        (":thing", "no method named ':thing'"),
        ("textwrap:", "no method named 'textwrap:'"),
    ],
)
def test_a_key_that_nothing_has_is_refused(key, message):
    with pytest.raises(PareError, match=message):
        METHODS.load(key)


def test_a_module_that_lacks_what_it_imports_says_which(tmp_path, monkeypatch):
    (tmp_path / "own_method_module.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PareError, match="needs the Python module 'not_installed_anywhere'"):
        METHODS.load("own_method_module:Thing")


def test_the_source_of_the_users_own_is_found_and_of_a_listed_one_is_not(
    tmp_path, monkeypatch
):
    (tmp_path / "own_source_module.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert MODELS.source("own_source_module:net") == str(tmp_path / "own_source_module.py")
    for key in ("conv2", "torchvision:resnet18", "no_such_module:net", "a..b:net", ":net"):
        assert MODELS.source(key) is None


def test_an_installed_package_adds_its_own(monkeypatch):
    from importlib.metadata import EntryPoint

    from pipeline.core import plugins

    def entries(group):
        return [EntryPoint("mine", "textwrap:dedent", group)] if "models" in group else []

    monkeypatch.setattr(plugins, "entry_points", entries)
    assert MODELS.plugins()["mine"].help == "from textwrap"
    assert MODELS.load("mine")[0] is textwrap.dedent
    assert "mine" not in METHODS.plugins()
