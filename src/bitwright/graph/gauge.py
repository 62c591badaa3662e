"""All outputs of a network measured together: their losses added, their agreement joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.graph.answers import Compared, as_parts
from bitwright.graph.heads import BOXES, Head, row_confidence, same_detections
from bitwright.numerics.head_losses import Spread, SpreadSums

# Of two results by the names of their outputs, the loss of each sample.
OwnLoss = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
# What rows of background count in the loss of boxes, beside a sure detection.
BACKGROUND = 0.02
# Losses are finite, so that sums stay usable: far beyond what a network that works reaches.
WORST = 1e4


@dataclass(eq=False)
class GaugeSums:
    """SpreadSums of every head on the way: what the spreads of a `Gauge` are found from."""

    heads: tuple[Head, ...]
    moments: tuple[SpreadSums, ...]

    @classmethod
    def of(cls, heads: tuple[Head, ...]) -> GaugeSums:
        """Of no batch yet."""
        return cls(heads, tuple(SpreadSums() for _ in heads))

    def add(self, value: Compared) -> None:
        """Take in what the float network gave for a batch."""
        for head, own, part in zip(self.heads, self.moments, as_parts(value), strict=True):
            own.add(head.rows(part))

    def gauge(self) -> Gauge:
        """With the spreads of what was seen."""
        return Gauge(self.heads, tuple(own.spread() for own in self.moments))


@dataclass(frozen=True, eq=False)
class Gauge:
    """Heads, and how much each varies in float: the unit that its loss is measured in.

    Equation: loss = sum over heads h of w_h loss_h / sum of w_h, each loss relative to the head's
    own spread (`numerics.head_losses`).
    """

    heads: tuple[Head, ...]
    spreads: tuple[Spread, ...]

    @classmethod
    def fit(cls, heads: tuple[Head, ...], values: Iterable[Compared]) -> Gauge:
        """With the spreads of float results."""
        sums = GaugeSums.of(heads)
        for value in values:
            sums.add(value)
        return sums.gauge()

    @property
    def temperature(self) -> float:
        """The highest at which rows of scores are softened."""
        return max((spread.temperature for spread in self.spreads), default=1.0)

    def losses(self, reference: Compared, other: Compared, soft: bool = True) -> Tensor:
        """The loss of every sample, [samples]; differentiable."""
        return self.by_head(reference, other, soft).mul(self._weights()).sum(1)

    def by_head(self, reference: Compared, other: Compared, soft: bool = True) -> Tensor:
        """The loss of every sample by every head, [samples, heads]."""
        one, two = as_parts(reference), as_parts(other)
        found = [
            head.loss(a, b, spread, soft, self._rows_that_count(head, one))
            for head, spread, a, b in zip(self.heads, self.spreads, one, two, strict=True)
        ]
        return torch.stack([loss.cpu() for loss in found], dim=1)

    def agreements(self, reference: Compared, other: Compared) -> Tensor:
        """The share of each sample's answers that are the same, [samples, heads].

        Boxes and their scores are one answer: the detections that both make.
        """
        one, two = as_parts(reference), as_parts(other)
        found: dict[str, Tensor] = {}
        for head, spread, a, b in zip(self.heads, self.spreads, one, two, strict=True):
            if head.name in found:
                continue
            partner = partner_of(self.heads, head)
            if partner is None:
                found[head.name] = head.share(a, b, spread)
                continue
            places = [self.heads.index(h) for h in _boxes_first(head, partner)]
            share = same_detections(
                _boxes_first(head, partner),
                (one[places[0]], one[places[1]]),
                (two[places[0]], two[places[1]]),
            )
            found |= {head.name: share, partner.name: share}
        return torch.stack([found[head.name].cpu() for head in self.heads], dim=1)

    def _weights(self) -> Tensor:
        weights = torch.tensor([head.weight for head in self.heads], dtype=torch.float64)
        return weights / weights.sum()

    def _rows_that_count(self, head: Head, reference: Sequence[Tensor]) -> Tensor | None:
        """How much each row of boxes matters; None of all else."""
        partner = partner_of(self.heads, head) if head.kind == BOXES else None
        if partner is None:
            return None
        return weigh_rows(partner, reference[self.heads.index(partner)])


def weigh_rows(scores: Head, value: Tensor) -> Tensor:
    """How much each row of boxes matters: by how sure the float network is that it is something."""
    return row_confidence(scores, value.detach()) + BACKGROUND


def partner_of(heads: Sequence[Head], head: Head) -> Head | None:
    """The scores of boxes, and the boxes of scores."""
    return next((h for h in heads if head.partner and h.name == head.partner), None)


def _boxes_first(one: Head, two: Head) -> tuple[Head, Head]:
    return (one, two) if one.kind == BOXES else (two, one)


def join(shares: Tensor) -> Tensor:
    """The share of a sample's answers that are the same in all outputs: that of the worst."""
    return shares.amin(1)


def bound(losses: Tensor) -> Tensor:
    """Losses without what is no number and beyond what counts."""
    return losses.nan_to_num(nan=WORST, posinf=WORST).clamp_max(WORST)
