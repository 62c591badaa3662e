"""Float and quantised side by side: streaming sums equal direct computation."""

from __future__ import annotations

import pytest
import torch

from bitwright.errors import DataError
from bitwright.evaluation.compare import compare
from bitwright.evaluation.metrics import metric
from bitwright.sources.batches import Batch
from networks import normal

X = normal(50, 8)
W = normal(8, 5, seed=1)
NOISE = 0.3 * normal(8, 5, seed=2)
LABELS = (X @ W + normal(50, 5, seed=3)).argmax(1)


def forward(weight):
    return lambda inputs: inputs[0] @ weight


def batches(*sizes, labels=True):
    x, y = torch.split(X, list(sizes)), torch.split(LABELS, list(sizes))
    return [Batch((a,), b if labels else None) for a, b in zip(x, y, strict=True)]


@pytest.mark.parametrize("sizes", [(50,), (20, 20, 10), (1, 49)])
def test_sums_equal_direct_computation(sizes):
    ticks: list[int] = []
    found = compare(forward(W), forward(W + NOISE), batches(*sizes), metric("top1"), ticks.append)
    a, b = X @ W, X @ (W + NOISE)
    assert found["samples"] == ticks[-1] == 50 and len(ticks) == len(sizes)
    assert found["float"]["top1"] == pytest.approx(float((a.argmax(1) == LABELS).double().mean()))
    assert found["quantized"]["top1"] == pytest.approx(
        float((b.argmax(1) == LABELS).double().mean())
    )
    assert found["agreement"] == pytest.approx(float((a.argmax(1) == b.argmax(1)).double().mean()))
    p, q = a.double().log_softmax(1), b.double().log_softmax(1)
    assert found["kl"] == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-4)
    noise = (a - b).double().square().sum() / a.double().square().sum()
    assert found["relative_noise"] == pytest.approx(float(noise), rel=1e-5)


def test_no_divergence_is_negative():
    """Of two classes the sure one rounds to log 1 = 0, and what is left is the other's -1e-291."""
    outputs = iter([torch.tensor([[670.0, 0.0]]), torch.tensor([[669.0, 0.0]])])
    found = compare(lambda _: next(outputs), lambda _: next(outputs), batches(50)[:1], None)
    assert found["kl"] == 0.0 and str(found["kl"]) == "0.0"
    outputs = iter([torch.tensor([[1.0, 0.0]]), torch.tensor([[torch.nan, 0.0]])])
    found = compare(lambda _: next(outputs), lambda _: next(outputs), batches(50)[:1], None)
    assert found["kl"] != found["kl"]


def test_a_network_agrees_with_itself():
    found = compare(forward(W), forward(W), batches(50, labels=False), None)
    assert found["agreement"] == 1.0 and found["relative_noise"] == 0.0
    assert found["kl"] == pytest.approx(0.0, abs=1e-7)
    assert found["float"] == {} and found["quantized"] == {}


def test_agreement_needs_no_labels_and_top1_does():
    assert compare(forward(W), forward(W), batches(50, labels=False), metric("agreement"))
    with pytest.raises(DataError, match="needs integer class labels"):
        compare(forward(W), forward(W), batches(50, labels=False), metric("top1"))


def test_nothing_is_compared_on_no_data():
    found = compare(forward(W), forward(W), [], metric("top1"))
    assert found["samples"] == 0 and found["float"] == {}


def test_images_of_classes_are_compared_by_position():
    maps = normal(2, 4, 3, 3)
    other = maps.clone()
    other[0, :, 0, 0] = other[0, :, 0, 0].flip(0)
    found = compare(lambda _: maps, lambda _: other, [Batch((maps,))], None)
    assert found["agreement"] == pytest.approx(17 / 18)


def test_embeddings_agree_by_their_mean_cosine():
    a, b = normal(9, 6), normal(9, 6) + 0.2 * normal(9, 6, seed=4)
    found = compare(lambda _: a, lambda _: b, [Batch((a,))], None, answers="embedding")
    want = torch.nn.functional.cosine_similarity(a.double(), b.double()).mean()
    assert found["agreement"] == pytest.approx(float(want)) and found["answers"] == "embedding"
