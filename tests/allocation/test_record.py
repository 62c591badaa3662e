"""allocation.json: the contract's keys, and the way back."""

from __future__ import annotations

import json

import pytest
from allocation_cases import random_table, row

from bitwright.allocation.allocate import allocate
from bitwright.allocation.as_json import as_record
from bitwright.allocation.record import read_allocation, write_allocation
from bitwright.allocation.table import make_table
from bitwright.errors import FileError, RunDirectoryError
from bitwright.graph.choice import Choice


def test_the_contracts_keys(tmp_path):
    table = random_table(2, units=5)
    write_allocation(tmp_path / "a.json", allocate(table, "size<=0.2 and bops<=0.2"))
    record = json.loads((tmp_path / "a.json").read_text())
    assert {
        "solver", "status", "objective", "bound", "gap", "budgets", "choices", "uniform",
        "infeasible",
    } <= set(record)  # fmt: skip
    assert set(record["budgets"]) == {"size", "bops"}
    for spent in record["budgets"].values():
        assert {"limit", "used"} <= set(spent) and isinstance(spent["limit"], int)
        assert isinstance(spent["used"], int) and spent["used"] <= spent["limit"]
    assert set(record["choices"]) == set(table.units)
    for bits in record["choices"].values():
        assert list(bits) == ["w_bits", "a_bits", "points"]


@pytest.mark.parametrize("asked", ["size<=0.2", "size<=0.2 and latency<=0.9", "size<=0.001"])
def test_what_is_written_is_read_back(tmp_path, asked):
    for seed in range(12):
        table = random_table(seed)
        found = allocate(table, asked)
        path = tmp_path / f"{seed}.json"
        write_allocation(path, found)
        again = read_allocation(path, table)
        assert again == found
        assert as_record(again) == as_record(found)


def test_a_unit_kept_in_groups_is_read_back(tmp_path):
    """`--keep 'first=w4a8g64'` beside a menu: the file names the group, and is no damaged one."""
    kept = row("first", Choice(4, 8, 1, 64), None, 6400, 10)
    table = make_table([kept, *(row("a", Choice(w, 8), 1.0 / w, 100, 10) for w in (8, 4))])
    found = allocate(table, "size<=0.9")
    write_allocation(tmp_path / "a.json", found)
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["choices"]["first"] == {"w_bits": 4, "a_bits": 8, "points": 1, "group": 64}
    assert read_allocation(tmp_path / "a.json", table) == found


def test_infeasible_is_written_with_the_least_attainable(tmp_path):
    found = allocate(random_table(2), "size<=0.001")
    write_allocation(tmp_path / "a.json", found)
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["status"] == "infeasible" and record["choices"] == {}
    assert record["infeasible"]["size"]["least"] == found.infeasible[0].least


def test_an_objective_of_nothing_has_a_finite_record(tmp_path):
    table = make_table(row("a", Choice(w, w), 0.0, 10, 10) for w in (8, 4))
    write_allocation(tmp_path / "a.json", allocate(table, "size<=1"))
    assert json.loads((tmp_path / "a.json").read_text())["gap"] == 0


def test_a_fixed_scheme_can_be_read(tmp_path):
    """What `quantize` writes where no budget was given."""
    bits = {"w_bits": 8, "a_bits": 8, "points": 1}
    record = {
        "solver": None, "status": "fixed", "objective": None, "bound": None, "gap": None,
        "budgets": {}, "uniform": None, "choices": {"a": bits},
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(record))
    found = read_allocation(tmp_path / "a.json", make_table([row("a", Choice(8, 8), None, 1, 1)]))
    assert found.status == "fixed" and str(found.choices["a"]) == "w8a8"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged.*choices"),
        ('{"choices": {"a": {"w_bits": 3, "a_bits": 8, "points": 1}}}', "has no choice w3a8"),
        ('{"choices": {"b": {"w_bits": 8, "a_bits": 8, "points": 1}}}', "unknown unit 'b'"),
    ],
)
def test_a_damaged_record(tmp_path, text, told):
    (tmp_path / "a.json").write_text(text)
    table = make_table([row("a", Choice(8, 8), None, 1, 1)])
    with pytest.raises(RunDirectoryError, match=told):
        read_allocation(tmp_path / "a.json", table)


def test_files_that_cannot_be_used(tmp_path):
    table = make_table([row("a", Choice(8, 8), None, 1, 1)])
    with pytest.raises(RunDirectoryError, match=r"cannot be read.*bitwright allocate"):
        read_allocation(tmp_path / "a.json", table)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"a\.json cannot be written.*Name a place"):
        write_allocation(tmp_path / "file" / "a.json", allocate(table, "size<=1"))
