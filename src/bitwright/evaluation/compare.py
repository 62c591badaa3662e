"""Float and quantised network side by side on the same samples, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import DataError
from bitwright.evaluation.figures import Comparison
from bitwright.evaluation.metrics import Metric, Running
from bitwright.evaluation.several import SeveralTally
from bitwright.graph.answers import Outcome, as_parts
from bitwright.graph.execute import class_rows
from bitwright.graph.heads import EMBEDDING, SCORES
from bitwright.numerics.losses import agreement, cosine_rows, kl_divergence

# A tensor alone stands for a network that gives nothing else.
Given = Outcome | Tensor
AnswerOf = Callable[[Any], Given]


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
    several: SeveralTally | None = None

    def add(self, reference: Given, other: Given, labels: Any) -> None:
        """Take in what both networks gave for one batch."""
        reference, other = as_outcome(reference), as_outcome(other)
        self.samples += reference.samples
        one, two = reference.answer, other.answer
        if isinstance(one, Tensor) and isinstance(two, Tensor):
            self._add_one(class_rows(one), class_rows(two))
        else:
            self.several = self.several or SeveralTally.of(reference.meaning.heads)
            self.several.add(one, two)
        for a, b in zip(as_parts(one), as_parts(two), strict=True):
            self.signal += float(a.double().square().sum())
            self.noise += float((a.double() - b.double()).square().sum())
        if self.metric is not None and self.metric.needs_labels:
            for name, outcome in (("float", reference), ("quantized", other)):
                if name not in self.scores:
                    self.scores[name] = self.metric.start()
                self.scores[name].add(self.metric.reads(outcome), labels)

    def _add_one(self, a: Tensor, b: Tensor) -> None:
        if self.answers == EMBEDDING:
            cosines = cosine_rows(a, b)
            same, rows = float(cosines.sum()), cosines.numel()
        else:
            same, rows = agreement(a, b)
        self.same += same
        self.rows += rows
        self.divergence += float(kl_divergence(a, b)) * rows

    def settle(self) -> None:
        """Count what several outputs say once all batches are there."""
        if self.several is not None:
            shares = self.several.agreement()
            self.same, self.rows = float(shares.sum()), len(shares)
            self.divergence = float(self.several.loss().sum())

    def result(self) -> Comparison:
        """What both networks did."""
        self.settle()
        before, after = (self._score(name) for name in ("float", "quantized"))
        divergence = self.divergence / max(self.rows, 1)
        return Comparison(
            samples=self.samples,
            before=before,
            after=after,
            answers=self.answers,
            agreement=self.same / max(self.rows, 1),
            # None is negative; a sum of terms that rounding has left can be.
            kl=0.0 if divergence <= 0.0 else divergence,
            relative_noise=self.noise / self.signal if self.signal else 0.0,
            outputs=None if self.several is None else self.several.figures(),
        )

    def _score(self, name: str) -> dict[str, float]:
        value = self.scores[name].value() if name in self.scores else None
        return {} if self.metric is None or value is None else {self.metric.name: value}


def as_outcome(given: Given) -> Outcome:
    """What a network gave, whole."""
    return given if isinstance(given, Outcome) else Outcome(given, given)


def try_metric(metric: Metric, forward: AnswerOf, batches: Iterable[Any]) -> None:
    """Take one batch through a network and a metric: what is wrong with them shows in seconds.

    Raises:
        DataError: no batch came, or one that does not fit the network or the metric.
        RecipeError: the user's own metric fails.
    """
    # A loader that shuffles draws its order from the global generator, which a trial must not move.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        batch = next(iter(batches), None)
        if batch is None:
            raise DataError("the evaluation data are empty: no batch came. Check --eval.")
        outcome = as_outcome(forward(batch.inputs))
    if metric.needs_labels:
        running = metric.start()
        running.add(metric.reads(outcome), batch.labels)
        running.value()


def compare(
    reference: AnswerOf,
    other: AnswerOf,
    batches: Iterable[Any],
    metric: Metric | None,
    progress: Callable[[int], None] = lambda _: None,
    answers: str = SCORES,
) -> Comparison:
    """Run both networks over the batches and compare their outputs.

    Args:
        reference: batch inputs -> what the float network gives.
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
