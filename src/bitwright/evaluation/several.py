"""Several outputs of two networks side by side, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bitwright.evaluation.figures import OutputFigures
from bitwright.graph.answers import Compared, as_parts
from bitwright.graph.gauge import GaugeSums, join, partner_of, weigh_rows
from bitwright.graph.heads import BOXES, KINDS, Head


@dataclass(eq=False)
class SeveralTally:
    """What every sample shows of every output; in batches of any size the same.

    How far apart numbers are is measured by the float network's spread over all the data, so the
    figures are there once all batches are.
    """

    heads: tuple[Head, ...]
    sums: GaugeSums
    errors: list[list[Tensor]] = field(default_factory=list)
    shares: list[Tensor] = field(default_factory=list)
    rows: list[list[tuple[Tensor, Tensor] | None]] = field(default_factory=list)

    @classmethod
    def of(cls, heads: tuple[Head, ...]) -> SeveralTally:
        """Of no batch yet."""
        return cls(heads, GaugeSums.of(heads))

    def add(self, reference: Compared, other: Compared) -> None:
        """Take in what both networks gave for a batch."""
        self.sums.add(reference)
        one, two = as_parts(reference), as_parts(other)
        self.errors.append(
            [
                head.errors(a, b, self._weigh(head, one)).cpu()
                for head, a, b in zip(self.heads, one, two, strict=True)
            ]
        )
        self.shares.append(self.sums.gauge().agreements(reference, other))
        self.rows.append(
            [
                (a, b) if head.judged_by_spread and head.rows(a).shape[1] == 1 else None
                for head, a, b in zip(self.heads, one, two, strict=True)
            ]
        )

    def losses(self) -> Tensor:
        """The plain loss of every sample by every output, [samples, heads]."""
        if not self.errors:
            return torch.zeros(0, len(self.heads), dtype=torch.float64)
        spreads = self.sums.gauge().spreads
        return torch.stack(
            [
                (torch.cat([errors[i] for errors in self.errors]) / head.unit(spread)).mean(1)
                for i, (head, spread) in enumerate(zip(self.heads, spreads, strict=True))
            ],
            dim=1,
        )

    def loss(self) -> Tensor:
        """The loss of every sample, the outputs together by their weights."""
        weights = torch.tensor([head.weight for head in self.heads], dtype=torch.float64)
        return self.losses() @ (weights / weights.sum())

    def agreements(self) -> Tensor:
        """The share of each sample's answers that are the same by every output."""
        if not self.shares:
            return torch.zeros(0, len(self.heads), dtype=torch.float64)
        gauge = self.sums.gauge()
        found = torch.cat(self.shares)
        for i, head in enumerate(self.heads):
            pairs = [own[i] for own in self.rows]
            if head.judged_by_spread and all(pair is not None for pair in pairs):
                shares = [head.share(*pair, gauge.spreads[i]) for pair in pairs if pair is not None]
                found[:, i] = torch.cat(shares)
        return found

    def agreement(self) -> Tensor:
        """The share of each sample's answers that are the same in all outputs."""
        return join(self.agreements())

    def figures(self) -> dict[str, OutputFigures]:
        """Each output by itself."""
        shares, losses = self.agreements().mean(0), self.losses().mean(0)
        return {
            head.name: OutputFigures(
                kind=head.kind,
                agreement=float(share),
                counted=count_of(head),
                loss=max(float(loss), 0.0),
            )
            for head, share, loss in zip(self.heads, shares, losses, strict=True)
        }

    def _weigh(self, head: Head, reference: tuple[Tensor, ...]) -> Tensor | None:
        partner = partner_of(self.heads, head) if head.kind == BOXES else None
        if partner is None:
            return None
        return weigh_rows(partner, reference[self.heads.index(partner)])


def count_of(head: Head) -> str:
    """What counts as the same answer of an output, in words."""
    return KINDS[BOXES] if head.partner else KINDS[head.kind]
