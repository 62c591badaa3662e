"""One output of a network, and what it means: its rows, its loss, and when two are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bitwright.numerics import head_agreement as same
from bitwright.numerics.head_losses import (
    Spread,
    logits_of,
    lose_labels,
    lose_scores,
    square_errors,
)

SCORES, PROBABILITIES, LABELS = "scores", "probabilities", "labels"
BOXES, MASK, IMAGE, REGRESSION = "boxes", "mask", "image", "regression"
EMBEDDING, TOKENS, HEATMAPS, NONE = "embedding", "tokens", "heatmaps", "none"
# What a user may say an output is, with what agreement then counts.
KINDS = {
    SCORES: "the largest entry of each row is the same",
    PROBABILITIES: "the largest entry of each row is the same",
    LABELS: "every label of a row is on the same side of one half",
    BOXES: f"detections of equal class overlap by {same.LEAST_OVERLAP:g} or more; "
    f"coordinates alone: within {same.TOLERANCE:g} standard deviations",
    MASK: "pixels on the same side of one half",
    IMAGE: f"PSNR against float of {same.LEAST_PSNR:g} dB or more",
    REGRESSION: f"numbers within {same.TOLERANCE:g} standard deviations of float's",
    EMBEDDING: "cosine of the vectors",
    TOKENS: "all tokens of a sample are the same",
    HEATMAPS: f"peaks at most {same.NEAR:g} cells apart",
    NONE: "not looked at",
}
BY_CLASS = {SCORES, PROBABILITIES, TOKENS}
BY_SIGN = {LABELS, MASK}
PROBABILITY, LOGIT = "probability", "logit"
CORNERS, CENTRES, OFFSETS = "xyxy", "cxcywh", "offsets"


@dataclass(frozen=True)
class Head:
    """One output.

    Attributes:
        name: as the network calls it.
        leaf: its place among the leaves of the result.
        kind: of KINDS.
        axis: of classes, coordinates or channels; None for the usual one of the kind.
        form: of scores `probability` or `logit`; of boxes `xyxy`, `cxcywh`, or `offsets`, which
            are not decoded.
        weight: of its loss beside the others'.
        cut: (axis, from, to) where it is a part of a tensor.
        partner: of boxes the name of the scores of the same rows, and the other way round.
        why: what told the kind, in words.
    """

    name: str
    leaf: int
    kind: str
    axis: int | None = None
    form: str = ""
    weight: float = 1.0
    cut: tuple[int, int, int] | None = None
    partner: str = ""
    why: str = ""

    def of(self, result: Any) -> Tensor:
        """The output as the network returns it, from a result in any form."""
        return self.take(pytree.tree_leaves(result)[self.leaf])

    def take(self, tensor: Tensor) -> Tensor:
        """The output, from the leaf that it is or that it is a part of."""
        if self.cut is None:
            return tensor
        axis, start, end = self.cut
        return tensor.narrow(axis, start, end - start)

    def rows(self, tensor: Tensor) -> Tensor:
        """The output as [samples, rows, channels], scores as logits.

        The last axis is that of classes, coordinates or channels; of heatmaps the cells of a map.
        Of an embedding there is one row a sample, the mean of its tokens at unit scale.
        """
        samples = tensor.shape[0]
        if self.kind == EMBEDDING:
            from_states = tensor.double()
            return unit_vectors(from_states).unsqueeze(1)
        if self.kind == HEATMAPS:
            return tensor.reshape(samples, tensor.shape[1], -1)
        axis = self.channel_axis(tensor.dim())
        moved = tensor.unsqueeze(-1) if axis is None else tensor.movedim(axis, -1)
        rows = moved.reshape(samples, -1, moved.shape[-1])
        if self.form != PROBABILITY:
            return rows
        return logits_of(rows) if self.kind in BY_SIGN else rows.double().clamp_min(1e-12).log()

    def channel_axis(self, rank: int) -> int | None:
        """The axis of classes, coordinates or channels; None where there is none.

        Axis 1 of four dimensions, else the last; of a map [samples, height, width] and of a
        number a sample none.
        """
        if self.axis is not None:
            return self.axis
        flat = self.kind in (MASK, IMAGE) and rank == 3
        return None if rank < 2 or flat else 1 if rank == 4 else -1

    @property
    def judged_by_spread(self) -> bool:
        """Whether numbers are the same by how far they lie apart beside their spread."""
        return self.kind == REGRESSION or (self.kind == BOXES and not self.partner)

    def errors(self, reference: Tensor, other: Tensor, weight: Tensor | None = None) -> Tensor:
        """The plain error of every sample, [samples, channels], before `unit` divides it.

        Of answers that are read by their largest entry or sign it is the divergence in nats.

        Args:
            reference, other: the output of the float network and of another one.
            weight: [samples, rows], how much each row counts.
        """
        a, b = self.rows(reference), self.rows(other)
        if is_yes_or_no(self.kind, a):
            return lose_labels(a, b).unsqueeze(1)
        if self.kind in BY_CLASS or self.kind == HEATMAPS:
            return lose_scores(a, b).unsqueeze(1)
        fits = weight is not None and weight.shape == a.shape[:2]
        found = square_errors(a, b, weight if fits else None)
        return found.mean(1, keepdim=True) if self.kind == EMBEDDING else found

    def unit(self, spread: Spread) -> Tensor:
        """What errors are measured in: the float values' variance; 1 where they are in nats."""
        if self.kind == EMBEDDING:
            return spread.variance.mean(0, keepdim=True)
        numbers = self.kind not in BY_CLASS | BY_SIGN | {HEATMAPS}
        return spread.variance if numbers else torch.ones(1, dtype=torch.float64)

    def loss(
        self,
        reference: Tensor,
        other: Tensor,
        spread: Spread,
        soft: bool,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of every sample; see `numerics.head_losses`. Softened where `soft`."""
        if soft and self.kind in BY_CLASS | BY_SIGN | {HEATMAPS}:
            a, b = self.rows(reference), self.rows(other)
            return (lose_labels if is_yes_or_no(self.kind, a) else lose_scores)(a, b, spread)
        errors = self.errors(reference, other, weight)
        return (errors / self.unit(spread).to(errors.device)).mean(1)

    def share(self, reference: Tensor, other: Tensor, spread: Spread) -> Tensor:
        """The share of each sample's answers that are the same, by this output alone.

        Numbers of one row a sample are measured by their spread over the data, those of many rows
        (a map, a series) by their spread in the sample.
        """
        if self.kind == IMAGE:
            return same.same_image(reference, other)
        a, b = self.rows(reference), self.rows(other)
        if self.kind == EMBEDDING:
            return same.cosines(a, b)
        if self.kind == HEATMAPS:
            return same.same_peaks(a, b, reference.shape[-1])
        if self.kind == TOKENS:
            return same.same_sequence(a, b)
        if is_yes_or_no(self.kind, a):
            return same.same_labels(a, b, whole=self.kind == LABELS)
        if self.kind in BY_CLASS:
            return same.same_classes(a, b)
        own = a.double().std(1, correction=0, keepdim=True) if a.shape[1] > 1 else spread.deviation
        return same.same_numbers(a, b, own)

    def __str__(self) -> str:
        """Render for a person: `boxes: boxes (xyxy), by its name`."""
        parts = [part for part in (self.form, f"axis {self.axis}" if self.axis else "") if part]
        more = f" ({', '.join(parts)})" if parts else ""
        weight = f", weight {self.weight:g}" if self.weight != 1.0 else ""
        return f"{self.kind}{more}{weight}, {self.why}"


def is_yes_or_no(kind: str, rows: Tensor) -> bool:
    """Whether every entry of rows is read by its sign: labels, masks, a score without others."""
    return kind in BY_SIGN or (kind in BY_CLASS and rows.shape[-1] == 1)


def unit_vectors(states: Tensor, mask: Tensor | None = None) -> Tensor:
    """One vector of root mean square 1 for each sample: its tokens' (or pixels') mean.

    Equation: e = mean over tokens with mask 1 of h, then e / sqrt(mean(e^2)).
    Only the direction counts, as in a comparison by cosine. The length sqrt(C) makes losses that
    take a softmax meaningful too: for vectors near each other KL(softmax(a) || softmax(b)) is
    about half the mean squared difference, which is one minus their cosine.
    """
    if states.dim() == 4:
        pooled = states.mean((2, 3))
    elif states.dim() == 3:
        if mask is None or mask.shape != states.shape[:2]:
            pooled = states.mean(1)
        else:
            weight = mask.to(states).unsqueeze(-1)
            pooled = (states * weight).sum(1) / weight.sum(1).clamp_min(1.0)
    else:
        pooled = states.reshape(states.shape[0] if states.dim() else 1, -1)
    return pooled / pooled.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def row_confidence(head: Head, scores: Tensor) -> Tensor:
    """How sure each row [samples, rows] is of a class that is something."""
    rows = scored_rows(head, scores)
    form = PROBABILITY if head.form == PROBABILITY else LOGIT
    return torch.stack([same.confidence(own, form)[0] for own in rows])


def scored_rows(head: Head, scores: Tensor) -> Tensor:
    """Scores as [samples, rows, classes], as they are."""
    axis = head.channel_axis(scores.dim())
    moved = scores.unsqueeze(-1) if axis is None else scores.movedim(axis, -1)
    return moved.reshape(scores.shape[0], -1, moved.shape[-1])


def same_detections(
    heads: tuple[Head, Head], one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]
) -> Tensor:
    """The share of each sample's detections that are the same; (boxes, scores) everywhere."""
    forms = heads[0].form, PROBABILITY if heads[1].form == PROBABILITY else LOGIT
    found = []
    sides = [(heads[0].rows(boxes), scored_rows(heads[1], scores)) for boxes, scores in (one, two)]
    for sample in range(one[0].shape[0]):
        a, b = (same.detections(boxes[sample], own[sample], forms)[:2] for boxes, own in sides)
        found.append(same.same_boxes(a, b))
    return torch.tensor(found, dtype=torch.float64)
