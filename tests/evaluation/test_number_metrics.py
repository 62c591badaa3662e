"""Metrics of numbers, images, labels, sequences and boxes against the libraries they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from bitwright.errors import DataError, InputError
from bitwright.evaluation.metrics import METRICS
from bitwright.evaluation.sequence_metrics import edit_distance
from bitwright.graph.answers import SEVERAL, Answer, Outcome
from bitwright.graph.heads import Head
from networks import normal

SIZES = [[1, 4, 7], [12], [5, 5, 2]]


def measure(name, outputs, labels, sizes):
    """The metric over batches of given sizes."""
    running = METRICS[name].start()
    start = 0
    for size in sizes:
        stop = start + size
        running.add(outputs[start:stop], labels[start:stop])
        start = stop
    return running.value()


@pytest.mark.parametrize("sizes", SIZES)
def test_numbers(sizes):
    y, t = 5 + normal(12, 3), 5 + normal(12, 3, seed=1)
    one, two = y.double().numpy().ravel(), t.double().numpy().ravel()
    assert measure("mae", y, t, sizes) == pytest.approx(np.abs(one - two).mean())
    assert measure("rmse", y, t, sizes) == pytest.approx(np.sqrt(((one - two) ** 2).mean()))
    assert measure("pearson", y, t, sizes) == pytest.approx(stats.pearsonr(one, two).statistic)
    spearman = stats.spearmanr(one, two).statistic
    assert measure("spearman", y, t, sizes) == pytest.approx(spearman)


def test_correlation_of_what_does_not_vary_is_none():
    assert measure("pearson", torch.ones(12, 1), normal(12), [12]) is None
    assert METRICS["rmse"].start().value() is None


@pytest.mark.parametrize(("least", "most"), [(0.0, 1.0), (0.0, 255.0)])
def test_images(least, most):
    library = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    generator = torch.Generator().manual_seed(0)
    t = least + (most - least) * torch.rand(12, 3, 16, 20, generator=generator)
    y = t + 0.05 * most * normal(12, 3, 16, 20)
    pairs = list(zip(t.double().numpy(), y.double().numpy(), strict=True))
    psnr = [library.peak_signal_noise_ratio(a, b, data_range=most) for a, b in pairs]
    assert measure("psnr", y, t, [5, 7]) == pytest.approx(np.mean(psnr))
    ssim = [library.structural_similarity(a, b, data_range=most, channel_axis=0) for a, b in pairs]
    # scikit-image leaves the margin of its filter out; so do windows that lie inside.
    assert measure("ssim", y, t, [5, 7]) == pytest.approx(np.mean(ssim), abs=1e-6)


def test_an_image_without_error_is_finite():
    t = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert measure("psnr", t, t, [2]) == pytest.approx(100.0)
    assert measure("ssim", t, t, [2]) == pytest.approx(1.0)


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_several_labels_a_sample(sizes, logits):
    library = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    y = normal(12, 5)
    y = y if logits else torch.sigmoid(y)
    t = (normal(12, 5, seed=1) > 0.3).long()
    said = (y > (0.0 if logits else 0.5)).numpy()
    for name, average in (("label_f1", "micro"), ("label_macro_f1", "macro")):
        want = library.f1_score(t.numpy(), said, average=average, zero_division=0)
        assert measure(name, y, t, sizes) == pytest.approx(want)


def brute_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    changed = brute_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(changed, brute_distance(a[1:], b) + 1, brute_distance(a, b[1:]) + 1)


def test_edits_by_brute_force():
    generator = np.random.default_rng(0)
    for _ in range(40):
        a, b = (generator.integers(0, 3, generator.integers(0, 6)).tolist() for _ in range(2))
        assert edit_distance(a, b) == brute_distance(a, b)


def one_hot(rows, count):
    return torch.nn.functional.one_hot(torch.tensor(rows), count).float()


def test_error_rates():
    # "ab b" said, with repeats and blanks; " " is the alphabet's third letter.
    said = one_hot([[1, 1, 0, 2, 3, 0, 2, 2], [1, 0, 1, 0, 0, 0, 0, 0]], 4)
    texts = [{"text": "ab a", "alphabet": "ab "}, {"text": "aa", "alphabet": "ab "}]
    assert measure("cer", said, texts, [1, 1]) == pytest.approx(1 / 6)
    assert measure("wer", said, texts, [2]) == pytest.approx(1 / 3)
    tokens = torch.tensor([[1, 1, 0, 2, 3, 0, 2, -100], [1, 0, 2, -100, -100, -100, -100, -100]])
    assert measure("cer", said, tokens, [1, 1]) == pytest.approx(1 / 10)


@pytest.mark.parametrize(
    ("name", "outputs", "labels"),
    [
        ("mae", normal(3, 1), None),
        ("rmse", normal(3, 1), normal(2)),
        ("psnr", normal(3, 4), normal(3, 4)),
        ("ssim", normal(3, 1, 4, 4), normal(3, 1, 4, 4)),
        ("label_f1", normal(3, 4), normal(3, 4)),
        ("cer", normal(3, 4), [[1], [2], [3]]),
    ],
)
def test_what_does_not_fit_is_told(name, outputs, labels):
    with pytest.raises(DataError, match=f"the metric {name}"):
        METRICS[name].start().add(outputs, labels)


# ---- detections ------------------------------------------------------------------------------

MEANING = Answer(
    SEVERAL,
    (0, 1),
    (
        Head("boxes", 0, "boxes", form="xyxy", partner="scores"),
        Head("scores", 1, "labels", form="probability", partner="boxes"),
    ),
)


def detector(boxes, scores):
    return Outcome((boxes, scores), {"boxes": boxes, "scores": scores}, MEANING)


def scene(images=6, objects=4, classes=3):
    generator = torch.Generator().manual_seed(0)
    corner = 100 * torch.rand(images, objects, 2, generator=generator)
    size = 10 + 30 * torch.rand(images, objects, 2, generator=generator)
    boxes = torch.cat([corner, corner + size], 2)
    labels = torch.randint(0, classes, (images, objects), generator=generator)
    scores = 0.9 * torch.nn.functional.one_hot(labels, classes)
    truth = [{"boxes": b, "labels": c} for b, c in zip(boxes, labels, strict=True)]
    return boxes, scores.float(), truth


def mean_precision(boxes, scores, truth, sizes):
    running = METRICS["map"].start()
    start = 0
    for size in sizes:
        stop = start + size
        running.add(detector(boxes[start:stop], scores[start:stop]), truth[start:stop])
        start = stop
    return running.value()


def test_mean_precision_of_boxes():
    pytest.importorskip("pycocotools", reason="the extra [detection] is not installed")
    boxes, scores, truth = scene()
    assert mean_precision(boxes, scores, truth, [6]) == pytest.approx(1.0)
    # Overlap 1/1.36: right at 0.5, 0.55, ... 0.7 and wrong from 0.75 on.
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    wide = middle.repeat(1, 1, 2) + (boxes - middle.repeat(1, 1, 2)) * 1.36**0.5
    assert mean_precision(wide, scores, truth, [6]) == pytest.approx(0.5)
    assert mean_precision(wide, scores, truth, [1, 5]) == pytest.approx(0.5)
    assert mean_precision(boxes, 0 * scores, truth, [6]) == 0.0


def test_detections_need_boxes_and_the_tool(monkeypatch):
    boxes, scores, truth = scene()
    running = METRICS["map"].start()
    with pytest.raises(DataError, match="dictionaries, one a sample"):
        running.add(detector(boxes, scores), torch.zeros(6))
    with pytest.raises(DataError, match="decoded boxes"):
        running.add(Outcome(scores, scores), truth)
    running.add(detector(boxes, scores), truth)
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.coco", None)
    with pytest.raises(InputError, match=r"bitwright\[detection\]"):
        running.value()
