"""What is kept of a stream of activations: sums, a sample of rows, and some kept apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.engine.digest import digest
from bitwright.graph.capture import capture
from bitwright.graph.rows import weight_rows
from bitwright.numerics.affine import fake_quantize
from bitwright.numerics.exact import exact_range
from bitwright.numerics.gram import Gram
from bitwright.numerics.grid import Grid
from bitwright.solving.collect import (
    HELD_OUT,
    CollectedPart,
    Collector,
    collect_batch,
    plan_of,
    row_seed,
)
from bitwright.solving.spool import ByteBudget
from bitwright.solving.work import inputs_key
from networks import Chain, normal, seeded

BATCHES = 17


def network(kind="conv"):
    layer = nn.Conv2d(3, 5, 3, padding=1) if kind == "conv" else nn.Linear(6, 5)
    return layer, (3, 4, 4) if kind == "conv" else (6,)


def collected(kind="conv", bits=(4,), budget=1 << 20, chunk=1, kept=64, limit=None):
    """A unit's collector over 17 batches of four, the grids, and the inputs."""
    layer, shape = seeded(lambda: network(kind))
    data = [normal(4, *shape, seed=i).abs() for i in range(BATCHES)]
    graph = capture(Chain(layer).eval(), (data[0],))
    grids = [(exact_range(torch.tensor(0.0), torch.tensor(3.0), Grid(b)),) for b in bits]
    by_key = {inputs_key(g): g for g in grids}
    plan = plan_of(graph, graph.units[0], by_key, BATCHES, kept * BATCHES, 5)
    if limit is not None:
        plan = type(plan)(**{**vars(plan), "limit": limit})
    shared = ByteBudget(budget)
    collector = Collector(plan, shared)
    for first in range(0, BATCHES, chunk):
        part = CollectedPart({})
        for index in range(first, min(first + chunk, BATCHES)):
            collect_batch(plan, part, index, 0, data[index], data[index])
        collector.absorb(part)
    return collector, grids, data, graph, shared


def test_every_eighth_batch_is_kept_apart():
    collector, grids, data, _, _ = collected("linear")
    sums = collector.sums[inputs_key(grids[0])]
    apart = [i for i in range(BATCHES) if i % HELD_OUT == HELD_OUT - 1]
    assert apart == [7, 15]
    assert sums.apart.count == 8 and sums.fit.count == 4 * 15
    fit, held = collector.samples()
    assert torch.equal(held.x[0], torch.cat([data[i] for i in apart]))
    assert torch.equal(fit.x[0], torch.cat([x for i, x in enumerate(data) if i not in apart]))


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_sums_are_those_of_all_rows_at_once(kind):
    """Of the quantised input and the float output, in float64."""
    collector, grids, _, graph, _ = collected(kind, kept=1 << 10)
    fit, _ = collector.samples()
    x = fake_quantize(fit.x, grids[0][0]).double()
    whole = Gram.of(x, fit.y.double())
    sums = collector.sums[inputs_key(grids[0])].fit
    assert sums.count == whole.count
    for name in ("xx", "yx", "x", "y", "yy"):
        assert torch.allclose(getattr(sums, name).double(), getattr(whole, name), rtol=1e-4), name
    unit = graph.units[0]
    weight = weight_rows(graph.tensor(unit.weight), unit)
    want = fit.x @ weight.transpose(1, 2) + graph.tensor(unit.bias)
    assert torch.allclose(fit.y, want, atol=1e-5)


def test_several_choices_from_one_pass():
    """Choices whose inputs lie on one grid share their sums; the rows are everybody's."""
    both, grids, *_ = collected(bits=(4, 8))
    one, *_ = collected(bits=(8,))
    assert len(both.sums) == 2
    key = inputs_key(grids[1])
    assert digest(both.sums[key].fit) == digest(one.sums[key].fit)
    assert digest(both.samples()) == digest(one.samples())
    assert len(collected(bits=(4, 4))[0].sums) == 1


def test_rows_are_read_once_for_all_choices():
    collector, *_ = collected(budget=0)
    first, second = collector.samples(), collector.samples()
    assert first[0] is second[0] and first[1] is second[1]


def test_chunks_added_in_order_give_the_sums_of_one_chunk():
    """Not the same bits, but the same rows: how batches are chunked is part of a run."""
    whole, grids, *_ = collected(chunk=BATCHES)
    parts, *_ = collected(chunk=4)
    key = inputs_key(grids[0])
    assert torch.allclose(whole.sums[key].fit.xx, parts.sums[key].fit.xx, rtol=1e-5)
    assert digest(whole.samples()) == digest(parts.samples())


def test_rows_on_disk_are_the_rows_in_memory():
    memory, *_, budget = collected(budget=1 << 30)
    disk, *_, nothing = collected(budget=0)
    assert digest(memory.samples()) == digest(disk.samples())
    assert budget.left < 1 << 30 and nothing.left == 0
    for collector, shared, full in ((memory, budget, 1 << 30), (disk, nothing, 0)):
        collector.close()
        assert shared.left == full and collector.samples() == (None, None)


def test_a_sample_of_rows_is_spread_over_the_whole_batch():
    """A quarter, or five eighths: the last image counts as much as the first."""
    for kept in (16, 40):
        collector, _, data, *_ = collected("conv", kept=kept)
        fit, _ = collector.samples()
        assert fit.x.shape[1] == kept * 15 and fit.y.shape[1] == kept * 15
        centre = fit.x[0, :, 4]  # the middle tap of the first channel is the pixel itself
        batch = data[0][:, 0].reshape(4, 16)
        own = centre[:kept]
        by_image = [int(torch.isin(own, image).sum()) for image in batch]
        assert by_image == [kept // 4] * 4


def test_a_sample_keeps_no_more_than_its_own_bytes():
    """What is spooled owns its memory: a view would hold the whole batch."""
    collector, *_ = collected("linear", kept=3)
    for pair in collector._spools.values():
        for spool in pair:
            for part in spool._parts:
                assert part.untyped_storage().nbytes() == part.numel() * 4


def test_more_positions_than_wanted_are_sampled_with_a_seed():
    collector, grids, *_ = collected("conv", limit=10)
    sums = collector.sums[inputs_key(grids[0])]
    assert sums.fit.count == 10 * 15 and sums.apart.count == 10 * 2
    again, *_ = collected("conv", limit=10)
    assert digest(again.sums[inputs_key(grids[0])].fit) == digest(sums.fit)


def test_seeds_of_rows_tell_runs_units_batches_and_calls_apart():
    seeds = {
        row_seed(*key)
        for key in ((0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1))
    }
    assert len(seeds) == 5 and row_seed(0, "a", 0, 0) == row_seed(0, "a", 0, 0)


def test_wide_units_keep_fewer_rows(monkeypatch):
    layer, shape = network("conv")
    graph = capture(Chain(layer).eval(), (normal(2, *shape),))
    unit = graph.units[0]
    wide = 4 * (27 + 5)
    monkeypatch.setattr("bitwright.solving.collect.SAMPLE_UNIT_BYTES", 100 * wide)
    assert plan_of(graph, unit, {}, 10, 1 << 16, 0).kept == 10
    assert plan_of(graph, unit, {}, 10, 0, 0).kept == 0
