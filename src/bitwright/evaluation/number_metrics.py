"""Metrics of numbers and images: errors, correlation, PSNR, SSIM, F1 of labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from bitwright.errors import DataError
from bitwright.graph.heads import IMAGE, LABELS, MASK, REGRESSION

NUMBERS = frozenset({REGRESSION})
IMAGES = frozenset({IMAGE, REGRESSION})
YES_OR_NO = frozenset({LABELS, MASK})
# As in the paper: a window of 7 x 7 pixels (scikit-image's), and what keeps quotients finite.
WINDOW, FIRST, SECOND = 7, 0.01, 0.03


def match_numbers(outputs: Tensor, labels: object, name: str) -> tuple[Tensor, Tensor]:
    """Outputs and the numbers that they should be, in float64 and of one shape.

    Raises:
        DataError: no labels, or not one a number.
    """
    if not isinstance(labels, Tensor) or labels.numel() != outputs.numel():
        shape = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise DataError(
            f"the metric {name} needs a label for each number of the output, which has shape "
            f"{tuple(outputs.shape)}; the labels are {shape}. Give such labels by --eval, or name "
            "the output that they are of: --answer 'NAME=regression'."
        )
    return outputs.double(), labels.reshape(outputs.shape).to(outputs.device).double()


def score_mae(outputs: Tensor, labels: object) -> tuple[float, int]:
    """Equation: mean |y - t|."""
    y, t = match_numbers(outputs, labels, "mae")
    return float((y - t).abs().sum()), y.numel()


@dataclass
class RootMeanSquare:
    """Equation: sqrt(mean (y - t)^2) over all numbers of all the data."""

    squares: float = 0.0
    count: int = 0

    def add(self, outputs: Tensor, labels: object) -> None:
        """Take in a batch."""
        y, t = match_numbers(outputs, labels, "rmse")
        self.squares += float((y - t).square().sum())
        self.count += y.numel()

    def value(self) -> float | None:
        """Of all batches so far."""
        return (self.squares / self.count) ** 0.5 if self.count else None


@dataclass
class Pearson:
    """Pearson's correlation of outputs and labels over all the data.

    Equation: cov(y, t) / (sd(y) sd(t)), by sums of y, t and their products about the first label.
    """

    sums: Tensor = field(default_factory=lambda: torch.zeros(6, dtype=torch.float64))
    origin: tuple[float, float] | None = None

    def add(self, outputs: Tensor, labels: object) -> None:
        """Take in a batch."""
        y, t = (v.flatten() for v in match_numbers(outputs, labels, "pearson"))
        if self.origin is None and len(y):
            self.origin = float(y[0]), float(t[0])
        if self.origin is not None:
            y, t = y - self.origin[0], t - self.origin[1]
            one = torch.ones_like(y)
            self.sums += torch.stack([v.sum() for v in (one, y, t, y * y, t * t, y * t)])

    def value(self) -> float | None:
        """Of all batches so far; None where one of the two does not vary."""
        n, y, t, yy, tt, yt = self.sums.tolist()
        spread = (n * yy - y * y) * (n * tt - t * t)
        return (n * yt - y * t) / spread**0.5 if spread > 0 else None


def _images(outputs: Tensor, labels: object, name: str) -> tuple[Tensor, Tensor, float]:
    y, t = match_numbers(outputs, labels, name)
    if y.dim() != 4:
        raise DataError(
            f"the metric {name} is of images [N, channels, height, width]; the output has shape "
            f"{tuple(y.shape)}. Name the output that is one: --answer 'NAME=image'."
        )
    # Images that are numbers from 0 to 1, or to 255.
    return y, t, 255.0 if float(t.max()) > 2.0 else 1.0


def score_psnr(outputs: Tensor, labels: object) -> tuple[float, int]:
    """Equation: mean over images of 10 log10(L^2 / mean (y - t)^2), L the range of numbers.

    The range is 1, or 255 where labels exceed 2; an image without error counts 100 dB.
    """
    y, t, most = _images(outputs, labels, "psnr")
    noise = (y - t).flatten(1).square().mean(1)
    found = 10.0 * torch.log10(most**2 / noise.clamp_min(most**2 * 1e-10))
    return float(found.sum()), len(found)


def score_ssim(outputs: Tensor, labels: object) -> tuple[float, int]:
    """Mean structural similarity of images, by a window of 7 x 7 pixels.

    Equation: mean of (2 m_y m_t + c1)(2 s_yt + c2) / ((m_y^2 + m_t^2 + c1)(s_y^2 + s_t^2 + c2)), m
    the means, s the sample variances and covariances in each window, c1 = (0.01 L)^2, c2 = (0.03
    L)^2.
    Reference: Wang et al., "Image quality assessment: from error visibility to structural
    similarity", IEEE TIP 13 (2004), section III.
    """
    y, t, most = _images(outputs, labels, "ssim")
    if min(y.shape[2:]) < WINDOW:
        raise DataError(
            f"the metric ssim looks at windows of {WINDOW} x {WINDOW} pixels; the output has "
            f"shape {tuple(y.shape)}. Use --metric psnr."
        )
    unbiased = WINDOW**2 / (WINDOW**2 - 1)

    def mean(values: Tensor) -> Tensor:
        return avg_pool2d(values, WINDOW, 1)

    m_y, m_t = mean(y), mean(t)
    s_y, s_t = (unbiased * (mean(v * v) - m * m) for v, m in ((y, m_y), (t, m_t)))
    both = unbiased * (mean(y * t) - m_y * m_t)
    c1, c2 = (FIRST * most) ** 2, (SECOND * most) ** 2
    found = (2 * m_y * m_t + c1) * (2 * both + c2)
    found = found / ((m_y**2 + m_t**2 + c1) * (s_y + s_t + c2))
    return float(found.flatten(1).mean(1).sum()), len(found)


@dataclass
class LabelF1:
    """F1 of labels of which a sample may have several: `micro` over all, else the mean of labels.

    Equation: 2 tp / (2 tp + fp + fn), a label said where its probability is above 1/2, its logit
    above 0; a label that neither side ever has counts 0, as in scikit-learn.
    """

    micro: bool
    counts: Tensor | None = None

    def add(self, outputs: Tensor, labels: object) -> None:
        """Take in a batch: [N, labels], and 0 or 1 for each."""
        y, t = match_numbers(outputs, labels, "label_f1")
        if not bool(((t == 0) | (t == 1)).all()):
            raise DataError(
                "the metric label_f1 needs 0 or 1 for each label of each sample. Give such labels, "
                "or for one class a sample --metric macro_f1."
            )
        border = 0.5 if bool(((y >= 0) & (y <= 1)).all()) else 0.0
        said, true = (v.reshape(-1, y.shape[-1]) for v in (y > border, t > 0.5))
        found = torch.stack([(said & true).sum(0), (said & ~true).sum(0), (~said & true).sum(0)])
        self.counts = found if self.counts is None else self.counts + found

    def value(self) -> float | None:
        """Of all batches so far."""
        if self.counts is None:
            return None
        counts = self.counts.double()
        tp, fp, fn = counts.sum(1, keepdim=True) if self.micro else counts
        return float((2 * tp / (2 * tp + fp + fn).clamp_min(1e-12)).mean())


def micro_f1() -> LabelF1:
    """F1 of all labels together."""
    return LabelF1(micro=True)


def macro_label_f1() -> LabelF1:
    """The mean F1 of the labels."""
    return LabelF1(micro=False)
