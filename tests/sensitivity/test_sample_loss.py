"""Per-sample losses against their definitions, and which of them is chosen."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from bitwright.errors import DataError
from bitwright.numerics.losses import kl_divergence
from bitwright.sensitivity.sample_loss import (
    WORST,
    CrossEntropy,
    Divergence,
    RelativeSquaredError,
    choose_loss,
)
from networks import normal


def test_divergence_of_each_sample():
    a, b = normal(6, 5), normal(6, 5, seed=1)
    losses, missed = Divergence().of(a, b, None)
    for i in range(6):
        assert float(losses[i]) == pytest.approx(float(kl_divergence(a[i : i + 1], b[i : i + 1])))
        assert bool(missed[i]) == bool(a[i].argmax() != b[i].argmax())
    assert torch.equal(Divergence().of(a, a, None), torch.zeros(2, 6, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 7, 5), (3, 5, 2, 2)])
def test_rows_of_a_sample_are_averaged(shape):
    a, b = normal(*shape), normal(*shape, seed=1)
    losses, missed = Divergence().of(a, b, None)
    axis = 1 if len(shape) == 4 else -1
    p, q = a.double().log_softmax(axis), b.double().log_softmax(axis)
    want = (p.exp() * (p - q)).sum(axis).reshape(3, -1).mean(1)
    assert torch.allclose(losses, want) and losses.shape == missed.shape == (3,)


def test_outputs_that_are_probabilities_already():
    scores, other = normal(8, 5), normal(8, 5, seed=1)
    found = choose_loss(scores.softmax(1))
    assert found.probabilities
    got = found.of(scores.softmax(1), other.softmax(1), None)
    assert torch.allclose(got[:2], Divergence().of(scores, other, None), rtol=1e-4)


def test_cross_entropy():
    scores, labels = normal(8, 5), torch.arange(8) % 5
    losses, missed = CrossEntropy().of(None, scores, labels)
    want = functional.cross_entropy(scores.double(), labels, reduction="none")
    assert torch.allclose(losses, want)
    assert torch.equal(missed, (scores.argmax(1) != labels).double())


def test_cross_entropy_leaves_out_ignored_rows():
    scores, labels = normal(2, 3, 5), torch.tensor([[1, -100, 2], [-100, -100, 0]])
    losses, _ = CrossEntropy().of(None, scores, labels)
    each = functional.cross_entropy(
        scores.double().transpose(1, 2), labels, reduction="none", ignore_index=-100
    )
    assert torch.allclose(losses, each.sum(1) / torch.tensor([2.0, 1.0]))


def test_squared_error_is_relative_to_the_variance():
    y = normal(4000, 1) * 3 + 7
    loss = choose_loss(y)
    assert isinstance(loss, RelativeSquaredError) and not loss.has_answers
    shifted, _ = loss.of(y, y + 3.0, None)
    assert float(shifted.mean()) == pytest.approx(1.0, rel=0.1)
    assert choose_loss(torch.full((4, 1), 2.0)) == RelativeSquaredError(4.0)
    assert choose_loss(torch.zeros(4, 1)) == RelativeSquaredError(1.0)
    assert isinstance(choose_loss(normal(4)), RelativeSquaredError)


def test_softened_answers_by_the_formula_and_with_less_noise():
    a = normal(64, 10) * 8
    b = a + normal(64, 10, seed=1) * 0.3
    loss = choose_loss(a)
    assert loss.temperature == pytest.approx(3 * float(a.std(1, correction=0).mean()), rel=1e-5)
    plain, missed, soft = loss.of(a, b, None)
    bare = Divergence().of(a, b, None)
    assert torch.equal(plain, bare[0]) and torch.equal(missed, bare[1])
    t = loss.temperature
    p, q = ((x.double() / t).log_softmax(1) for x in (a, b))
    want = t**2 * torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(1)
    assert torch.allclose(soft, want)
    assert float(soft.std() / soft.mean()) < 0.5 * float(plain.std() / plain.mean())


def test_the_temperature_is_one_at_least_and_for_what_is_no_number():
    assert choose_loss(normal(4, 10) * 1e-3).temperature == 1.0
    assert choose_loss(torch.full((4, 10), float("nan"))).temperature == 1.0
    shares = (normal(4, 10) * 5).softmax(1)
    spread = float(shares.double().log().std(1, correction=0).mean())
    assert choose_loss(shares).temperature == pytest.approx(3 * spread, rel=1e-3)


def test_which_loss_is_chosen():
    for shape in ((4, 10), (4, 10, 3, 3)):
        assert isinstance(choose_loss(normal(*shape)), Divergence)
    assert choose_loss(normal(4, 10), torch.zeros(4, dtype=torch.int64)) == CrossEntropy()


@pytest.mark.parametrize(
    "labels", [torch.zeros(4), torch.zeros(3, dtype=torch.int64), torch.full((4,), 10), ["a"] * 4]
)
def test_labels_that_do_not_fit(labels):
    with pytest.raises(DataError, match=r"no class numbers of the network's 10 scores"):
        choose_loss(normal(4, 10), labels)


def test_a_broken_network_counts_as_the_worst():
    a = normal(3, 5)
    broken = torch.stack([a[0], torch.full((5,), float("nan")), a[2]])
    losses, _ = Divergence().of(a, broken, None)
    assert losses.tolist() == [0.0, WORST, 0.0]
    assert float(Divergence().of(a, a * 1e30, None)[0].max()) == WORST
