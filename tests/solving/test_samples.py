"""Who is held out depends on the samples alone."""

from __future__ import annotations

import pytest
import torch

from bitwright.errors import DataError
from bitwright.graph.capture import capture
from bitwright.graph.execute import bind
from bitwright.solving import samples as module
from bitwright.solving.samples import fewer, in_memory, split_samples
from networks import Chain, normal, seeded

NET = seeded(lambda: Chain(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(64, 2)))


@pytest.fixture(scope="module")
def graph():
    return capture(NET.eval(), (normal(2, 3, 6, 6),))


def opened(graph, data, batch):
    flats = [bind(graph, (data[i : i + batch],)) for i in range(0, len(data), batch)]
    return lambda: iter(flats)


def rows(opener) -> set[bytes]:
    return {row.contiguous().numpy().tobytes() for flat in opener() for row in flat[0]}


@pytest.mark.parametrize("budget", [module.KEEP_BYTES, 0])
def test_parts_are_disjoint_and_complete(graph, monkeypatch, budget):
    monkeypatch.setattr(module, "KEEP_BYTES", budget)
    data = normal(50, 3, 6, 6)
    found = split_samples(graph, opened(graph, data, 16))
    assert (found.fit_count, found.held_out_count) == (44, 6)
    assert not rows(found.fit) & rows(found.held_out)
    assert rows(found.fit) | rows(found.held_out) == {r.numpy().tobytes() for r in data}
    assert rows(in_memory(found).held_out) == rows(found.held_out)


def test_neither_order_nor_batch_size_matter(graph):
    data = normal(50, 3, 6, 6)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    one = split_samples(graph, opened(graph, data, 50))
    other = split_samples(graph, opened(graph, data[order], 7))
    assert rows(one.held_out) == rows(other.held_out)


def test_copies_stand_on_one_side(graph):
    data = normal(20, 3, 6, 6).repeat(2, 1, 1, 1)
    found = split_samples(graph, opened(graph, data, 8))
    assert not rows(found.fit) & rows(found.held_out)
    assert found.fit_count + found.held_out_count == 40


def test_fewer_are_chosen_by_what_they_hold(graph):
    data = normal(50, 3, 6, 6)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    one = fewer(graph, split_samples(graph, opened(graph, data, 50)), 20)
    other = fewer(graph, split_samples(graph, opened(graph, data[order], 7)), 20)
    assert one.fit_count == 20 == sum(len(flat[0]) for flat in other.fit())
    assert rows(one.fit) == rows(other.fit) and rows(one.held_out) == rows(other.held_out)
    assert not rows(one.fit) & rows(one.held_out)
    whole = split_samples(graph, opened(graph, data, 50))
    assert fewer(graph, whole, 44) is whole


def test_fewer_of_copies_are_all_of_them_or_none(graph):
    data = normal(20, 3, 6, 6).repeat(3, 1, 1, 1)
    found = fewer(graph, split_samples(graph, opened(graph, data, 8)), 20)
    assert found.fit_count == 18 == sum(len(flat[0]) for flat in found.fit())


def test_a_set_of_one_serves_twice(graph):
    found = split_samples(graph, opened(graph, normal(1, 3, 6, 6), 8))
    assert rows(found.fit) == rows(found.held_out)
    assert (found.fit_count, found.held_out_count) == (1, 1)


def test_fixed_batches_are_not_cut():
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x.reshape(8, 4)) + torch.arange(8.0).view(8, 1)

    net = seeded(Fixed).eval()
    graph = capture(net, (normal(8, 4),))
    found = split_samples(graph, opened(graph, normal(80, 4), 8))
    assert (found.fit_count, found.held_out_count) == (72, 8)
    assert all(len(flat[0]) == 8 for flat in found.fit())
    for most, left in ((20, 16), (1, 8)):
        less = fewer(graph, found, most)
        assert less.fit_count == left == sum(len(flat[0]) for flat in less.fit())


def test_no_data(graph):
    with pytest.raises(DataError, match="no batch came"):
        split_samples(graph, lambda: iter(()))
