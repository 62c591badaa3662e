"""Metrics of class scores: top-5, mean intersection over union, macro F1, perplexity.

All but top-5 are no mean over samples: they are sums over all the data, divided once at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.errors import DataError

# What labels of pixels and of tokens say where there is nothing to say.
IGNORED_PIXEL, IGNORED_TOKEN = 255, -100
TOP = 5


@dataclass(frozen=True)
class Scored:
    """Scores [rows, classes] with one integer label a row."""

    scores: Tensor
    labels: Tensor


def score_rows(outputs: Tensor, labels: object, name: str) -> Scored:
    """Outputs as rows of class scores, each with its label.

    Classes lie along axis 1 of images and along the last axis otherwise, whichever leaves the shape
    of the labels.

    Raises:
        DataError: there are no integer labels, or not one a row of scores.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"the metric {name} needs integer class labels and the evaluation data have none. Give "
            "labelled data, or --metric agreement, which needs none."
        )
    axis = _class_axis(outputs, labels)
    if axis is None:
        raise DataError(
            f"the metric {name} needs one row of class scores a label; the outputs have shape "
            f"{tuple(outputs.shape)} and the labels {tuple(labels.shape)}. Give one label a row of "
            "scores, or a metric of your own: --metric FILE.py:FUNCTION."
        )
    count = outputs.shape[axis]
    if count < 2:
        raise DataError(
            f"the metric {name} needs a score for each class; the outputs have shape "
            f"{tuple(outputs.shape)}, one number a label. Give a metric of your own that says "
            "where the border lies: --metric FILE.py:FUNCTION."
        )
    return Scored(outputs.movedim(axis, -1).reshape(-1, count), labels.reshape(-1).long())


def _class_axis(outputs: Tensor, labels: Tensor) -> int | None:
    """The axis without which outputs have the shape of the labels."""
    if outputs.dim() != labels.dim() + 1:
        return None
    likely = (1, outputs.dim() - 1) if outputs.dim() >= 4 else (outputs.dim() - 1, 1)
    for axis in likely:
        rest = (*outputs.shape[:axis], *outputs.shape[axis + 1 :])
        if rest == tuple(labels.shape):
            return axis
    return None


def _select_known(found: Scored, ignored: int, name: str) -> Scored:
    """The rows whose label counts.

    Raises:
        DataError: a label that is no class.
    """
    classes = found.scores.shape[1]
    counts = found.labels != ignored
    if ignored == IGNORED_PIXEL:
        # Where there are so many classes, 255 is one of them.
        counts = (found.labels >= 0) & (counts | (ignored < classes))
    rows = Scored(found.scores[counts], found.labels[counts])
    wrong = rows.labels[(rows.labels < 0) | (rows.labels >= classes)]
    if wrong.numel():
        raise DataError(
            f"the metric {name}: the label {int(wrong[0])} is no class of a network with {classes} "
            f"of them (0 to {classes - 1}; {ignored} is not counted). Look at the labels."
        )
    return rows


def top5(outputs: Tensor, labels: object) -> tuple[float, int]:
    """How many rows have their label among the five highest scores, and how many rows there are.

    Of equal scores the first class is the higher one, as argmax has it.
    """
    found = score_rows(outputs, labels, "top5")
    if found.scores.shape[1] <= TOP:
        raise DataError(
            f"the metric top5 says nothing of a network with {found.scores.shape[1]} classes: the "
            "label is always among the five highest. Use --metric top1."
        )
    rows = _select_known(found, IGNORED_TOKEN, "top5")
    own = rows.scores.gather(1, rows.labels[:, None])
    index = torch.arange(rows.scores.shape[1], device=rows.scores.device)
    before = (rows.scores == own) & (index < rows.labels[:, None])
    rank = ((rows.scores > own) | before).sum(1)
    return float((rank < TOP).sum()), rank.numel()


@dataclass
class Confusion:
    """Counts of (label, answer), and what follows from them.

    Equation: with n_kk right answers of class k, r_k rows labelled k and c_k rows answered k,
    IoU_k = n_kk / (r_k + c_k - n_kk) and F1_k = 2 n_kk / (r_k + c_k); the metric is the mean over
    the classes that occur, as labels or as answers. Negative labels and 255 are not counted.
    Reference: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge"; van
    Rijsbergen 1979, "Information Retrieval".
    """

    name: str
    counts: Tensor | None = None

    def add(self, outputs: Tensor, labels: object) -> None:
        """Take in a batch of outputs."""
        rows = _select_known(score_rows(outputs, labels, self.name), IGNORED_PIXEL, self.name)
        classes = rows.scores.shape[1]
        pairs = rows.labels.cpu() * classes + rows.scores.argmax(1).cpu()
        found = torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
        self.counts = found if self.counts is None else self.counts + found

    def value(self) -> float | None:
        """The mean over the classes that occur; None where nothing was counted."""
        if self.counts is None or not int(self.counts.sum()):
            return None
        right = self.counts.diagonal().double()
        both = (self.counts.sum(0) + self.counts.sum(1)).double()
        occurs = both > 0
        right, both = right[occurs], both[occurs]
        shares = right / (both - right) if self.name == "miou" else 2 * right / both
        return float(shares.mean())


def miou() -> Confusion:
    """Mean intersection over union, of no batch yet."""
    return Confusion("miou")


def macro_f1() -> Confusion:
    """Mean F1 of the classes, of no batch yet."""
    return Confusion("macro_f1")


@dataclass
class Perplexity:
    """How many tokens a network hesitates between; less is better.

    Equation: exp(-1/n sum log p(label)), p the softmax of the scores, over all n tokens whose label
    is not -100. A label says what the scores of its own place should predict: for a network that
    predicts the next token, labels are the tokens one place on.
    Reference: Jelinek et al. 1977, "Perplexity, a measure of the difficulty of speech recognition
    tasks".
    """

    total: float = 0.0
    count: int = 0

    def add(self, outputs: Tensor, labels: object) -> None:
        """Take in a batch of outputs [N, T, words] with labels [N, T]."""
        rows = _select_known(score_rows(outputs, labels, "perplexity"), IGNORED_TOKEN, "perplexity")
        own = rows.scores.double().log_softmax(1).gather(1, rows.labels[:, None])
        self.total -= float(own.sum())
        self.count += own.numel()

    def value(self) -> float | None:
        """The perplexity of all tokens so far; None where nothing was counted."""
        if not self.count:
            return None
        mean = self.total / self.count
        return math.exp(mean) if mean < 700.0 else math.inf
