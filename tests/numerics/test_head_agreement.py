"""When two outputs say the same, against torchvision's boxes and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bitwright.numerics import head_agreement as same
from networks import normal


def boxes(count, seed=0):
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    size = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed + 1))
    return torch.cat([corner, corner + 0.3 * size], 1).double()


def test_overlaps_are_torchvisions():
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    a, b = boxes(20), boxes(30, 5)
    assert torch.allclose(same.overlap(a, b), ops.box_iou(a, b))
    centres = ops.box_convert(a, "xyxy", "cxcywh")
    assert torch.allclose(same.as_corners(centres, "cxcywh"), a)


def test_overlaps_are_shares_of_a_raster():
    a, b = (200 * boxes(6)).round(), (200 * boxes(5, 9)).round()
    cells = torch.arange(300) + 0.5

    def inside(box):
        across, down = ((cells > box[i]) & (cells < box[i + 2]) for i in (0, 1))
        return across[None] & down[:, None]

    want = [
        [float((inside(p) & inside(q)).sum() / (inside(p) | inside(q)).sum()) for q in b] for p in a
    ]
    assert torch.allclose(same.overlap(a, b), torch.tensor(want).double(), atol=1e-6)


def test_detections_are_those_of_non_maximum_suppression():
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    found, scores = (
        boxes(60),
        torch.rand(60, 3, generator=torch.Generator().manual_seed(2)).double(),
    )
    kept, classes, sure = same.detections(found, scores, ("xyxy", "probability"))
    best, which = scores.max(1)
    want = ops.batched_nms(found, best, which, 0.5)
    want = want[best[want] >= same.CONFIDENT]
    assert torch.equal(kept, found[want]) and torch.equal(classes, which[want])
    assert torch.equal(sure, best[want])


def test_matched_boxes():
    a = boxes(4)
    classes = torch.tensor([0, 1, 0, 1])
    assert same.same_boxes((a, classes), (a[[2, 0, 3, 1]], classes[[2, 0, 3, 1]])) == 1.0
    assert same.same_boxes((a, classes), (a, 1 - classes)) == 0.0
    assert same.same_boxes((a[:0], classes[:0]), (a[:0], classes[:0])) == 1.0
    assert same.same_boxes((a, classes), (a[:3], classes[:3])) == pytest.approx(6 / 7)
    # Each box has one partner at most.
    twice = torch.cat([a[:1], a[:1]])
    none = torch.zeros(2, dtype=torch.int64)
    assert same.same_boxes((a[:1], none[:1]), (twice, none)) == pytest.approx(2 / 3)


def test_the_class_of_nearly_all_rows_is_background():
    scores = torch.full((20, 4), -2.0)
    scores[:, 3] = 4.0
    scores[0, 1] = 9.0
    best, which, background = same.confidence(scores, "logit")
    assert background == 3 and int(which[0]) == 1
    assert float(best[0]) > 0.9 and float(best[1:].max()) < 0.1
    # Of scores that are each a yes or no by itself there is none.
    best, which, background = same.confidence(torch.full((20, 4), -5.0), "logit")
    assert background is None and float(best.max()) < 0.01


def test_psnr_is_the_formula():
    a = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    b = a + 0.01 * normal(5, 3, 8, 8)
    peak = np.ptp(a.double().numpy().reshape(5, -1), axis=1)
    mse = ((a.double() - b.double()) ** 2).numpy().reshape(5, -1).mean(1)
    assert np.allclose(same.psnr(a, b), 10 * np.log10(peak**2 / mse))
    assert bool(torch.isinf(same.psnr(a, a)).all())
    assert same.same_image(a, a + 1e-4).tolist() == [1.0] * 5
    assert same.same_image(a, a + 0.1).tolist() == [0.0] * 5


def test_peaks_a_cell_apart_are_the_same():
    one = torch.zeros(1, 1, 6, 7)
    one[0, 0, 2, 3] = 1.0
    for row, column in itertools.product(range(6), range(7)):
        two = torch.zeros(1, 1, 6, 7)
        two[0, 0, row, column] = 1.0
        near = max(abs(row - 2), abs(column - 3)) <= 1
        found = same.same_peaks(one.reshape(1, 1, -1), two.reshape(1, 1, -1), 7)
        assert found.tolist() == [float(near)]


def test_shares():
    a = torch.tensor([[[2.0, 1.0], [0.0, 1.0]], [[1.0, -1.0], [1.0, 0.0]]])
    b = torch.tensor([[[2.0, 1.0], [1.0, 0.0]], [[3.0, -1.0], [1.0, 0.0]]])
    assert same.same_classes(a, b).tolist() == [0.5, 1.0]
    assert same.same_sequence(a, b).tolist() == [0.0, 1.0]
    assert same.same_labels(a, b).tolist() == [0.5, 1.0]
    assert same.same_labels(a, b, whole=True).tolist() == [0.5, 1.0]
    wide = torch.tensor([10.0, 1.0])
    assert same.same_numbers(a, b, wide).tolist() == [0.75, 0.75]
    assert same.cosines(a, a).tolist() == pytest.approx([1.0, 1.0])
    assert same.cosines(a, -a).tolist() == [0.0, 0.0]
