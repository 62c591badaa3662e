"""Scalars whose gradient has the curvature of a loss of several outputs as its second moment."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitwright.graph.answers import Compared, as_parts
from bitwright.graph.gauge import Gauge
from bitwright.graph.heads import BY_CLASS, HEATMAPS, Head, is_yes_or_no
from bitwright.numerics.head_losses import Spread, soften


def draw_answer(gauge: Gauge, answer: Compared, generator: torch.Generator) -> Tensor:
    """A scalar s of a batch's answer with E[ds/dz ds/dz^T] = F, F the loss's curvature in z.

    Equation: loss ~ 1/2 dz^T F dz with F = sum_h w_h / w F_h (`Gauge.losses`). The draws of the
    heads are independent and of mean zero, so their sum's second moment is the sum of theirs.
    """
    total = sum(head.weight for head in gauge.heads)
    drawn = [
        math.sqrt(head.weight / total) * _draw_head(head, spread, part, generator)
        for head, spread, part in zip(gauge.heads, gauge.spreads, as_parts(answer), strict=True)
    ]
    return torch.stack(drawn).sum()


def _draw_head(head: Head, spread: Spread, part: Tensor, generator: torch.Generator) -> Tensor:
    rows = head.rows(part).double()
    count = rows.shape[1]
    if is_yes_or_no(head.kind, rows):
        # 8 T^2 / s^2 KL(sigmoid(z / T)): the label is drawn, of variance p (1 - p).
        deviation = math.sqrt(float(spread.variance.mean()))
        t = soften(deviation)
        p = torch.sigmoid(rows.detach() / t).cpu()
        labels = torch.bernoulli(p, generator=generator)
        noise = (labels - p).to(rows.device)
        return (noise * rows).sum() * math.sqrt(8.0 / (count * rows.shape[-1])) / deviation
    if head.kind in BY_CLASS or head.kind == HEATMAPS:
        # 2 T^2 / s^2 KL(softmax(z / T)): the class is drawn.
        t = spread.temperature
        scores = (rows / t).log_softmax(-1).reshape(-1, rows.shape[-1])
        labels = torch.multinomial(scores.detach().exp().cpu(), 1, generator=generator)
        drawn = scores.gather(1, labels.to(rows.device)).sum()
        return drawn * t * math.sqrt(2.0 / count) / max(spread.within, 1e-12)
    # (y - y_float)^2 / v, whose curvature is constant.
    noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows.device)
    scaled = rows / spread.deviation.to(rows.device)
    return (noise * scaled).sum() * math.sqrt(2.0 / (count * rows.shape[-1]))
