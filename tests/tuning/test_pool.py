"""Samples for training: chosen and ordered by content, in batches of one shape."""

from __future__ import annotations

from itertools import islice

import torch

from bitwright.graph.capture import capture
from bitwright.graph.execute import bind, first_tensor
from bitwright.solving.samples import bytes_of
from bitwright.tuning.pool import gather, join_entries, minibatches
from networks import pictures as images_of
from networks import small_network

NET = small_network()
GRAPH = capture(NET, (images_of(2),))


def opened(data, batch):
    return lambda: (bind(GRAPH, (data[i : i + batch],)) for i in range(0, len(data), batch))


def test_pool_depends_on_the_samples_alone():
    data = images_of(40, seed=3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    one, other = gather(GRAPH, opened(data, 40)), gather(GRAPH, opened(data[order], 7))
    assert [e.key for e in one] == [e.key for e in other]
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.flat[0], b.flat[0])
        assert torch.allclose(a.answer, b.answer, atol=1e-5)


def test_budget_keeps_the_same_samples_whatever_their_order():
    data = images_of(40, seed=3)
    budget = 11 * bytes_of((data[0], torch.zeros(10)))
    one = gather(GRAPH, opened(data, 8), budget)
    other = gather(GRAPH, opened(data.flip(0), 5), budget)
    assert len(one) == 11
    assert [e.key for e in one] == [e.key for e in other]
    assert {e.key for e in one} <= {e.key for e in gather(GRAPH, opened(data, 8))}


def test_answers_are_the_float_network_s():
    pool = gather(GRAPH, opened(images_of(6, seed=3), 4))
    flat, answer = join_entries(pool)
    with torch.no_grad():
        assert torch.allclose(answer, first_tensor(NET(flat[0])), atol=1e-5)
    assert flat[0].is_contiguous(memory_format=torch.channels_last)


def test_every_sample_comes_once_an_epoch():
    pool = gather(GRAPH, opened(images_of(10, seed=3), 5))
    epochs = [list(islice(minibatches(pool, 4, seed), 3)) for seed in (0, 0, 1)]
    for epoch in epochs:
        assert sorted(len(batch) for batch in epoch) == [2, 4, 4]
        assert sorted(e.key for batch in epoch for e in batch) == [e.key for e in pool]
    keys = [[[e.key for e in batch] for batch in epoch] for epoch in epochs]
    assert keys[0] == keys[1] != keys[2]


def test_shapes_do_not_mix():
    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(9, 4)
            self.layer = torch.nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(self.table(x)).mean(1)

    def words(length):
        return torch.randint(0, 9, (6, length), generator=torch.Generator().manual_seed(length))

    graph = capture(Words().eval(), (words(5)[:2],))
    flats = [bind(graph, (words(length),)) for length in (5, 7)]
    pool = gather(graph, lambda: iter(flats))
    assert len(pool) == 12
    for batch in islice(minibatches(pool, 4, 0), 8):
        assert len({e.flat[0].shape[1] for e in batch}) == 1
        assert join_entries(batch)[0][0].shape[0] == len(batch)
