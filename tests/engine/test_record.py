"""Values that are JSON objects: out and back, as mappings, and faults named by their place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

import records
from bitwright.engine.record import FLAT, OPTIONAL, Record, store_as
from bitwright.evaluation.figures import Metrics
from bitwright.export.rundir import as_json
from bitwright.export.verified import Verification
from bitwright.graph.census_record import Census


@dataclass(frozen=True, eq=False, kw_only=True)
class Inner(Record):
    pair: tuple[float, str]
    more: Mapping[str, float] = field(default_factory=dict, metadata=FLAT)


@dataclass(frozen=True, eq=False, kw_only=True)
class Outer(Record):
    name: str
    count: int
    sure: bool
    before: Mapping[str, float] = field(metadata=store_as("float"))
    parts: tuple[Inner, ...] = ()
    found: Inner | None = None
    note: str | None = field(default=None, metadata=OPTIONAL)


numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(max_size=5)
inners = st.builds(
    Inner,
    pair=st.tuples(numbers, names),
    more=st.dictionaries(names.filter(lambda name: name != "pair"), numbers, max_size=3),
)
outers = st.builds(
    Outer,
    name=names,
    count=st.integers(-(2**100), 2**100),
    sure=st.booleans(),
    before=st.dictionaries(names, numbers, max_size=3),
    parts=st.lists(inners, max_size=3).map(tuple),
    found=st.none() | inners,
    note=st.none() | names,
)


@given(outers)
def test_what_is_written_is_read_back(made):
    again = Outer.from_json(json.loads(as_json(made)))
    assert vars(again).keys() == vars(made).keys()
    for name in ("name", "count", "sure", "before", "found", "note"):
        assert getattr(again, name) == getattr(made, name)
    assert again == made and as_json(again) == as_json(made)
    assert all(isinstance(part, Inner) for part in again.parts)


@given(outers)
def test_it_is_the_mapping_of_its_file(made):
    plain = json.loads(as_json(made))
    assert dict(made) == plain == made.to_json() and made == plain
    assert list(made) == list(plain) and len(made) == len(plain)
    assert ("note" in made) == (made.note is not None) and "found" in made
    assert made["float"] == made.before and made.get("parts") == plain["parts"]
    with pytest.raises(KeyError):
        made["before"]
    with pytest.raises(FrozenInstanceError):
        made.name = "other"


def whole() -> dict[str, object]:
    return {"name": "a", "count": 1, "sure": True, "float": {}, "parts": [{"pair": [1, "b"]}]}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", 3, r"^run.name is 3 and no text"),
        ("count", True, r"^run.count is True and no whole number"),
        ("count", 1.0, r"^run.count is 1.0 and no whole number"),
        ("sure", 1, r"^run.sure is 1 and no yes or no"),
        ("float", [], r"^run.float is \[\] and no object"),
        ("float", {"top1": "x"}, r"^run.float.top1 is 'x' and no number"),
        ("float", {"top1": 10**400}, r"^run.float.top1 is beyond every number"),
        ("parts", "no list", r"^run.parts is 'no list' and no list"),
        ("parts", [{"pair": [1]}], r"^run.parts\[0\].pair has 1 entries in place of 2"),
        ("parts", [{}], r"^run.parts\[0\] has no 'pair'"),
        ("parts", [{"pair": [1, "b"], "x": "y"}], r"^run.parts\[0\].x is 'y' and no number"),
        ("found", 1, r"^run.found is 1 and no object"),
        ("name", "x" * 99 + "\n", None),
    ],
)
def test_a_fault_is_named_by_its_place(key, value, said):
    if said is None:
        assert Outer.from_json({**whole(), key: value}).name == value
        return
    with pytest.raises(ValueError, match=said):
        Outer.from_json({**whole(), key: value}, "run")


@pytest.mark.parametrize("key", ["name", "count", "sure", "float"])
def test_what_every_version_wrote_must_be_there(key):
    with pytest.raises(ValueError, match=f"run has no '{key}'"):
        Outer.from_json({k: v for k, v in whole().items() if k != key}, "run")


def test_what_json_does_not_know_is_no_number_again():
    made = Outer(name="a", count=1, sure=False, before={"loss": math.inf})
    again = Outer.from_json(json.loads(as_json(made)))
    assert math.isnan(again.before["loss"])


def test_keys_of_another_version_are_passed_over():
    assert Outer.from_json({**whole(), "of later": 1}) == Outer.from_json(whole())


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (Metrics, records.METRICS),
        (Census, {**records.CENSUS, "units": [records.UNIT]}),
        (Verification, records.VERIFIED),
    ],
)
def test_the_files_of_a_run_say_all_that_has_no_default(kind, record):
    made = kind.from_json(record)
    keys = {f.metadata.get("key", f.name) for f in fields(kind)}
    assert set(record) <= keys and set(made) <= keys
