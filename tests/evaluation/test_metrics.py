"""Metrics: sums a batch, the user's own functions, and labels that do not fit."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from bitwright.errors import DataError, RecipeError
from bitwright.evaluation.metrics import METRICS, metric, predictions
from bitwright.graph.answers import Outcome


def test_top1_counts_the_right_answers():
    outputs = torch.tensor([[1.0, 2.0, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert metric("top1").score(outputs, torch.tensor([1, 0, 1])) == (2.0, 3)


def test_classes_lie_along_axis_one_of_images_and_the_last_otherwise():
    assert predictions(torch.zeros(2, 7, 4, 5)).shape == (2, 4, 5)
    assert predictions(torch.zeros(2, 7, 4)).shape == (2, 7)
    masks = torch.zeros(2, 3, 4, 4)
    masks[:, 2] = 1
    labels = torch.full((2, 4, 4), 2)
    labels[0, 0, 0] = 1
    assert metric("top1").score(masks, labels) == (31.0, 32)


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (torch.zeros(3, 4), None, "needs integer class labels.*--metric agreement"),
        (torch.zeros(3, 4), ["a", "b", "c"], "needs integer class labels"),
        (torch.zeros(3, 4), torch.zeros(2), r"shape \(3, 4\) and the labels \(2,\)"),
        (torch.zeros(3), torch.zeros(3), r"shape \(3,\)"),
        (torch.zeros(3, 4, 5, 5), torch.zeros(3), r"shape \(3, 4, 5, 5\) and the labels \(3,\)"),
        (torch.zeros(3, 5, 4), torch.zeros(3), r"shape \(3, 5, 4\)"),
    ],
)
def test_top1_with_labels_that_do_not_fit(outputs, labels, message):
    with pytest.raises(DataError, match=message):
        metric("top1").score(outputs, labels)


def test_known_names():
    known = {"top1", "accuracy", "agreement", "spearman", "f1", "exact_match"}
    known |= {"top5", "miou", "macro_f1", "perplexity", "pearson", "mae", "rmse", "psnr", "ssim"}
    known |= {"label_f1", "label_macro_f1", "map", "wer", "cer"}
    assert set(METRICS) == known
    assert not metric("agreement").needs_labels and metric("top1").needs_labels
    with pytest.raises(RecipeError, match=r"unknown metric 'top' in --metric.*Or FILE.py:FUNCTION"):
        metric("top")


@pytest.fixture
def own(tmp_path):
    def write(body: str) -> str:
        path = tmp_path / "metrics.py"
        path.write_text(f"import torch\n{body}\n")
        return f"{path}:f"

    return write


def whole(outputs):
    return Outcome(outputs, outputs)


def test_the_users_own_function(own):
    spec = own("def f(outputs, labels):\n    return (outputs.argmax(1) == labels).float().mean()")
    found = metric(spec)
    assert found.name == "f" and found.needs_labels
    total, count = found.score(whole(torch.eye(4)), torch.tensor([0, 1, 2, 0]))
    assert (total, count) == (3.0, 4)
    quarter = metric(own("def f(o, l): return 0.25"))
    assert quarter.score(whole(torch.zeros(8, 2)), None) == (2.0, 8)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def f(outputs): return 0", "must be a function of two arguments"),
        ("f = 3", "must be a function of two arguments"),
        ("def g(o, l): return 0", "unknown function 'f' in"),
    ],
)
def test_what_is_no_metric(own, body, message):
    with pytest.raises(RecipeError, match=message):
        metric(own(body))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def f(o, l):\n    return o.nothing", r"failed at .*metrics.py:3: AttributeError"),
        ("def f(o, l): return None", r"the metric .*metrics.py:f failed.*TypeError"),
        ("def f(o, l): return o", r"the metric .*metrics.py:f failed"),
    ],
)
def test_a_metric_that_fails_names_its_line(own, body, message):
    with pytest.raises(RecipeError, match=message):
        metric(own(body)).score(whole(torch.zeros(3, 4)), None)


# ---- texts -----------------------------------------------------------------------------------


def pairs(count=40):
    generator = torch.Generator().manual_seed(5)
    one, other = torch.randn(2, count, 6, generator=generator)
    scores = torch.randint(0, 6, (count,), generator=generator).float()  # with ties
    return one, other, scores


def test_spearman_of_sentence_embeddings_in_any_order():
    one, other, scores = pairs()
    cosines = torch.nn.functional.cosine_similarity(one, other)
    want = scipy.stats.spearmanr(cosines.numpy(), scores.numpy()).statistic
    rows, numbers = torch.cat([one, other]), torch.arange(40).repeat(2)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    running = metric("spearman").start()
    assert running.value() is None
    for part in order.split(17):
        running.add(rows[part], {"pair": numbers[part], "label": scores.repeat(2)[part]})
    assert running.value() == pytest.approx(want)


def test_spearman_of_one_number_a_pair():
    _, _, scores = pairs()
    said = scores + torch.randn(40, generator=torch.Generator().manual_seed(2))
    running = metric("spearman").start()
    running.add(said[:30].unsqueeze(1), scores[:30])
    running.add(said[30:].unsqueeze(1), scores[30:])
    assert running.value() == pytest.approx(scipy.stats.spearmanr(said, scores).statistic)


@pytest.mark.parametrize("labels", [None, torch.zeros(3), {"pair": torch.zeros(4), "label": ["a"]}])
def test_spearman_without_pairs(labels):
    with pytest.raises(DataError, match="the metric spearman needs"):
        metric("spearman").start().add(torch.zeros(4, 2), labels)


def test_f1_and_exact_match_of_marked_answers():
    places = [None, (0, 3), (4, 7)]
    labels = [
        {"context": "one two", "answers": ["two", "2"], "places": places},
        {"context": "one two", "answers": ["one"], "places": places},
    ]
    scores = torch.zeros(2, 2, 3)
    scores[0, :, 2] = 1.0  # "two"
    scores[1, 0, 1] = scores[1, 1, 2] = 1.0  # "one two"
    assert metric("exact_match").score(scores, labels) == (1.0, 2)
    total, count = metric("f1").score(scores, labels)
    assert (total, count) == (pytest.approx(1 + 2 / 3), 2)
    for wrong in (None, torch.zeros(2), ["one", "two"]):
        with pytest.raises(DataError, match="the metric f1 needs a network that marks answers"):
            metric("f1").score(scores, wrong)
