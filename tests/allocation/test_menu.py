"""Ties: which units choose together, and what is left for them to choose."""

from __future__ import annotations

import pytest
from allocation_cases import row

from bitwright.allocation.allocate import allocate
from bitwright.allocation.menu import make_menu
from bitwright.allocation.table import make_table
from bitwright.errors import RunDirectoryError
from bitwright.graph.choice import FLOAT, Choice

MENU = ((8, 8), (4, 8), (8, 4), (4, 4))


def unit(name, group="", menu=MENU, params=100):
    return [
        row(name, Choice(w, a), 1.0 / w + (0.5 / a if a else 0), params, 1000, group=group)
        for w, a in menu
    ]


def test_units_alone():
    menu = make_menu(make_table([*unit("a"), *unit("b")]))
    assert menu.classes == (("a",), ("b",)) and len(menu.rows) == 8


def test_a_group_takes_one_choice_that_all_have():
    table = make_table([*unit("a", "g"), *unit("b"), *unit("c", "g", ((8, 8), (4, 4), (2, 2)))])
    menu = make_menu(table)
    assert menu.classes == (("a", "c"), ("b",))
    assert [str(menu.labels[o]) for o in menu.options_of[0]] == ["w8a8", "w4a4"]
    for limit in (800, 1000, 1500):
        found = allocate(table, f"size<={limit + 96}bit")
        if found.rows:
            assert found.choices["a"] == found.choices["c"]


def test_groups_that_share_a_unit_are_one():
    table = make_table([*unit("a", "g"), *unit("b", "g h"), *unit("c", "h"), *unit("d", "h")])
    assert make_menu(table).classes == (("a", "b", "c", "d"),)


def test_tied_inputs_share_their_bits_and_choose_weights_alone():
    table = make_table([*unit("a", "a:add"), *unit("b", "a:add", params=1000), *unit("c")])
    menu = make_menu(table)
    assert len(menu.classes) == 3 and len(set(menu.component_of_alternative)) == 2
    found = allocate(table, "bops<=0.2 and size<=0.2")
    assert found.choices["a"].a_bits == found.choices["b"].a_bits
    weights = allocate(table, "size<=0.15")
    assert {weights.choices["a"].w_bits, weights.choices["b"].w_bits} == {8, 4}


def test_units_without_quantised_inputs_follow_in_weight_bits():
    embedding = unit("emb", "g", ((8, 0), (4, 0)))
    table = make_table([*unit("a", "g a:x"), *embedding, *unit("b", "a:x")])
    menu = make_menu(table)
    assert menu.classes[0] == ("a", "emb")
    found = allocate(table, "size<=0.15")
    assert found.choices["a"].w_bits == found.choices["emb"].w_bits
    assert found.choices["emb"].a_bits == 0
    assert found.choices["a"].a_bits == found.choices["b"].a_bits


def test_uniform_means_the_same_choice_for_all_that_are_free():
    table = make_table(
        [
            *unit("kept", menu=((8, 8),)),
            *unit("emb", menu=((8, 0), (4, 0))),
            *unit("a"),
            *unit("b", menu=((4, 4), (8, 8))),
        ]
    )
    menu = make_menu(table)
    found = {
        str(choice): [str(r.choice) for r in menu.rows_of(selection).values()]
        for choice, selection in menu.uniforms().items()
    }
    assert found == {
        "w8a8": ["w8a8", "w8afloat", "w8a8", "w8a8"],
        "w4a4": ["w8a8", "w4afloat", "w4a4", "w4a4"],
    }


def test_float_is_a_choice_like_any():
    rows = [*unit("a", menu=((8, 8),)), row("a", FLOAT, -0.01, 100, 1000)]
    assert allocate(make_table(rows), "size<=1").choices["a"] == FLOAT
    assert str(allocate(make_table(rows), "size<=0.9").choices["a"]) == "w8a8"


def test_ties_that_leave_nothing_are_told():
    with pytest.raises(RunDirectoryError, match=r"group 'g' ties 'a', 'b'.*no choice in common"):
        make_menu(make_table([*unit("a", "g"), *unit("b", "g", ((2, 2), (3, 3)))]))
    with pytest.raises(RunDirectoryError, match=r"ties the input bits of 'a', 'b'.*none in common"):
        make_menu(make_table([*unit("a", "a:g"), *unit("b", "a:g", ((4, 2), (8, 2)))]))
