"""Whether a mended file is nearer to the float network: a paired test on samples held out.

Equation: of every sample's loss under both files the differences d_i = after_i - before_i; a change
is kept where the upper bound of their mean, with 90 % confidence, is below zero. The loss is the
softened divergence of scores, and of other outputs the squared error of their own spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor

from bitwright.diagnosis.file_graph import FileGraph
from bitwright.diagnosis.file_match import Matching
from bitwright.engine.record import Record
from bitwright.errors import InputError
from bitwright.graph.execute import class_rows
from bitwright.numerics.confidence import bound_mean_above
from bitwright.numerics.head_losses import Spread, SpreadSums, lose_scores, square_errors
from bitwright.numerics.losses import agreement
from bitwright.pipeline.file_data import FileData
from bitwright.pipeline.file_values import GROUP_BYTES, Arrays, TensorTally, load_model
from bitwright.pipeline.mend_units import feed_both

# The chance that a change which brings nothing is kept.
ALPHA = 0.1
# Of fewer differences no bound holds: a bootstrap draws them from one another.
LEAST = 8
# Samples at most that are learnt from, and that units are judged by: what is left judges the whole.
LEARN, CHOOSE = 192, 128


@dataclass(frozen=True, eq=False, kw_only=True)
class FileAgreement(Record):
    """A file beside the float network on samples that nothing was learnt from or chosen by.

    Attributes:
        samples: how many.
        agreement: the share of rows whose largest entry is the float network's.
        difference: of the outputs, relative.
        divergence: the mean loss of a sample, which the test is of.
    """

    samples: int
    agreement: float
    difference: float
    divergence: float

    def is_worse(self, other: FileAgreement) -> bool:
        """Whether a figure is."""
        return self.agreement < other.agreement or self.difference > other.difference


@dataclass(frozen=True, eq=False)
class JudgedFile:
    """A file's figures, and its loss on every sample."""

    figures: FileAgreement
    losses: np.ndarray

    def surely_beats(self, other: JudgedFile, alpha: float = ALPHA) -> bool:
        """Whether the mean loss is lower with confidence 1 - alpha, sample beside sample."""
        gaps = self.losses - other.losses
        if len(gaps) < LEAST or not np.isfinite(gaps).all():
            return False
        return bool(gaps.any()) and bound_mean_above(gaps, alpha) < 0.0


class FileJudge:
    """Samples held out and the float network's answers to them."""

    def __init__(self, reference: FileGraph, matching: Matching, data: FileData) -> None:
        self.reference, self.matching, self.data = reference, matching, data
        self._file = load_model(reference.model, optimized=True)
        self._kept: dict[int, Arrays] = {}
        self._held = 0
        sums: dict[str, SpreadSums] = {}
        for index in range(len(data.batches)):
            for name, value in self._answers(index).items():
                if value.dtype.kind == "f" and value.ndim > 1:
                    sums.setdefault(name, SpreadSums()).add(_rows(value, len(value)))
        self.spreads = {name: own.spread() for name, own in sums.items()}

    def _answers(self, index: int) -> Arrays:
        """The float network's outputs, which are kept as far as they fit."""
        if index in self._kept:
            return self._kept[index]
        found = dict(
            zip(self.reference.outputs, self._file.run(self.data.batches[index]), strict=True)
        )
        size = sum(value.nbytes for value in found.values())
        if self._held + size <= GROUP_BYTES:
            self._kept[index] = found
            self._held += size
        return found

    def judge(self, model: onnx.ModelProto) -> JudgedFile:
        """A file as users run it, beside the float network."""
        graph, file = FileGraph(model), load_model(model, optimized=True)
        tally, hits, losses = TensorTally(), [0.0, 0.0], []
        for index, (feed, count) in enumerate(
            zip(self.data.batches, self.data.counts, strict=True)
        ):
            own = feed_both(feed, self.matching, graph)[1]
            values = dict(zip(graph.outputs, file.run(own), strict=True))
            pairs = list(self._pairs(self._answers(index), values))
            for _, a, b in pairs:
                tally.add(a.astype(np.float64), b.astype(np.float64), count)
                if a.ndim > 1:
                    here = agreement(*(_rows(v, 1)[0] for v in (a, b)))
                    hits = [total + one for total, one in zip(hits, here, strict=True)]
            losses.append(self._lose(pairs, count))
        every = np.concatenate(losses)
        return JudgedFile(
            FileAgreement(
                samples=sum(self.data.counts),
                agreement=hits[0] / hits[1] if hits[1] else 1.0,
                difference=tally.difference,
                divergence=float(every.mean()),
            ),
            every,
        )

    def _pairs(
        self, answers: Arrays, values: Arrays
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Outputs of floats of both files."""
        for one, other in self.matching.outputs:
            a, b = np.asarray(answers[one]), np.asarray(values[other])
            if a.dtype.kind == "f" and a.shape == b.shape:
                yield one, a, b

    def _lose(self, pairs: Sequence[tuple[str, np.ndarray, np.ndarray]], count: int) -> np.ndarray:
        """The loss of each sample, over outputs; of a batch where samples are not their rows."""
        pairs = [pair for pair in pairs if pair[1].ndim > 1]
        apart = all(len(a) == count for _, a, _ in pairs)
        total = np.zeros(count if apart else 1)
        for name, a, b in pairs:
            total += lose_samples(a, b, self.spreads[name], len(total))
        return total


def lose_samples(a: np.ndarray, b: np.ndarray, spread: Spread, samples: int) -> np.ndarray:
    """The loss of each sample of one output: of scores the softened divergence."""
    one, other = _rows(a, samples), _rows(b, samples)
    if a.ndim == 2 and a.shape[1] > 1:
        return lose_scores(one, other, spread).numpy()
    return (square_errors(one, other) / spread.variance).mean(1).numpy()


def _rows(value: np.ndarray, samples: int) -> Tensor:
    """An output as [samples, rows, channels]."""
    rows = class_rows(torch.from_numpy(value.astype(np.float32)))
    return rows.reshape(samples, -1, rows.shape[-1])


def split_data(given: FileData) -> tuple[FileData, FileData, FileData]:
    """Batches to learn from, to judge units by, and to judge the whole by.

    Of four batches two are learnt from and one judges units, up to LEARN and CHOOSE samples; the
    others judge the whole.

    Raises:
        InputError: fewer than three batches.
    """
    if len(given.batches) < 3:
        raise InputError(
            "mend learns from some samples and judges by others, units and the whole by their own: "
            "give 24 or more (some hundreds are usual), or three batches."
        )
    parts: tuple[list[int], ...] = ([], [], [])
    filled = [0, 0, 0]
    for index, count in enumerate(given.counts):
        last = index == 2 and len(given.batches) == 3
        part = 2 if last else (0, 1, 0, 2)[index % 4]
        if part < 2 and parts[part] and filled[part] + count > (LEARN, CHOOSE)[part]:
            part = 2
        parts[part].append(index)
        filled[part] += count
    return tuple(  # type: ignore[return-value]
        FileData(tuple(given.batches[i] for i in own), tuple(map(str, range(total))))
        for own, total in zip(parts, filled, strict=True)
    )
