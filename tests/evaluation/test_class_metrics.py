"""Top-5, mean IoU, macro F1 and perplexity against scikit-learn and scipy on the same data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch

import bitwright as bw
from bitwright.errors import DataError
from bitwright.evaluation.metrics import METRICS, metric

sklearn = pytest.importorskip("sklearn.metrics")


def scores_and_labels(*shape: int, classes: int = 7, seed: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    scores = torch.randn(*shape, classes, generator=generator)
    return scores + 1.5 * torch.nn.functional.one_hot(labels, classes), labels


def value_of(name, batches):
    running = metric(name).start()
    for outputs, labels in batches:
        running.add(outputs, labels)
    return running.value()


def in_parts(scores, labels, size=13):
    return zip(scores.split(size), labels.split(size), strict=True)


def test_top5_is_that_of_scikit_learn():
    scores, labels = scores_and_labels(200, classes=12)
    want = sklearn.top_k_accuracy_score(labels, scores.numpy(), k=5)
    assert 0.5 < want < 1.0
    assert value_of("top5", in_parts(scores, labels)) == pytest.approx(want)


def test_of_equal_scores_the_first_classes_are_the_highest():
    scores = torch.zeros(8, 8)  # as a network of few bits gives them
    assert metric("top5").score(scores, torch.arange(8)) == (5.0, 8)
    first = (scores.argmax(1) == torch.arange(8)).sum()
    assert metric("top1").score(scores, torch.arange(8))[0] == float(first) == 1.0


def test_top5_of_five_classes_says_nothing():
    with pytest.raises(DataError, match=r"a network with 5 classes.*--metric top1"):
        metric("top5").score(torch.zeros(3, 5), torch.zeros(3, dtype=torch.long))


def test_miou_is_that_of_scikit_learn_over_all_pixels():
    scores, labels = scores_and_labels(11, 6, 5)
    labels[scores.argmax(-1) == 3] = 2
    want = sklearn.jaccard_score(
        labels.flatten(), scores.argmax(-1).flatten(), average="macro", zero_division=0
    )
    images = scores.permute(0, 3, 1, 2)  # as networks give them: classes along axis 1
    assert value_of("miou", in_parts(images, labels, 3)) == pytest.approx(want)


def test_pixels_without_a_label_are_not_counted():
    scores, labels = scores_and_labels(4, 6, 6)
    images = scores.permute(0, 3, 1, 2)
    labels[:, :2], labels[:, 2] = 255, -1
    want = sklearn.jaccard_score(
        labels[:, 3:].flatten(), scores.argmax(-1)[:, 3:].flatten(), average="macro"
    )
    assert value_of("miou", [(images, labels)]) == pytest.approx(want)


def test_classes_that_never_occur_do_not_count():
    scores = torch.zeros(4, 9)
    scores[:2, 1] = scores[2:, 2] = 1.0
    labels = torch.tensor([1, 1, 2, 1])
    want = sklearn.jaccard_score(labels, scores.argmax(1), average="macro")
    assert value_of("miou", [(scores, labels)]) == pytest.approx(want)


@pytest.mark.parametrize("seed", range(3))
def test_macro_f1_is_that_of_scikit_learn(seed):
    scores, labels = scores_and_labels(90, seed=seed)
    labels[labels == 5] = 4
    want = sklearn.f1_score(labels, scores.argmax(1), average="macro", zero_division=0)
    assert value_of("macro_f1", in_parts(scores, labels)) == pytest.approx(want)


def test_macro_f1_is_no_mean_over_batches():
    scores, labels = scores_and_labels(40)
    parts = [value_of("macro_f1", [part]) for part in in_parts(scores, labels, 5)]
    assert value_of("macro_f1", in_parts(scores, labels, 5)) != pytest.approx(np.mean(parts))


def test_perplexity_is_that_of_scikit_learn_and_of_scipy():
    scores, labels = scores_and_labels(6, 9, classes=20)
    flat, true = scores.reshape(-1, 20).numpy().astype(np.float64), labels.flatten().numpy()
    chances = scipy.special.softmax(flat, axis=1)
    want = math.exp(sklearn.log_loss(true, chances, labels=range(20)))
    assert value_of("perplexity", in_parts(scores, labels, 2)) == pytest.approx(want, rel=1e-6)
    own = scipy.special.log_softmax(flat, axis=1)[range(true.size), true]
    assert value_of("perplexity", [(scores, labels)]) == pytest.approx(math.exp(-own.mean()))


def test_padding_is_not_counted_in_the_perplexity():
    scores, labels = scores_and_labels(4, 8, classes=20)
    labels[:, 5:] = -100
    want = value_of("perplexity", [(scores[:, :5], labels[:, :5])])
    assert value_of("perplexity", [(scores, labels)]) == pytest.approx(want)
    assert value_of("perplexity", [(scores, torch.full_like(labels, -100))]) is None


def test_even_chances_are_as_many_as_there_are_words():
    labels = torch.arange(12).reshape(3, 4)
    assert value_of("perplexity", [(torch.zeros(3, 4, 12), labels)]) == pytest.approx(12.0)


@pytest.mark.parametrize("name", ["top5", "miou", "macro_f1", "perplexity"])
@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (torch.zeros(3, 9), None, "needs integer class labels"),
        (torch.zeros(3, 9), torch.zeros(3), "needs integer class labels"),
        (torch.zeros(3, 9), torch.zeros(2, dtype=torch.long), r"\(3, 9\) and the labels \(2,\)"),
        (torch.zeros(3, 9), torch.tensor([0, 9, 1]), "the label 9 is no class of a network with 9"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), "one number a label"),
    ],
)
def test_what_does_not_fit_is_said(name, outputs, labels, message):
    with pytest.raises(DataError, match=message):
        METRICS[name].start().add(outputs, labels)


@pytest.mark.parametrize("name", ["top5", "macro_f1", "miou", "perplexity"])
def test_a_run_measures_them_in_float_and_quantised(name):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 7)
    ).eval()
    inputs = torch.randn(60, 8)
    held_out = [(inputs, net(inputs).argmax(1))]
    found = bw.quantize(
        net, [inputs], recipe="fixed", metric=name, evaluation=held_out, scheme="w3a8"
    ).metrics
    before, after = found["float"][name], found["quantized"][name]
    if name == "perplexity":
        assert 1.0 < before < after < 7.0
    else:
        assert before == 1.0 and (after == 1.0 if name == "top5" else 0.3 < after < 1.0)
