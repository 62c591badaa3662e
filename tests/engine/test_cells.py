"""Names that a spreadsheet would compute are written as text, and read back as they are."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bitwright as bw
from bitwright.allocation.latency_csv import latency_text, parse_latencies
from bitwright.allocation.latency_table import Conditions, LatencyCell, LatencyTable
from bitwright.allocation.table import Row, make_table, read_table, write_table
from bitwright.engine.cells import guard, unguard
from bitwright.graph.choice import FLOAT, Choice

NAMES = ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", "'", "''x", '=HYPERLINK("http://x","y")', "a.b"]


@given(st.text())
def test_there_and_back(text):
    assert unguard(guard(text)) == text
    assert not guard(text).startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("name", NAMES)
def test_a_table(tmp_path, name):
    rows = [Row(name, Choice(b, 8), -0.5, 9, 9 * b, 9, 9, method="-m", group="=g") for b in (4, 8)]
    write_table(tmp_path / "table.csv", make_table(rows))
    back = read_table(tmp_path / "table.csv")
    assert back.units == (name,) and back.rows == tuple(rows)
    with (tmp_path / "table.csv").open(newline="") as file:
        for line in list(csv.DictReader(file)):
            assert line["loss_delta"] == "-0.5"  # a number is no formula
            assert not line["unit"].startswith(tuple("=+-@"))


def test_latencies():
    about = Conditions("=t", 1, 1, "@cpu", "1")
    cells = {(name, choice): LatencyCell(1.0, -0.25) for name in NAMES for choice in (FLOAT,)}
    text = latency_text(LatencyTable(tuple(NAMES), cells, {FLOAT: 1.0}, about))
    back = parse_latencies(text, "here")
    assert back.units == tuple(NAMES) and back.conditions == about and dict(back.cells) == cells
    assert not any(line.startswith(("=", "+", "-", "@", '"=')) for line in text.splitlines())


def test_a_network_whose_layers_are_called_so(tmp_path):
    net = nn.Sequential()
    net.add_module("=1+1", nn.Linear(4, 4))
    net.add_module("@x", nn.Linear(4, 2))
    import torch

    result = bw.quantize(
        net.eval(), torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), recipe="fixed"
    )
    result.save(tmp_path / "run")
    assert read_table(tmp_path / "run" / "table.csv").units == ("=1+1", "@x")
    assert "\n'=1+1," in (tmp_path / "run" / "table.csv").read_text()
