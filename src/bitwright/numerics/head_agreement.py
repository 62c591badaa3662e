"""Whether one output says the same as the float network's, sample by sample, without labels.

Each function gives a share between 0 and 1 for every sample. What counts as the same depends on
what the output means; the constants here are the defaults that reports tell.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Boxes are the same object from this overlap on, as in PASCAL VOC.
LEAST_OVERLAP = 0.5
# A row of scores is a detection from this confidence on; of many the best so many are looked at.
CONFIDENT, MOST_BOXES = 0.3, 100
# An image is float's from this peak signal-to-noise ratio on: 1 % of its range, which no eye sees.
LEAST_PSNR = 40.0
# A number is float's within so much of its standard deviation in float.
TOLERANCE = 0.1
# A peak of a heatmap is float's within so many cells.
NEAR = 1.5


def same_classes(a: Tensor, b: Tensor) -> Tensor:
    """Share of rows whose largest entry is the same, [samples, rows, classes] -> [samples]."""
    return (a.argmax(-1) == b.argmax(-1)).double().mean(1)


def same_labels(a: Tensor, b: Tensor, whole: bool = False) -> Tensor:
    """Share of entries on the same side of zero; of rows all whose entries are, where `whole`."""
    same = (a > 0) == (b > 0)
    return (same.all(-1).double() if whole else same.double().mean(-1)).mean(1)


def same_sequence(a: Tensor, b: Tensor) -> Tensor:
    """1 for samples whose rows all have the same largest entry, else 0."""
    return (a.argmax(-1) == b.argmax(-1)).all(1).double()


def same_numbers(a: Tensor, b: Tensor, deviation: Tensor) -> Tensor:
    """Share of the numbers within TOLERANCE standard deviations of float's."""
    reach = TOLERANCE * deviation.to(a.device)
    return ((a.double() - b.double()).abs() <= reach).double().mean((1, 2))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of every sample in decibels; the peak is the range of a's values.

    Equation: 10 log10((max a - min a)^2 / mean (a - b)^2); infinite where both are equal.
    """
    a, b = a.flatten(1).double(), b.flatten(1).double()
    noise = (a - b).square().mean(1)
    peak = (a.amax(1) - a.amin(1)).square()
    return torch.where(noise > 0, 10 * torch.log10(peak / noise.clamp_min(1e-300)), torch.inf)


def same_image(a: Tensor, b: Tensor) -> Tensor:
    """1 for samples whose PSNR against float is LEAST_PSNR or more, else 0."""
    return (psnr(a, b) >= LEAST_PSNR).double()


def same_peaks(a: Tensor, b: Tensor, width: int) -> Tensor:
    """Share of the maps [samples, maps, cells] whose largest cell is at most NEAR cells away."""
    one, two = a.argmax(-1), b.argmax(-1)
    rows = one.div(width, rounding_mode="floor") - two.div(width, rounding_mode="floor")
    columns = one % width - two % width
    away = (rows.square() + columns.square()).double().sqrt()
    return (away <= NEAR).double().mean(1)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each sample's vectors, none below zero."""
    found = torch.nn.functional.cosine_similarity(a.flatten(1).double(), b.flatten(1).double())
    return found.clamp(0.0, 1.0)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of all pairs of corner boxes, [n, 4] and [m, 4] -> [n, m]."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clamp_min(0).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).clamp_min(0).prod(-1) for x in (a, b)]
    return both / (areas[0][:, None] + areas[1][None, :] - both).clamp_min(1e-12)


def as_corners(boxes: Tensor, form: str) -> Tensor:
    """Boxes as left, top, right, bottom, from centre and size where `form` is cxcywh."""
    boxes = boxes.double()
    if form != "cxcywh":
        return boxes
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def confidence(scores: Tensor, form: str) -> tuple[Tensor, Tensor, int | None]:
    """Confidence and class of every row, and the class that means nothing is there.

    `scores` are [rows, classes], probabilities or logits by `form`. Rows of logits are read by
    their softmax where one class takes more than half of the rows, by more than half on average:
    background. Else every class is a yes or no by itself.
    """
    classes = scores.shape[-1]
    likely = scores.double() if form == "probability" else scores.double().softmax(-1)
    background = None
    if classes > 1 and len(scores):
        most = int(torch.bincount(likely.argmax(-1), minlength=classes).argmax())
        share = float((likely.argmax(-1) == most).double().mean())
        summed = bool(((likely.sum(-1) - 1).abs() < 1e-3).all())
        if summed and share > 0.5 and float(likely[:, most].mean()) > 0.5:
            background = most
    if background is None and form != "probability":
        likely = torch.sigmoid(scores.double())
    if background is not None:
        likely = likely.clone()
        likely[:, background] = 0.0
    best, which = likely.max(-1)
    return best, which, background


def detections(
    boxes: Tensor, scores: Tensor, forms: tuple[str, str], least: float = CONFIDENT
) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes of a sample that are kept, best first, their classes, and how sure each is.

    Confident rows, of which those that overlap a better one of their class are left out (greedy
    non-maximum suppression).
    """
    best, which, _ = confidence(scores, forms[1])
    order = best.argsort(descending=True, stable=True)[: 10 * MOST_BOXES]
    order = order[best[order] >= least]
    corners, which = as_corners(boxes[order], forms[0]), which[order]
    alike = which[:, None] == which[None, :]
    covered = ((overlap(corners, corners) > LEAST_OVERLAP) & alike).cpu().numpy()
    kept: list[int] = []
    for i in range(len(order)):
        if len(kept) == MOST_BOXES:
            break
        if not covered[i, kept].any():
            kept.append(i)
    return corners[kept], which[kept], best[order][kept]


def same_boxes(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """Share of both sides' detections that have a partner of equal class.

    Equation: 2 m / (n_a + n_b), m the pairs of equal class that overlap by LEAST_OVERLAP or more,
    each box in one pair at most, the best overlap first; 1 where neither side has a detection.
    Reference: the matching of PASCAL VOC, Everingham et al. 2010, section 4.2.
    """
    (boxes_a, classes_a), (boxes_b, classes_b) = a, b
    if not len(boxes_a) and not len(boxes_b):
        return 1.0
    found = overlap(boxes_a, boxes_b)
    found = torch.where(classes_a[:, None] == classes_b[None, :], found, 0.0)
    matched = 0
    while found.numel() and float(found.max()) >= LEAST_OVERLAP:
        row, column = divmod(int(found.argmax()), found.shape[1])
        found[row, :] = 0.0
        found[:, column] = 0.0
        matched += 1
    return 2.0 * matched / (len(boxes_a) + len(boxes_b))
