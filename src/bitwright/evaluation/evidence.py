"""Two networks run side by side, sample by sample: what a promise is judged by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bitwright.errors import DataError
from bitwright.evaluation.compare import AnswerOf, as_outcome
from bitwright.evaluation.figures import LESS_IS_BETTER
from bitwright.evaluation.metrics import Metric
from bitwright.evaluation.promise import Evidence
from bitwright.evaluation.several import SeveralTally
from bitwright.graph.answers import Outcome
from bitwright.graph.execute import class_rows
from bitwright.graph.heads import EMBEDDING
from bitwright.numerics.confidence import Statistic
from bitwright.numerics.losses import agreement, cosine_rows, kl_rows

# A metric that is no mean of samples is computed again for every resampling, so that the outputs
# of all samples are held.
_HELD = 1 << 30


@dataclass
class _Pairs:
    """Every sample's outputs, float and quantised, and its label."""

    kept: list[tuple[Any, Any, Any]] = field(default_factory=list)
    held: int = 0

    def add(self, before: Any, after: Any, label: Any) -> None:
        """Keep a sample."""
        leaves = [t for t in pytree.tree_leaves((before, after)) if isinstance(t, Tensor)]
        self.held += sum(t.numel() * t.element_size() for t in leaves)
        if self.held > _HELD:
            raise DataError(
                f"--promise: the outputs of {len(self.kept)} samples take {_HELD >> 20} MiB, and a "
                "metric that is no mean of samples needs all of them at once. Give fewer samples "
                "(--eval), or promise agreement, which needs none of them."
            )
        self.kept.append((before, after, label))

    def figures(self, metric: Metric) -> tuple[Statistic, Statistic]:
        """The metric of samples at given places, of the float network and of the other."""

        def of(side: int) -> Statistic:
            def value(places: np.ndarray) -> float:
                running = metric.start()
                for place in places.tolist():
                    running.add(self.kept[place][side], self.kept[place][2])
                found = running.value()
                return float("nan") if found is None else found

            return value

        return of(0), of(1)


def gather_evidence(
    reference: AnswerOf, other: AnswerOf, batches: Iterable[Any], metric: Metric | None, kind: str
) -> Evidence:
    """Run both networks over the batches, and keep what every sample shows.

    Args:
        reference, other: batch inputs -> what the float and the quantised network give.
        batches: objects with `inputs` and `labels`.
        metric: to score both by, where the samples have labels.
        kind: what the outputs mean (`graph.answers`).

    Raises:
        DataError: no sample came, or outputs that are too large to be kept.
    """
    agrees: list[float] = []
    divergences: list[float] = []
    scores: list[tuple[float, float]] = []
    pairs = _Pairs()
    several: SeveralTally | None = None
    wanted = metric if metric is not None and metric.needs_labels else None
    with torch.no_grad():
        for batch in batches:
            before, after = as_outcome(reference(batch.inputs)), as_outcome(other(batch.inputs))
            for one, two, label in _cut(before, after, batch):
                if isinstance(one.answer, Tensor) and isinstance(two.answer, Tensor):
                    same, divergence = _compare_sample(one.answer, two.answer, kind)
                    agrees.append(same)
                    divergences.append(divergence)
                else:
                    several = several or SeveralTally.of(one.meaning.heads)
                    several.add(one.answer, two.answer)
                if wanted is None:
                    continue
                seen = wanted.reads(one), wanted.reads(two)
                if wanted.running is None:
                    scores.append((_score(wanted, seen[0], label), _score(wanted, seen[1], label)))
                else:
                    pairs.add(*seen, label)
    if several is not None:
        agrees, divergences = several.agreement().tolist(), several.loss().clamp_min(0).tolist()
    if not agrees:
        raise DataError("--promise: no sample came to judge it by. Check --eval, or --data.")
    parts = np.asarray(scores, dtype=np.float64).reshape(-1, 2)
    return Evidence(
        np.asarray(agrees),
        np.asarray(divergences),
        (parts[:, 0], parts[:, 1]) if scores else None,
        pairs.figures(wanted) if wanted is not None and pairs.kept else None,
        wanted is not None and wanted.name in LESS_IS_BETTER,
    )


def _cut(before: Outcome, after: Outcome, batch: Any) -> Iterator[tuple[Outcome, Outcome, Any]]:
    """Both outcomes and the labels, a sample at a time."""
    for place in range(before.samples):
        label = batch.cut(place, place + 1).labels
        yield _take(before, place), _take(after, place), label


def _take(outcome: Outcome, place: int) -> Outcome:
    """One sample of what a network gave; what does not grow with the batch stays as it is."""

    def cut(tensor: Tensor) -> Tensor:
        grows = tensor.dim() > 0 and tensor.shape[0] == outcome.samples
        return tensor[place : place + 1] if grows else tensor

    answer, whole = pytree.tree_map_only(Tensor, cut, (outcome.answer, outcome.whole))
    return Outcome(answer, whole, outcome.meaning)


def _compare_sample(one: Tensor, two: Tensor, kind: str) -> tuple[float, float]:
    """The share of a sample's answers that are the same, and their mean divergence."""
    a, b = class_rows(one), class_rows(two)
    divergence = max(float(kl_rows(a, b).mean()), 0.0)
    if kind == EMBEDDING:
        return float(cosine_rows(a, b).mean()), divergence
    same, rows = agreement(a, b)
    return same / max(rows, 1), divergence


def _score(metric: Metric, seen: Any, label: Any) -> float:
    total, count = metric.score(seen, label)
    return total / count if count else float("nan")
