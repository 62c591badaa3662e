"""Float and quantised network side by side on the same samples, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bitwright.graph.execute import class_rows
from bitwright.metrics import Metric
from bitwright.numerics.losses import agreement, kl_divergence

Forward = Callable[[Any], Tensor]


@dataclass
class Tally:
    """Running sums of everything that compares two networks on the same samples."""

    metric: Metric | None
    scores: dict[str, list[float]] = field(default_factory=lambda: {"float": [], "quantized": []})
    counted: int = 0
    samples: int = 0
    same: int = 0
    rows: int = 0
    divergence: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Tensor, other: Tensor, labels: Any) -> None:
        """Take in one batch of outputs."""
        self.samples += reference.shape[0] if reference.dim() else 1
        a, b = class_rows(reference), class_rows(other)
        same, rows = agreement(a, b)
        self.same += same
        self.rows += rows
        self.divergence += float(kl_divergence(a, b)) * rows
        self.signal += float(a.double().square().sum())
        self.noise += float((a.double() - b.double()).square().sum())
        if self.metric is not None and self.metric.needs_labels:
            for name, outputs in (("float", reference), ("quantized", other)):
                total, count = self.metric.score(outputs, labels)
                self.scores[name].append(total)
            self.counted += count

    def result(self) -> dict[str, Any]:
        """The comparison as plain numbers; rates are fractions."""
        found: dict[str, Any] = {"samples": self.samples, "float": {}, "quantized": {}}
        if self.metric is not None and self.counted:
            for name in ("float", "quantized"):
                found[name][self.metric.name] = sum(self.scores[name]) / self.counted
        found["agreement"] = self.same / max(self.rows, 1)
        found["kl"] = self.divergence / max(self.rows, 1)
        found["relative_noise"] = self.noise / self.signal if self.signal else 0.0
        return found


def compare(
    reference: Forward,
    other: Forward,
    batches: Iterable[Any],
    metric: Metric | None,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Run both networks over the batches and compare their outputs.

    Args:
        reference: batch inputs -> the float network's output tensor.
        other: the same for the quantised network.
        batches: objects with `inputs` and `labels`.
        metric: what to measure beside agreement, KL divergence and relative noise.
        progress: told the number of samples after each batch.
    """
    tally = Tally(metric)
    with torch.no_grad():
        for batch in batches:
            tally.add(reference(batch.inputs), other(batch.inputs), batch.labels)
            progress(tally.samples)
    return tally.result()
