"""How far a network's answers are from the float network's: what tuning lowers and is judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.engine.limits import LIMITS
from bitwright.evaluation.own_loss import lose_by
from bitwright.graph.answers import Compared, as_parts, samples_of
from bitwright.graph.execute import Flat, Open, class_rows, walk
from bitwright.graph.gauge import Gauge, GaugeSums
from bitwright.graph.model_graph import ModelGraph
from bitwright.numerics.losses import SOFTNESS, kl_divergence

ANSWER_BYTES = LIMITS.answers


@dataclass(frozen=True)
class Loss:
    """Divergence of softened answers, which ranks, and of the answers themselves.

    Divergence between confident answers is nearly all due to a few samples, and jumps with any
    disturbance of the network; softened answers let every sample and every class speak.
    """

    soft: float
    plain: float

    def no_worse(self, other: Loss) -> bool:
        """Whether neither is above the other's; false for what is not a number."""
        return self.soft <= other.soft and self.plain <= other.plain

    def __str__(self) -> str:
        """Both numbers, short."""
        return f"{self.soft:.4g} (softened) and {self.plain:.4g} (plain)"


def distillation(reference: Tensor, other: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean divergence of softened answers from the float network's; differentiable.

    Equation: T^2 KL(softmax(reference / T) || softmax(other / T)), averaged over rows; where a row
    is a single number, and its softmax says nothing, the mean squared difference relative to the
    reference's energy.
    Reference: Hinton et al., arXiv 1503.02531, section 2; Hubara et al. 2020, section 3.3
    (no labels).
    """
    a, b = class_rows(reference), class_rows(other)
    if a.shape[-1] > 1:
        return kl_divergence(a / temperature, b / temperature) * temperature**2
    energy = a.double().square().mean().clamp_min(1e-30)
    return (a.double() - b.double()).square().mean() / energy


@dataclass(frozen=True, eq=False)
class Judge:
    """The float network's answers to the held-out samples, and how soft they are to be taken.

    Answers that take much memory, such as a score for every pixel, are computed when needed.
    """

    graph: ModelGraph
    batches: Open
    known: tuple[Compared, ...]
    temperature: float
    gauge: Gauge | None = None

    @classmethod
    def of(cls, graph: ModelGraph, batches: Open) -> Judge:
        """Answer with the float network; the temperature follows the spread of its scores.

        Several outputs are each softened, and measured, by their own spread (`graph.gauge`).

        Equation: T = max(1, 3 std), std the mean over rows of the standard deviation of the scores
        in a row: about 3 for EfficientNet-Lite0, 25 for CIFAR networks that are sure of every
        answer. At T = 1 a few samples and classes make the loss; biases fitted to them do not help
        elsewhere (measured on calibration images kept apart).
        """
        known: list[Compared] = []
        spread, rows, held, passes = 0.0, 0, 0, 0
        sums = GaugeSums.of(graph.answer.heads)
        for flat in batches():
            answer = graph.answer.of(walk(graph.module, flat))
            if isinstance(answer, Tensor):
                scores = class_rows(answer).double()
                spread += float(scores.std(dim=-1, correction=0).sum())
                rows += scores.shape[0]
            else:
                sums.add(answer)
            passes += 1
            held += sum(part.numel() * part.element_size() for part in as_parts(answer))
            known = [*known, answer] if held <= ANSWER_BYTES else []
        spread *= SOFTNESS / max(rows, 1)
        complete = tuple(known) if len(known) == passes else ()
        if graph.answer.heads:
            gauge = sums.gauge()
            return cls(graph, batches, complete, gauge.temperature, gauge)
        return cls(graph, batches, complete, max(1.0, spread) if math.isfinite(spread) else 1.0)

    def loss(self, reference: Compared, other: Compared, soft: bool = True) -> Tensor:
        """The mean loss of answers, softened or as they are, or the user's own; differentiable."""
        if self.graph.loss is not None:
            return lose_by(self.graph.loss, self.graph.answer, reference, other).mean()
        if self.gauge is not None:
            return self.gauge.losses(reference, other, soft).mean()
        assert isinstance(reference, Tensor) and isinstance(other, Tensor)
        return distillation(reference, other, self.temperature if soft else 1.0)

    def __call__(self, module: fx.GraphModule) -> Loss:
        """The loss of a network on the held-out samples, each row weighing the same."""
        soft = plain = 0.0
        rows = 0
        with torch.no_grad():
            for index, flat in enumerate(self.batches()):
                reference = self._answer(index, flat)
                answer = self.graph.answer.of(walk(module, flat))
                count = _count_rows(reference)
                soft += count * float(self.loss(reference, answer))
                plain += count * float(self.loss(reference, answer, soft=False))
                rows += count
        return Loss(soft / max(rows, 1), plain / max(rows, 1))

    def _answer(self, index: int, flat: Flat) -> Compared:
        if self.known:
            return self.known[index]
        return self.graph.answer.of(walk(self.graph.module, flat))


def _count_rows(answer: Compared) -> int:
    """How many rows of scores there are; samples, of several outputs."""
    return class_rows(answer).shape[0] if isinstance(answer, Tensor) else samples_of(answer)
