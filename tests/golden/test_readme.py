"""The README's tables are the ones that were measured and committed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    path = ROOT / "benchmarks" / "readme_tables.py"
    spec = importlib.util.spec_from_file_location("readme_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_results(tables: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    report = tables.read_json(tables.RESULTS / "quickstart.json")
    again = tables.replaced(text, "quickstart", tables.quickstart(report))
    again = tables.replaced(again, "methods", tables.methods())
    again = tables.replaced(again, "comparison", tables.comparison())
    assert again == text, "run `make results`"


def test_a_part_without_its_marks_is_noticed(tables: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no part marked"):
        tables.replaced("nothing here", "methods", "")
