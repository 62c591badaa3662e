"""Values that share a grid on some targets, and the units that read them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import RecipeError
from bitwright.graph.choice import Choice
from bitwright.graph.sites import find_sites
from bitwright.graph.target import load_target, parse_target
from bitwright.graph.ties import find_shared_grids, find_tied_inputs
from bitwright.solving.grids import input_grids, share_stats
from networks import normal, pictures, seeded, small_network


class Branches(nn.Module):
    """Two convolutions read the input's relu; what they give is joined for a third."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 1)
        self.mix = nn.Conv2d(8, 5, 1)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x):
        x = torch.relu(x)
        both = torch.cat([self.left(x), torch.relu(self.right(x))], 1)
        return self.head(torch.relu(self.mix(both)))


def captured(net, example, ties):
    graph = bw.capture(net, (example,))
    target = replace(load_target("paper"), ties=ties)
    return graph, target, find_sites(graph, target)


def units_tied(net, example, ties):
    return [set(units) for units in find_tied_inputs(*captured(net, example, ties)).values()]


def test_nothing_is_tied_unless_the_target_asks():
    for name in ("paper", "ort-cpu", "weights-only"):
        graph = bw.capture(small_network(), (pictures(2),))
        target = load_target(name)
        assert find_tied_inputs(graph, target, find_sites(graph, target)) == {}


def test_a_residual_sum_ties_who_reads_its_operands_and_its_result():
    found = units_tied(small_network(), pictures(2), ("add",))
    # depthwise reads the skip, grouped the relu of the sum; project's own input is another value.
    assert found == [{"depthwise", "grouped"}]


def test_readers_of_one_value_and_a_concatenation():
    net, example = seeded(Branches).eval(), normal(2, 3, 6, 6)
    assert units_tied(net, example, ("reads",)) == [{"left", "right"}]
    assert units_tied(net, example, ("concat",)) == []
    graph, target, _ = captured(net, example, ("concat",))
    (names,) = find_shared_grids(graph, target)
    assert len(names) == 3  # both operands and the result


def test_tied_units_get_one_grid_at_the_same_bits():
    net, example = small_network(), pictures(32)
    net.project.bias.data += 5.0  # so that the sum is wider than its operands
    graph, target, sites = captured(net, example, ("add",))
    seen = bw.observe(graph, [(example,)], {site.root for site in sites}).stats
    stats = share_stats(graph, target, seen)
    choices = {unit.name: Choice(8, 8) for unit in graph.units}

    def grids(of):
        from bitwright.numerics.ranges import range_rule

        edges = input_grids(sites, of, choices, target, range_rule("minmax"))
        found = {s.unit: edges[s.source, s.reader] for s in sites}
        return {unit: (float(g.scale), int(g.zero_point), g.grid) for unit, g in found.items()}

    tied, alone = grids(stats), grids(seen)
    assert tied["depthwise"] == tied["grouped"]
    assert alone["depthwise"] != alone["grouped"]
    # The sum's first operand, before its relu, reaches below zero: it shares the grid too.
    assert tied["depthwise"][0] >= max(alone["depthwise"][0], alone["grouped"][0])
    assert tied["project"] == alone["project"]


def test_a_target_file_names_ties():
    assert parse_target('name = "x"\nties = ["add", "reads"]', "here").ties == ("add", "reads")
    with pytest.raises(RecipeError, match=r"unknown tie 'ad'.*'add'"):
        parse_target('name = "x"\nties = ["ad"]', "here")
