"""targets/README.md explains every key of a target file, and no key that doesn't exist."""

import re
from pathlib import Path

import pytest

from pipeline.core import target as schema
from pipeline.core.target import shipped
from pipeline.core.target_review import abilities

README = (Path(__file__).parents[2] / "targets" / "README.md").read_text(encoding="utf-8")

#: The records whose keys each section explains.
SECTIONS = {
    "Top level": (schema.Target,),
    "`[platform]`": (schema.Platform,),
    "`[[platform.variants]]`": (schema.Variant,),
    "`[cpu]` and `[[cpu.clusters]]`": (schema.Cpu, schema.Cluster),
    "`[memory]`": (schema.Memory,),
    "`[accelerator]`": (schema.Accelerator,),
    "`[accelerator.ops]`": (schema.OpTable,),
    "`[storage]`": (schema.Storage,),
    "`[power]`": (schema.Power,),
    "`[constraints]` and `[constraints.ops]`": (schema.Constraints, schema.Ops),
    "`[budgets]`": (schema.Budgets,),
    "`[[runtimes]]`": (schema.RuntimeFact,),
    "`[[calibration]]`": (schema.Calibration,),
    "`[profile]`": (schema.Profile,),
    "`[transport]`": (schema.Transport,),
    "`[[reference_latencies]]`": (schema.ReferenceLatency,),
}


def explained(text):
    """Return the keys in the first column of each section's tables, and those in bold."""
    found = {}
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        cells = re.findall(r"^\| ([^|]*`[^|]*) \|", body, flags=re.MULTILINE)
        keys = {key for cell in cells for key in re.findall(r"`([a-z0-9_]+)`", cell)}
        bold = {key for cell in cells for key in re.findall(r"\*\*`([a-z0-9_]+)`\*\*", cell)}
        found[heading] = (keys, bold)
    return found


def keys(records):
    return {f.alias or name for record in records for name, f in record.model_fields.items()}


def needed(records):
    return {
        field.alias or name
        for record in records
        for name, field in record.model_fields.items()
        if field.is_required()
    }


def test_there_is_a_section_for_each_table():
    assert list(explained(README)) == list(SECTIONS)
    records = {record for found in SECTIONS.values() for record in found}
    every = {
        one
        for one in vars(schema).values()
        if isinstance(one, type) and issubclass(one, schema.Record)
    }
    inner = {schema.Record, schema.System, schema.Decision, schema.Figure, schema.Rates}
    assert every - records == inner


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_is_explained_and_no_other(heading):
    assert explained(README)[heading][0] == keys(SECTIONS[heading])


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_needed_keys_are_bold(heading):
    assert explained(README)[heading][1] == needed(SECTIONS[heading])


def test_the_comparison_sees_a_key_that_is_left_out():
    without = README.replace("| `flash_mb` |", "| flash |")
    assert without != README
    left_out = keys(SECTIONS["`[memory]`"]) - explained(without)["`[memory]`"][0]
    assert left_out == {"flash_mb"}


def test_every_unit_and_every_basis_is_explained():
    for suffix in schema._UNITS:
        assert f"`{suffix}`" in README
    for basis in ("vendor", "measured", "fitted", "derived", "assumed"):
        assert f"| `{basis}` |" in README
    assert "value = 2325" in README


def test_the_table_of_targets_says_what_their_files_say():
    part = README.partition("## What each target can tell")[2].partition("## Write")[0]
    row = r"^\| ([a-z0-9-]+) \| ([^|]+ \| [^|]+) \|"
    rows = dict(re.findall(row, part, flags=re.MULTILINE))
    rows.pop("target")
    assert sorted(rows) == sorted(shipped())
    for name, row in rows.items():
        predicted, _, bound = row.partition(" | ")
        lines = abilities(schema.Target.load(name))
        assert (predicted == "-") is ("no latency" in lines[1]), name
        assert (bound == "-") is ("no latency" in lines[2]), name
        assert bound in ("-", "yes")
