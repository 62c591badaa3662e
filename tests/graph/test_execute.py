"""Binding of batches and the piecewise run."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from bitwright.errors import DataError
from bitwright.graph.capture import capture
from bitwright.graph.execute import bind, class_rows, first_tensor, run
from networks import Chain, TwoTowers, normal, seeded


@pytest.fixture
def graph(small_net, images):
    return capture(small_net, (images[:2],))


def test_a_batch_of_any_size_binds(graph, images):
    for size in (1, 3, 48):
        (bound,) = bind(graph, (images[:size],))
        assert torch.equal(bound, images[:size])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.zeros(4, 3, 16),), r"shape \[4, 3, 16\] for the input 'x'"),
        ((torch.zeros(4, 3, 8, 8),), r"shape \[4, 3, 8, 8\]"),
        ((torch.zeros(4, 16, 16, 3),), r"shape \[4, 16, 16, 3\].*Resize or reorder"),
        ((torch.zeros(4, 3, 16, 16).double(),), r"type float64.*Convert"),
        ((torch.zeros(4, 3, 16, 16, dtype=torch.uint8),), r"type uint8"),
        ((torch.zeros(4, 3, 16, 16),) * 2, "has 2 input tensors, the network takes 1"),
        ((), "has 0 input tensors"),
        ({"y": torch.zeros(4, 3, 16, 16)}, r"lacks the input 'x' \(it has \['y'\]\)"),
    ],
)
def test_a_wrong_batch_is_told_what_the_network_expects(graph, batch, message):
    with pytest.raises(DataError, match=f"loader.py:f: .*{message}") as caught:
        bind(graph, batch, "loader.py:f")
    assert "x: float32 [N, 3, 16, 16]" in str(caught.value)


def test_a_missing_keyword_is_named():
    batch = {"first": normal(4, 4), "second": normal(4, 6)}
    graph = capture(seeded(TwoTowers).eval(), batch)
    assert len(bind(graph, {**batch, "extra": torch.zeros(4)})) == 2
    with pytest.raises(DataError, match="lacks the input 'second'"):
        bind(graph, {"first": batch["first"]})


def test_every_value_is_visited_in_order_and_dropped_when_dead():
    net = seeded(lambda: Chain(*[nn.Linear(4, 4) for _ in range(5)])).eval()
    x = normal(3, 4)
    graph = capture(net, (x,))
    seen, alive, most = [], [], 0

    def visit(node, value):
        nonlocal most
        seen.append(node.name)
        alive.append(weakref.ref(value if isinstance(value, torch.Tensor) else value[0]))
        most = max(most, sum(ref() is not None for ref in alive))

    run(graph, bind(graph, (x.clone(),)), visit)
    order = [n.name for n in graph.module.graph.nodes if n.op != "get_attr"]
    assert seen == order
    assert most <= 3  # a layer's input, its output, and the network's input that the caller holds


def test_the_run_equals_the_module(graph, images):
    with torch.no_grad():
        assert torch.allclose(
            first_tensor(run(graph, bind(graph, (images,)))), graph.module(images), atol=1e-5
        )


def test_which_output_is_compared():
    a, b = torch.zeros(2, 3), torch.ones(2, 3)
    assert first_tensor({"hidden": a, "logits": b}) is b
    assert first_tensor((torch.zeros(2, dtype=torch.int64), (a, b))) is a
    with pytest.raises(DataError, match="no float tensor"):
        first_tensor((torch.zeros(2, dtype=torch.int64),))


def test_rows_of_class_scores():
    images = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    rows = class_rows(images)
    assert rows.shape == (40, 3) and rows[1].tolist() == images[0, :, 0, 1].tolist()
    assert class_rows(torch.zeros(2, 7, 3)).shape == (14, 3)
    assert class_rows(torch.zeros(())).shape == (1, 1)
