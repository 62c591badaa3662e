"""What a sample loses in a quantised network: the per-sample losses that the table is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bitwright.errors import DataError
from bitwright.evaluation.own_loss import lose_by
from bitwright.graph.answers import Answer, Compared
from bitwright.graph.execute import class_rows
from bitwright.graph.gauge import WORST, Gauge, bound, join
from bitwright.graph.heads import EMBEDDING, SCORES, unit_vectors
from bitwright.numerics.losses import SOFTNESS, cosine_rows, kl_rows

# How far from one the sum of a row may be for its entries to count as probabilities.
NORMALISED = 1e-3
LEAST_PROBABILITY = 1e-12


class SampleLoss(Protocol):
    """Loss and missed answers of each sample; smaller is better, float itself is the reference."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def needs_float(self) -> bool:
        """Whether the float network's outputs are needed."""

    @property
    def has_answers(self) -> bool:
        """Whether a sample has an answer that can be missed."""

    def of(self, reference: Any, outputs: Any, labels: object) -> Tensor:
        """Losses and missed answers, [2, samples] in float64; and a third row where there is one.

        The third row is a loss in other units that tells choices apart with less noise.

        Args:
            reference: the float network's outputs, where they are needed: a tensor, or of
                several outputs a tuple.
            outputs: the quantised network's.
            labels: of the batch, where there are any.
        """


@dataclass(frozen=True)
class Divergence:
    """KL divergence from the float network's distribution; label-free, the default.

    Equation: mean over the rows of a sample of sum_c p_c (log p_c - log q_c), with p and q the
    softmax of the class scores (axis 1 of four, else the last), or the outputs themselves where
    `probabilities`. An answer is missed where the largest entry is another class than in float.

    Divergence between confident answers is nearly all due to a few samples, and jumps with any
    disturbance of the network. So a third row has T^2 times the divergence of answers softened by
    the `temperature` T, in which every sample and every class has its say: on ResNet-20 its sums
    predict whole networks within 8 %, those of the plain divergence within 32 %
    (docs/measured/interaction.md).

    Reference: Hinton et al., "Distilling the knowledge in a neural network", arXiv:1503.02531,
    section 2, for softened answers.
    """

    probabilities: bool = False
    temperature: float = 1.0
    name: str = "kl"
    needs_float: bool = True
    has_answers: bool = True

    def of(self, reference: Tensor | None, outputs: Tensor, labels: object) -> Tensor:
        """See `SampleLoss`; labels are not used."""
        del labels
        assert reference is not None
        a, b = by_sample(reference), by_sample(outputs)
        missed = (a.argmax(-1) != b.argmax(-1)).double().mean(1)
        if self.probabilities:
            a, b = (v.double().clamp_min(LEAST_PROBABILITY).log() for v in (a, b))
        plain = _bound(kl_rows(a, b).mean(1), missed)
        if self.temperature == 1.0:
            return plain
        a, b = a.double() / self.temperature, b.double() / self.temperature
        soft = kl_rows(a, b).mean(1) * self.temperature**2
        return torch.cat([plain, _bound(soft, missed)[:1]])


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy with labels, for data that have them.

    Equation: mean over the rows of a sample of -log softmax(outputs)[label]; rows whose label is
    negative (-100 marks what is to be ignored) do not count. An answer is missed where the largest
    entry is not the label's.
    """

    name: str = "cross-entropy"
    needs_float: bool = False
    has_answers: bool = True

    def of(self, reference: Tensor | None, outputs: Tensor, labels: object) -> Tensor:
        """See `SampleLoss`; the float outputs are not used."""
        del reference
        rows = by_sample(outputs).double()
        wanted = _class_labels(labels, rows)
        used = wanted >= 0
        places = wanted.clamp_min(0).unsqueeze(-1)
        losses = -rows.log_softmax(-1).gather(-1, places).squeeze(-1)
        missed = (rows.argmax(-1) != wanted).double()
        count = used.sum(1).clamp_min(1)
        return _bound((losses * used).sum(1) / count, (missed * used).sum(1) / count)


@dataclass(frozen=True)
class RelativeSquaredError:
    """Squared difference from the float outputs; for outputs that are no class scores.

    Equation: mean over a sample's outputs of (y - y_float)^2 / energy, where the energy is the
    variance of float outputs on the data, the same for all samples.
    """

    energy: float
    name: str = "relative-squared-error"
    needs_float: bool = True
    has_answers: bool = False

    def of(self, reference: Tensor | None, outputs: Tensor, labels: object) -> Tensor:
        """See `SampleLoss`; labels are not used."""
        del labels
        assert reference is not None
        a, b = by_sample(reference).double(), by_sample(outputs).double()
        losses = (a - b).square().mean((1, 2)) / self.energy
        return _bound(losses, torch.zeros_like(losses))


@dataclass(frozen=True)
class EmbeddingDistance:
    """One minus the cosine of a sample's embedding with the float network's.

    Equation: 1 - e.e_float / (|e| |e_float|), e the mean over the tokens (`graph.answers`).
    """

    name: str = "cosine-distance"
    needs_float: bool = True
    has_answers: bool = False

    def of(self, reference: Tensor | None, outputs: Tensor, labels: object) -> Tensor:
        """See `SampleLoss`; labels are not used."""
        del labels
        assert reference is not None
        losses = 1 - cosine_rows(unit_vectors(reference.double()), unit_vectors(outputs.double()))
        return _bound(losses, torch.zeros_like(losses))


@dataclass(frozen=True)
class SeveralOutputs:
    """The losses of several outputs together, each in units of its own spread (`graph.gauge`).

    The loss is that of answers as they are, the third row that of softened ones. An answer is
    missed to the extent that the worst output's is.
    """

    gauge: Gauge
    name: str = "several-outputs"
    needs_float: bool = True
    has_answers: bool = True

    def of(self, reference: Compared | None, outputs: Compared, labels: object) -> Tensor:
        """See `SampleLoss`; labels are not used."""
        del labels
        assert reference is not None
        plain, soft = (self.gauge.losses(reference, outputs, how) for how in (False, True))
        missed = 1.0 - join(self.gauge.agreements(reference, outputs))
        return torch.stack([bound(plain), missed, bound(soft)])


@dataclass(frozen=True)
class OwnSampleLoss:
    """The user's own loss of all outputs; no answer is missed by it."""

    own: Callable[..., Any]
    answer: Answer
    name: str = "own"
    needs_float: bool = True
    has_answers: bool = False

    def of(self, reference: Compared | None, outputs: Compared, labels: object) -> Tensor:
        """See `SampleLoss`; labels are not used."""
        del labels
        assert reference is not None
        losses = bound(lose_by(self.own, self.answer, reference, outputs))
        return torch.stack([losses, torch.zeros_like(losses)])


def choose_loss_of_several(
    answer: Answer, reference: Compared, labels: object = None
) -> SeveralOutputs:
    """The loss of several outputs, with the spreads that float results have.

    Raises:
        DataError: labels are to be used, which tell nothing of several outputs.
    """
    if labels is not None:
        names = ", ".join(repr(head.name) for head in answer.heads)
        raise DataError(
            f"--labels measures the loss of one output of class scores, and {names} are looked at. "
            "Leave the labels out: the float network then is the measure. Or leave outputs out, "
            "such as --answer 'NAME=none'."
        )
    return SeveralOutputs(Gauge.fit(answer.heads, [reference]))


def choose_loss(reference: Tensor, labels: object = None, answers: str = SCORES) -> SampleLoss:
    """The loss that fits some float outputs, and the labels where they are to be used.

    For embeddings their distance. Else cross-entropy with labels; else the KL divergence where a
    row has two or more scores, taken of the outputs themselves where they already are
    probabilities; else the squared error relative to the outputs' variance (their energy, should
    they not vary).

    Args:
        reference: the float network's main output for some samples.
        labels: of the same samples, None to do without.
        answers: what the outputs mean.

    Raises:
        DataError: labels that are no class numbers of these outputs.
    """
    if answers == EMBEDDING:
        return EmbeddingDistance()
    rows = by_sample(reference)
    if labels is not None:
        _class_labels(labels, rows)
        return CrossEntropy()
    if rows.shape[-1] >= 2:
        sums = rows.double().sum(-1)
        normalised = bool((rows >= 0).all()) and bool(((sums - 1).abs() < NORMALISED).all())
        return Divergence(normalised, temperature_of(rows, normalised))
    values = rows.double()
    energy = float(values.var(unbiased=False)) or float(values.square().mean()) or 1.0
    return RelativeSquaredError(energy)


def temperature_of(rows: Tensor, probabilities: bool = False) -> float:
    """The temperature that softens answers: SOFTNESS standard deviations of a row of scores.

    Equation: T = max(1, 3 std), std the mean over rows of the standard deviation in a row; 1 where
    the scores are no numbers.
    """
    scores = rows.double()
    if probabilities:
        scores = scores.clamp_min(LEAST_PROBABILITY).log()
    spread = SOFTNESS * float(scores.std(-1, correction=0).mean())
    return max(1.0, spread) if math.isfinite(spread) else 1.0


def by_sample(outputs: Tensor) -> Tensor:
    """Rows of class scores for each sample: [samples, rows, classes]."""
    if outputs.dim() < 2:
        return outputs.reshape(-1, 1, 1)
    rows = class_rows(outputs)
    return rows.reshape(outputs.shape[0], -1, rows.shape[-1])


def _class_labels(labels: object, rows: Tensor) -> Tensor:
    """Labels as [samples, rows] class numbers."""
    fits = (
        isinstance(labels, Tensor)
        and not labels.dtype.is_floating_point
        and labels.numel() == rows.shape[0] * rows.shape[1]
        and bool((labels < rows.shape[-1]).all())
    )
    if not fits:
        given = (
            f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
            if isinstance(labels, Tensor)
            else type(labels).__name__
        )
        raise DataError(
            f"the labels of the calibration data ({given}) are no class numbers of the network's "
            f"{rows.shape[-1]} scores for {rows.shape[0]} samples of {rows.shape[1]} rows. Give "
            "one integer a row, or data without labels: the float network then is the measure."
        )
    assert isinstance(labels, Tensor)
    return labels.reshape(rows.shape[:2]).long().to(rows.device)


def _bound(losses: Tensor, missed: Tensor) -> Tensor:
    losses = losses.nan_to_num(nan=WORST, posinf=WORST).clamp_max(WORST)
    return torch.stack([losses, missed])
