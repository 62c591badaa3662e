"""The samples of a promise in three parts, and the file judged by those that took no part."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from bitwright.engine.progress import Progress
from bitwright.errors import DataError, RecipeError
from bitwright.evaluation.evidence import gather_evidence
from bitwright.evaluation.forward import outcome_of
from bitwright.evaluation.metrics import Metric
from bitwright.evaluation.promise import (
    Evidence,
    Finding,
    estimate_of,
    is_refuted,
    judge_best,
    judge_promise,
    keeps,
    share_of_error,
)
from bitwright.evaluation.promised import LookRecord
from bitwright.export import rundir
from bitwright.export.file_network import FileNetwork
from bitwright.export.runtimes import RUNTIMES, RuntimeRefusal
from bitwright.graph.model_graph import ModelGraph
from bitwright.pipeline.job import Job
from bitwright.pipeline.result import Result
from bitwright.recipe.promises import AGREEMENT, KL, Promise
from bitwright.sources.apart import keys_of, skip, without
from bitwright.sources.batches import Dataset, rebatch, take
from bitwright.sources.lengths import batch_by_length

# One calibration sample in so many judges what is kept; nothing is solved or observed on it.
JUDGES = 4
# Fewer samples than this have no parts.
LEAST = 8
NO_METRIC: Metric | None = None


@dataclass(frozen=True, eq=False)
class Parts:
    """Samples for each purpose; those of the proof are none of the others.

    Attributes:
        fit: solves, observes ranges, tunes and makes tables.
        judge: decides what is kept.
        proof: judges the file.
        proof_samples: how many there are.
        judged, proven: where the last two come from, in words.
    """

    fit: Dataset
    judge: Dataset
    proof: Dataset
    proof_samples: int
    judged: str
    proven: str


def part_samples(job: Job, promise: Promise) -> Parts:
    """The calibration data, and those of --eval where there are any, in three parts.

    Raises:
        RecipeError: a promise that needs labels, and no --eval; no samples at all.
        DataError: too few samples, or no sample for the proof that calibration has not seen.
    """
    if job.data.is_none:
        raise RecipeError(
            f"--promise {promise.text!r} is judged by samples, and --data is none. Give --data D."
        )
    if job.evaluation is None and promise.name not in (AGREEMENT, KL):
        raise RecipeError(
            f"--promise {promise.text!r} needs labels. Give --eval D with labels and --metric M, "
            "or promise 'agreement>=99%' or 'kl<=0.01', which need none."
        )
    keys, most = keys_of(job.data), job.recipe.calib or 1 << 62
    if job.evaluation is not None:
        used = min(len(keys), most)
        apart = _apart(job.evaluation, keys[:used])
        proven = "the evaluation data"
    else:
        used = min(len(keys) // 2, most)
        _check_count(used, job.data.spec)
        start = len(keys) - len(keys) // 2
        apart = _apart(skip(job.data, start), keys[:used])
        proven = f"the last {len(keys) - start} of {len(keys)} calibration samples"
    _check_count(used, job.data.spec)
    fit = used - used // JUDGES
    return Parts(
        take(job.data, fit),
        take(skip(job.data, fit), used - fit),
        *apart,
        judged=f"{used - fit} of the calibration samples",
        proven=proven,
    )


def _check_count(used: int, spec: str) -> None:
    if used < LEAST:
        raise DataError(
            f"--promise: {used} samples of {spec} are left to solve with and to choose by, and "
            f"{LEAST} are the least. Give more by --data, or samples for the proof by --eval."
        )


def _apart(proof: Dataset, known: Iterable[str]) -> tuple[Dataset, int]:
    """The samples that calibration does not know, and how many there are."""
    seen, own = frozenset(known), keys_of(proof)
    fresh = sum(key not in seen for key in own)
    if not fresh:
        raise DataError(
            f"--promise: every sample of {proof.spec} is a calibration sample too, and what took "
            "part proves nothing. Give --eval other samples than --data."
        )
    return (proof if fresh == len(own) else without(proof, seen)), fresh


@dataclass(frozen=True)
class Judged:
    """A network on the samples that choose, in the simulation.

    Attributes:
        figure: the promise's, or what agreement says of it.
        kl: the divergence from float.
        promising: whether the proof would succeed, if its samples were as these.
        refuted: whether these samples show that the promise does not hold.
    """

    figure: float
    kl: float
    promising: bool
    refuted: bool

    def is_worse(self, other: Judged, falls: bool) -> bool:
        """Whether it is worse than another network, whose figure had better be small or large."""
        if self.figure != other.figure:
            return (self.figure > other.figure) == falls
        return self.kl > other.kl


@dataclass(eq=False)
class Prover:
    """Who judges networks and files for a promise, and counts the looks."""

    promise: Promise
    job: Job
    graph: ModelGraph
    parts: Parts
    progress: Progress
    looks: int = 0

    def judge(self, module: nn.Module) -> Judged:
        """A simulated network on the samples that choose."""
        graph, kind = self.graph, self.graph.answer.kind
        batches = batch_by_length(self.parts.judge, self.job.recipe.batch)
        metric = self.job.plan.metric if _are_labelled(self.parts.judge) else None
        float_ = outcome_of(graph, graph.module)
        found = gather_evidence(float_, outcome_of(graph, module.cpu()), batches, metric, kind)
        figure, seed = estimate_of(self.promise, found), self.job.recipe.seed
        kept = keeps(self.promise, figure)
        refuted = not kept and is_refuted(self.promise, found, seed)
        promising = kept and self._is_promising(found)
        return Judged(figure, float(found.kl.mean()), promising, refuted)

    def _is_promising(self, found: Evidence) -> bool:
        if self.promise.name not in (AGREEMENT, KL) and found.scores is None:
            return True  # without labels only a look can tell
        alpha = share_of_error(self.looks + 1)
        told = judge_promise(self.promise, found, alpha, self.job.recipe.seed)
        enough = told.needed is not None and told.needed <= self.parts.proof_samples
        return told.holds or enough

    def prove(self, result: Result) -> tuple[LookRecord, str]:
        """Look at a result's file in its target's runtime; the look, and the file's SHA-256."""
        self.looks += 1
        alpha = share_of_error(self.looks)
        with tempfile.TemporaryDirectory() as folder, self.progress.stage("prove"):
            path = result.export(Path(folder) / rundir.ONNX)
            sha = hashlib.sha256(path.read_bytes()).hexdigest()
            found = self._judge_file(path, result.target.runtime, alpha)
        return _record(found, self.looks), sha

    def _judge_file(self, path: Path, runtime: str, alpha: float) -> Finding:
        graph, kind = self.graph, self.graph.answer.kind
        batches = batch_by_length(self.parts.proof, self.job.recipe.batch)
        metric = self.job.plan.metric if self.job.evaluation is not None else NO_METRIC
        try:
            network = FileNetwork(path, graph, runtime)
            answers = outcome_of(graph, network)
            float_ = outcome_of(graph, graph.module)
            evidence = gather_evidence(float_, answers, batches, metric, kind)
        except RuntimeRefusal as refusal:
            why = f"none: {RUNTIMES[runtime].label} refuses the file: {refusal}"
            missing, count = float("nan"), self.parts.proof_samples
            return Finding(self.promise.text, False, missing, missing, alpha, count, None, why)
        return judge_promise(self.promise, evidence, alpha, self.job.recipe.seed)

    def can_show(self) -> Finding | None:
        """What float itself would show at the next look, where even that falls short."""
        alpha = share_of_error(self.looks + 1)
        found = judge_best(self.promise, self.parts.proof_samples, alpha)
        return None if found is None or found.holds else found


def _record(found: Finding, number: int) -> LookRecord:
    return LookRecord(
        number=number,
        holds=found.holds,
        estimate=found.estimate,
        bound=found.bound,
        alpha=found.alpha,
        samples=found.samples,
        needed=found.needed,
        by=found.by,
    )


def _are_labelled(dataset: Dataset) -> bool:
    return next((b.labels is not None for b in rebatch(take(dataset, 1), 1)), False)


def unpromised(job: Job, parts: Parts) -> Job:
    """The job of a single configuration: on its part of the samples, and with no promise."""
    recipe = replace(job.recipe, promise="", eval="")
    return replace(job, plan=job.plan.under(recipe), data=parts.fit, evaluation=None)
