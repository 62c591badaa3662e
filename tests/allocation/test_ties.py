"""Ties that the user states, as the table's column `group`."""

from __future__ import annotations

import pytest

from bitwright.allocation.ties import groups_of, join_groups, parse_ties
from bitwright.errors import RecipeError

NAMES = ("stem", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "fc")


def test_patterns_name_groups():
    ties = parse_ties("layer1.*, a:stem|layer?.0.conv1 ,layer1.*")
    assert ties == ("layer1.*", "a:stem|layer?.0.conv1")
    assert groups_of(NAMES, ties) == {
        "layer1.0.conv1": "layer1.* a:stem|layer?.0.conv1",
        "layer1.0.conv2": "layer1.*",
        "stem": "a:stem|layer?.0.conv1",
        "layer2.0.conv1": "a:stem|layer?.0.conv1",
    }
    assert parse_ties("") == () and groups_of(NAMES, ()) == {}


def test_groups_of_user_and_target_stand_side_by_side():
    assert join_groups({"fc": "x"}, {"fc": "a:add", "stem": "a:add"}) == {
        "fc": "x a:add", "stem": "a:add",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["layer1 .conv", "|stem", "a:", "stem|"])
def test_no_pattern(text):
    with pytest.raises(RecipeError, match="is no pattern over unit names"):
        parse_ties(text)


@pytest.mark.parametrize(("tie", "told"), [("layr*", "no unit"), ("fc", "only 'fc'")])
def test_a_tie_of_fewer_than_two(tie, told):
    with pytest.raises(RecipeError, match=f"--tie '{tie.replace('*', '.')}' matches {told}"):
        groups_of(NAMES, (tie,))
