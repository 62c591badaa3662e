"""Float and quantised network side by side on the same samples, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bitwright.graph.answers import EMBEDDING, SCORES
from bitwright.graph.execute import class_rows
from bitwright.metrics import Metric, Running
from bitwright.numerics.losses import agreement, cosine_rows, kl_divergence

Forward = Callable[[Any], Tensor]


@dataclass
class Tally:
    """Running sums of everything that compares two networks on the same samples.

    Attributes:
        metric: what to measure beside agreement, divergence and noise.
        answers: what the outputs mean (`graph.answers`). Scores agree where the same entry is
            largest; embeddings have no such answer, and their agreement is the mean cosine.
    """

    metric: Metric | None
    answers: str = SCORES
    scores: dict[str, Running] = field(default_factory=dict)
    samples: int = 0
    same: float = 0.0
    rows: int = 0
    divergence: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Tensor, other: Tensor, labels: Any) -> None:
        """Take in one batch of outputs."""
        self.samples += reference.shape[0] if reference.dim() else 1
        a, b = class_rows(reference), class_rows(other)
        if self.answers == EMBEDDING:
            cosines = cosine_rows(a, b)
            same, rows = float(cosines.sum()), cosines.numel()
        else:
            same, rows = agreement(a, b)
        self.same += same
        self.rows += rows
        self.divergence += float(kl_divergence(a, b)) * rows
        self.signal += float(a.double().square().sum())
        self.noise += float((a.double() - b.double()).square().sum())
        if self.metric is not None and self.metric.needs_labels:
            for name, outputs in (("float", reference), ("quantized", other)):
                if name not in self.scores:
                    self.scores[name] = self.metric.start()
                self.scores[name].add(outputs, labels)

    def result(self) -> dict[str, Any]:
        """The comparison as plain numbers; rates are fractions."""
        found: dict[str, Any] = {"samples": self.samples, "float": {}, "quantized": {}}
        for name, running in self.scores.items():
            value = running.value()
            if self.metric is not None and value is not None:
                found[name][self.metric.name] = value
        found["answers"] = self.answers
        found["agreement"] = self.same / max(self.rows, 1)
        divergence = self.divergence / max(self.rows, 1)
        # None is negative; a sum of terms that rounding has left can be.
        found["kl"] = 0.0 if divergence <= 0.0 else divergence
        found["relative_noise"] = self.noise / self.signal if self.signal else 0.0
        return found


def compare(
    reference: Forward,
    other: Forward,
    batches: Iterable[Any],
    metric: Metric | None,
    progress: Callable[[int], None] = lambda _: None,
    answers: str = SCORES,
) -> dict[str, Any]:
    """Run both networks over the batches and compare their outputs.

    Args:
        reference: batch inputs -> the float network's output tensor.
        other: the same for the quantised network.
        batches: objects with `inputs` and `labels`.
        metric: what to measure beside agreement, KL divergence and relative noise.
        progress: told the number of samples after each batch.
        answers: what the outputs mean.
    """
    tally = Tally(metric, answers)
    with torch.no_grad():
        for batch in batches:
            tally.add(reference(batch.inputs), other(batch.inputs), batch.labels)
            progress(tally.samples)
    return tally.result()
