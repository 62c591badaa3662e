"""Costs: whole steps, what float costs, energy, tables of the user's own."""

from __future__ import annotations

from fractions import Fraction

import pytest
from allocation_cases import random_table, row
from hypothesis import given
from hypothesis import strategies as st

from bitwright.allocation.cost import (
    bops,
    exact_steps,
    measure,
    read_user_table,
    weight_bits,
)
from bitwright.allocation.energy import energy_pj, energy_table, mac_pj
from bitwright.allocation.table import make_table
from bitwright.errors import RecipeError, RunDirectoryError
from bitwright.graph.choice import FLOAT, Choice

NUMBERS = st.lists(
    st.one_of(st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False)),
    max_size=8,
)


@given(NUMBERS)
def test_steps_are_the_decimals_exactly(values):
    steps, scale = exact_steps(values)
    for step, number in zip(steps, values, strict=True):
        assert Fraction(step, scale) == Fraction(repr(number))


def test_a_sum_that_binary_floats_get_wrong():
    steps, scale = exact_steps([0.1, 0.2, 0.3])
    assert steps[0] + steps[1] == steps[2] and scale == 10


def test_size_and_bops():
    assert weight_bits(1000, 10, Choice(4, 4)) == 4000 + 320
    assert weight_bits(1000, 10, Choice(4, 4, 2)) == 2 * 4000 + 320
    assert weight_bits(1000, 10, Choice(4, 4), zero_points=True) == 4000 + 320 + 40
    assert weight_bits(1000, 10, Choice(4, 4, 3), zero_points=True) == 3 * (4000 + 40) + 320
    assert weight_bits(1000, 10, FLOAT) == 32000
    assert bops(10, Choice(4, 8)) == 320 and bops(10, Choice(4, 0)) == 10 * 4 * 32
    assert bops(10, Choice(4, 8, 2)) == 640 and bops(10, FLOAT) == 10240


def test_what_float_costs():
    table = make_table(
        [
            row("a", Choice(4, 4), 0.0, 100, 7, latency_ms=1.5),
            row("b", Choice(8, 8), 0.0, 10, 3, latency_ms=2.25),
            row("a", FLOAT, None, 100, 7, latency_ms=4.0),
            row("b", FLOAT, None, 10, 3, latency_ms=8.0),
        ]
    )
    assert measure("size", table).whole == 32 * 110
    assert measure("bops", table).whole == 1024 * 10
    latency = measure("latency", table)
    assert (latency.steps, latency.scale, latency.whole) == ((150, 225), 100, 1200)
    assert latency.shown(latency.whole) == 12.0
    short = make_table([*table.rows, table.references[0]])
    assert measure("latency", short).whole is None


def test_energy_meets_the_figures_of_its_source():
    source = energy_table()
    assert mac_pj(Choice(8, 8)) == pytest.approx(0.2 + 0.1)
    assert mac_pj(FLOAT) == mac_pj(Choice(8, 0)) == pytest.approx(3.7 + 0.9)
    # The power law is steep enough for 32 x 32 bits as well.
    power = 3.1 / 0.2
    assert (mac_pj(Choice(16, 16)) - 0.1) / 0.2 == pytest.approx(power**0.5)
    rising = [mac_pj(Choice(b, b)) for b in (2, 4, 8, 16)]
    assert rising == sorted(rising)
    moved = energy_pj(0, 8000, Choice(8, 8), activations=100)
    assert moved == pytest.approx(1000 * source["weight_byte"] + 100 * source["activation_byte"])
    assert energy_pj(10, 0, Choice(8, 8, 2)) == pytest.approx(2 * 10 * 0.3)


def test_energy_is_computed_only_where_the_table_states_none():
    plain = [row("a", Choice(w, w), 0.1, 1000, 500) for w in (4, 8)]
    found = measure("energy", make_table(plain))
    for step, given_row in zip(found.steps, plain, strict=True):
        exact = energy_pj(500, given_row.weight_bits, given_row.choice)
        assert step / found.scale == pytest.approx(exact, abs=1e-3)
    assert found.whole / found.scale == pytest.approx(energy_pj(500, 32000, FLOAT), abs=1e-3)
    stated = [row("a", Choice(w, w), 0.1, 1000, 500, energy_pj=float(w)) for w in (4, 8)]
    found = measure("energy", make_table(stated))
    assert [step / found.scale for step in found.steps] == [4, 8] and found.whole is None
    with pytest.raises(RunDirectoryError, match="no energy of unit 'a' at w4a4"):
        measure("energy", make_table([plain[0], stated[1]]))


def test_a_table_of_the_users_own(tmp_path):
    table = random_table(5, tied=0.0)
    rows = [*table.rows, *table.references]
    lines = [
        f"{r.unit},{r.choice.w_bits},{r.choice.a_bits},{r.choice.points},{i}.5"
        for i, r in enumerate(rows)
    ]
    path = tmp_path / "cycles.csv"
    path.write_text("unit,w_bits,a_bits,points,value\n" + "\n".join(lines) + "\n")
    found = measure("dsp", table, {"dsp": read_user_table("dsp", path)})
    assert found.steps == tuple(10 * i + 5 for i in range(len(table.rows)))
    assert found.unit == "units" and found.scale == 10
    assert found.whole == sum(10 * i + 5 for i in range(len(table.rows), len(rows)))
    path.write_text("unit,w_bits,a_bits,points,value\n" + "\n".join(lines[1:]) + "\n")
    with pytest.raises(RunDirectoryError, match=r"cycles.csv holds no value of unit.*Add the line"):
        measure("dsp", table, {"dsp": read_user_table("dsp", path)})


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("u0,8,8,1,-1", "line 2: value is '-1'"),
        ("u0,8,8,1,1\nu0,8,8,1,2", "line 3: 'u0' at w8a8 stands there twice"),
        ("u0,8,8,1", "line 2 has 4 cells"),
    ],
)
def test_a_wrong_table_of_the_users_own(tmp_path, lines, told):
    path = tmp_path / "cycles.csv"
    path.write_text(f"unit,w_bits,a_bits,points,value\n{lines}\n")
    with pytest.raises(RunDirectoryError, match=told):
        read_user_table("dsp", path)


def test_names_of_costs(tmp_path):
    with pytest.raises(RecipeError, match="Give your cost another name"):
        read_user_table("size", tmp_path / "x.csv")
    with pytest.raises(RecipeError, match=r"unknown cost 'sise'. Did you mean 'size'"):
        measure("sise", random_table(1))
    path = tmp_path / "x.csv"
    path.write_text("unit,w_bits,a_bits,points,value\nu99,8,8,1,3\n")
    with pytest.raises(RunDirectoryError, match=r"unknown unit 'u99' in .*x.csv"):
        measure("dsp", random_table(1), {"dsp": read_user_table("dsp", path)})
