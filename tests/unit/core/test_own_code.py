"""Which files of the user's count as the code of a module."""

import pytest

from pipeline.core.own_code import own_files

FILES = {
    "net.py": "import os, torch, layers\nfrom deep.inner import block\nimport pipeline.data",
    "layers.py": "def late():\n    from further import thing",
    "further.py": "import net",
    "beside.py": "",
    "broken.py": "import layers\nthis is no Python",
    "pipeline/__init__.py": "",
    "pipeline/data.py": "",
    "deep/__init__.py": "from . import sibling",
    "deep/sibling.py": "from ..outside import x\nfrom ...... import y",
    "deep/inner/__init__.py": "",
    "deep/inner/block.py": "from ..cousin import *",
    "deep/cousin.py": "import layers",
    "deep/unused.py": "",
}


@pytest.fixture(params=["home", "site-packages"])
def folder(request, tmp_path):
    root = tmp_path / request.param
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def names(folder, module, file):
    return {str(path.relative_to(folder)) for path in own_files(module, folder / file)}


DEEP = {f"deep/{name}.py" for name in ("__init__", "sibling", "cousin")}
INNER = {"deep/inner/__init__.py", "deep/inner/block.py"}


def test_imports_are_followed_and_what_is_installed_stays_in_its_package(folder):
    found = names(folder, "deep.inner.block", "deep/inner/block.py")
    installed = folder.name == "site-packages"
    beside = set() if installed else {"layers.py", "further.py", "net.py"}
    assert found == DEEP | INNER | beside
    flat = names(folder, "net", "net.py")
    assert flat == ({"net.py"} if installed else DEEP | INNER | beside)


def test_a_package_is_known_by_its_own_file(folder):
    assert names(folder, "deep", "deep/__init__.py") == DEEP - {"deep/cousin.py"}


def test_a_module_that_is_no_python_counts_alone(folder):
    assert names(folder, "broken", "broken.py") == {"broken.py"}
    assert own_files("sys", folder / "built-in") == []
