"""Schemes and keep rules as the user writes them."""

from __future__ import annotations

import time

import pytest

from bitwright.errors import RecipeError
from bitwright.graph import choice
from bitwright.graph.choice import FLOAT, Choice, assign, parse_keep, parse_menu, parse_scheme
from bitwright.numerics import grid

UNITS = ["stem", "blocks.0.a", "blocks.0.b", "blocks.1.a", "head"]


@pytest.mark.parametrize(
    ("text", "choice", "shown"),
    [
        ("w4a8", Choice(4, 8), "w4a8"),
        (" W2A2 ", Choice(2, 2), "w2a2"),
        ("w8a16", Choice(8, 16), "w8a16"),
        ("w3afloat", Choice(3, 0), "w3afloat"),
        ("w3af", Choice(3, 0), "w3afloat"),
        ("float", FLOAT, "float"),
        ("w4a4x1", Choice(4, 4), "w4a4"),
    ],
)
def test_schemes(text, choice, shown):
    assert parse_scheme(text) == choice and str(choice) == shown
    assert parse_scheme(str(choice)) == choice
    assert choice.is_float == (text == "float")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w4", "unknown scheme 'w4' in --scheme"),
        ("", "unknown scheme ''"),
        ("a8w4", "unknown scheme 'a8w4'"),
        ("int8", "written w4a8"),
        ("w-4a8", "unknown scheme"),
        ("w1a8", "'w1a8' in --scheme asks for 1 weight bits. Bits are 2 to 8, or 16"),
        ("w9a8", "9 weight bits"),
        ("w0a8", "0 weight bits"),
        ("w8a12", "12 input bits"),
        ("w4a4x0", "0 points"),
        ("w4a4x5", "5 points of 4 bits: a sum has at most 16 bits, .* have 1 to 4 points"),
        ("w16a8x2", "2 points of 16 bits: .* weights of 16 bits have one point"),
    ],
)
def test_wrong_schemes(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_scheme(text)


def test_keep_rules_share_the_scheme_that_follows():
    rules = parse_keep("first,last=w8a8, blocks.0.*=float,head=w4a4,")
    assert rules == (
        ("first", Choice(8, 8)),
        ("last", Choice(8, 8)),
        ("blocks.0.*", FLOAT),
        ("head", Choice(4, 4)),
    )
    assert parse_keep("") == () and parse_keep(" , ") == ()


def test_keep_without_a_scheme():
    with pytest.raises(RecipeError, match=r"no scheme for 'last'. Write PATTERN=SCHEME"):
        parse_keep("first=w8a8,last")
    with pytest.raises(RecipeError, match="unknown scheme 'w8' in --keep"):
        parse_keep("first=w8")


def test_the_last_rule_that_matches_decides():
    rules = parse_keep("blocks.*=w8a8,blocks.0.?=w2a2,last=float,first=w3a3")
    chosen = assign(UNITS, Choice(4, 4), rules)
    assert {name: str(choice) for name, choice in chosen.items()} == {
        "stem": "w3a3", "blocks.0.a": "w2a2", "blocks.0.b": "w2a2", "blocks.1.a": "w8a8",
        "head": "float",
    }  # fmt: skip
    assert list(chosen) == UNITS


def test_a_pattern_without_a_unit_is_an_error():
    with pytest.raises(RecipeError, match=r"'layer1' matches no unit.*stem, blocks.0.a.*doctor"):
        assign(UNITS, Choice(4, 4), parse_keep("layer1=w8a8"))


def test_points():
    two = parse_scheme("w4a8x2")
    assert two == Choice(4, 8, 2) and two.sum_bits == 8 and str(two) == "w4a8x2"
    assert parse_scheme("w4afloatx3") == Choice(4, 0, 3)
    assert parse_scheme("w4a8x1") == parse_scheme("w4a8")
    menu = parse_menu("w{2,4}a8x{1..3},w8a8")
    assert [str(c) for c in menu] == [
        "w2a8", "w2a8x2", "w2a8x3", "w4a8", "w4a8x2", "w4a8x3", "w8a8",
    ]  # fmt: skip
    assert choice.WIDEST == grid.WIDEST


@pytest.mark.parametrize(
    ("menu", "told"),
    [
        ("w{2..99999999}a8", r"range \{2..99999999\}"),
        ("w{2..16}a{2..16}x{1..16}x{1..16}x{1..16}x{1..16}x{1..16}", "schemes; a menu has at most"),
        ("w" + "{2,3,4,5,6,7,8,2,3,4,5,6,7,8,2,3}" * 7 + "a8", "268435456 schemes"),
        (",".join(["w{2..8}a{2..8}"] * 1000), "49000 schemes"),
        ("w8a8," * 10_000, "50000 characters"),
        ("w{2.." + "9" * 5000 + "}a8", "which cannot be read"),
        ("w" + "8" * 5000 + "a8", "unknown scheme"),
        ("w8a8x" + "9" * 5000, "unknown scheme"),
    ],
)
def test_menus_without_end_are_refused_at_once(menu, told):
    started = time.process_time()
    with pytest.raises(RecipeError, match=told) as raised:
        parse_menu(menu)
    assert time.process_time() - started < 0.5 and len(str(raised.value)) < 500


def test_the_longest_menus_in_use_are_read():
    assert len(parse_menu("w{2..8}a{2..8}x{1,2},float")) < 1000
    assert len(parse_menu("w{2..8}a{2,3,4,5,6,7,8,16}")) == 56
