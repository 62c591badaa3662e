"""Values in front of a place: the same whether a part was there from the start or joined later."""

from __future__ import annotations

import pytest
import torch
from quantised import quantised, solutions

from bitwright.graph.blocks import find_blocks
from bitwright.graph.kept import name_inputs
from bitwright.graph.replay import replay
from bitwright.tuning import brecq, front
from bitwright.tuning.brecq import BlockReconstruction, reconstruct_blocks
from bitwright.tuning.front import forwards, keep_both, parts_of
from bitwright.tuning.network import simulate
from networks import Residual, normal, pictures, seeded, small_network


@pytest.fixture
def made():
    return quantised(seeded(Residual).eval(), normal(64, 3, 8, 8), "w3a8")


def parts(made, rows=8):
    return lambda: (p for flat in made.samples().fit() for p in parts_of(made.graph, flat, rows))


@pytest.mark.parametrize("room", [(1, 2, 99), (99, 1, 4), (0, 0, 0), (3, 3, 3)])
def test_parts_leave_and_join_with_the_values_of_a_whole_pass(made, room):
    simulated = simulate(made.start).graph
    kept = keep_both(made.graph, parts(made))
    flats = list(parts(made)())
    ends = [{"x"}, *({block.end} for block in find_blocks(made.graph)[:2])]
    for names, most in zip(ends, room, strict=True):
        kept.move(forwards(made.graph, simulated, names), most)
        assert len(kept.parts) == min(max(most, 1), len(flats))
        for flat, (true, got) in zip(flats, kept.parts, strict=False):
            for graph, found in ((made.graph, true), (simulated, got)):
                wanted = replay(graph, name_inputs(graph, flat), names)
                assert wanted.keys() == found.keys()
                assert all(torch.equal(found[name], wanted[name]) for name in names)


@pytest.mark.parametrize(("room", "passes"), [((99, 99, 99), 1), ((2, 2, 2), 1), ((99, 1, 99), 2)])
def test_samples_are_read_again_only_where_some_can_join(made, room, passes):
    opened = []

    def counted():
        opened.append(1)
        return parts(made)()

    kept = keep_both(made.graph, counted)
    simulated = simulate(made.start).graph
    for most in room:
        kept.move(forwards(made.graph, simulated, {"x"}), most)
    assert len(opened) == passes


def test_parts_hold_every_sample_in_order(made, monkeypatch):
    (flat,) = made.samples(batch=64).fit()
    for most in (None, 7, 1):
        got = list(parts_of(made.graph, flat, most))
        assert torch.equal(torch.cat([part[0] for part in got]), flat[0])
        lengths = {len(part[0]) for part in got}
        assert most is None or max(lengths) <= min(lengths) + 1 <= most + 2
    monkeypatch.setattr(front, "GRAD_BYTES", 1)
    assert {len(part[0]) for part in parts_of(made.graph, flat)} == {1}


def test_blocks_are_solved_with_little_memory(monkeypatch):
    """One part in front of each block, and a step of one sample, still bring answers nearer."""
    made = quantised(small_network(), pictures(96), "w3a8")
    monkeypatch.setattr(brecq, "KEPT_BYTES", 1)
    monkeypatch.setattr(brecq, "LEAST", 2)
    monkeypatch.setattr(brecq, "POSITIONS", 1)
    given = (made.start, made.samples())
    found, report = solutions(reconstruct_blocks(*given, BlockReconstruction(iterations=60)))
    assert report.after.soft <= report.before.soft
    assert any(not torch.equal(s.q, made.solved[n].q) for n, s in found.items()) == report.kept


@pytest.mark.parametrize(("side", "samples"), [(8, 8), (32, 4), (128, 1)])
def test_a_step_has_so_many_positions(made, side, samples):
    block = find_blocks(made.graph)[0]
    channels = made.graph.tensor(made.graph.unit(block.units[-1]).weight).shape[0]
    assert brecq._samples_of_a_step(made.graph, block, 4 * channels * side**2) == samples
