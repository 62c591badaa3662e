"""Fisher's diagonal against its closed form."""

from __future__ import annotations

import torch
from torch import nn

from bitwright.graph.capture import capture
from bitwright.tuning import front
from bitwright.tuning.fisher import fisher_diagonals
from networks import Chain, normal, pictures, seeded, small_network


def linear():
    net = seeded(lambda: Chain(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False))).eval()
    x = normal(4000, 5, seed=2)
    return capture(net, (x[:2],)), x


def closed_form(graph, x):
    """The answers, and diag(W^T (diag p - p p^T) W) in front of the last layer."""
    with torch.no_grad():
        p = graph.module(x).softmax(1)
        inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        weight = graph.tensor("m1.weight")
        return p, (weight.T @ inner @ weight).diagonal(dim1=1, dim2=2).mean(0)


def test_of_a_softmax():
    """At the scores: E p (1 - p); before a layer W: diag(W^T (diag p - p p^T) W)."""
    graph, x = linear()
    scores, hidden = graph.unit("m1").calls[0], graph.unit("m0").calls[0]
    found = fisher_diagonals(graph, {scores, hidden}, lambda: iter([(x,)]), len(x))
    p, whole = closed_form(graph, x)
    top = (p * (1 - p)).mean(0)
    assert torch.allclose(found[hidden][0], whole / whole.mean(), rtol=0.1)
    assert torch.allclose(found[scores][0], top / top.mean(), rtol=0.1)


def test_where_the_network_is_sure():
    """Signs come nearer to the closed form than a class drawn for each sample would."""
    graph, x = linear()
    x = 80.0 * x[:256]
    name = graph.unit("m0").calls[0]
    p, want = closed_form(graph, x)
    want = want / want.mean()
    weight = graph.tensor("m1.weight").detach()
    signs, drawn = [], []
    for seed in range(20):
        found = fisher_diagonals(graph, {name}, lambda: iter([(x,)]), len(x), seed)[name][0]
        generator = torch.Generator().manual_seed(seed)
        classes = torch.multinomial(p, 1, generator=generator)[:, 0]
        by_luck = ((torch.eye(3)[classes] - p) @ weight).square().mean(0)
        signs.append(float((found - want).norm() / want.norm()))
        drawn.append(float((by_luck / by_luck.mean() - want).norm() / want.norm()))
    assert p.max(1).values.mean() > 0.95
    assert sum(signs) < 0.8 * sum(drawn), (sum(signs), sum(drawn))


def test_parts_and_limits(monkeypatch):
    graph, x = linear()
    name = graph.unit("m0").calls[0]
    one = fisher_diagonals(graph, {name}, lambda: iter([(x[:64],), (x[64:],)]), 64)
    monkeypatch.setattr(front, "GRAD_BYTES", 1)
    again = fisher_diagonals(graph, {name}, lambda: iter([(x[:64],)]), 64)
    assert torch.allclose(one[name], again[name], rtol=1e-4)


def test_shapes_and_means():
    graph = capture(small_network(), (pictures(2),))
    ends = {unit.outputs[0] for unit in graph.units}
    found = fisher_diagonals(graph, ends, lambda: iter([(pictures(16),)]), 16)
    assert set(found) == ends
    for value in found.values():
        assert value.shape[0] == 1 and torch.isclose(value.mean(), torch.ones(()), atol=1e-4)


def test_numbers_instead_of_classes_and_texts_of_any_length():
    net = seeded(lambda: Chain(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))).eval()
    graph = capture(net, (normal(2, 3, 5),))
    name = graph.unit("m0").outputs[0]
    batches = [(normal(4, 3, 5),), (normal(2, 3, 5, seed=4),)]
    assert fisher_diagonals(graph, {name}, lambda: iter(batches), 99)[name].shape == (1, 1, 4)
