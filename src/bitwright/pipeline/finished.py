"""What is asked of a finished file before it gets its name."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from bitwright.engine.progress import Progress
from bitwright.evaluation.figures import Figures
from bitwright.export import rundir
from bitwright.export.floor import FLOOR, judge_floor
from bitwright.export.generation import Staged
from bitwright.export.samples import verification_batches
from bitwright.export.verified import Verification
from bitwright.graph.model_graph import ModelGraph
from bitwright.report.promise_words import word_rejection
from bitwright.sources.batches import Dataset


def find_rejection(
    found: Verification, path: Path, graph: ModelGraph, data: tuple[Dataset, int], runtime: str
) -> Verification:
    """The verification, with whether the file answers at random.

    Args:
        found: by the verification, which tells where nothing is to be feared.
        path: the file.
        graph: the float network.
        data: whose first so many samples are run.
        runtime: of the target.
    """
    agreement = found.float_agreement
    other = found.as_run.agreement if found.as_run is not None else 1.0
    # What agrees with float here, and there with here, agrees with float there too.
    if agreement is None or agreement + other - 1.0 >= FLOOR:
        return found
    return replace(found, rejected=judge_floor(path, graph, verification_batches(*data), runtime))


def put_aside(new: Staged, found: Verification, force: bool, progress: Progress) -> Verification:
    """Take a rejected file's name away; by force it stays, under a name that says so."""
    if found.rejected is None:
        return found
    rejected = replace(found.rejected, written=force)
    progress.note("verify", word_rejection(rejected))
    if force:
        new[rundir.ONNX].replace(new[rundir.REJECTED])
    else:
        new[rundir.ONNX].unlink()
    return replace(found, rejected=rejected)


def compare_with_proven(metrics: Figures, path: Path) -> Figures:
    """The figures; a promise does not hold in another file than the one that it was proven of."""
    found = metrics.promise
    if found is None or hashlib.sha256(path.read_bytes()).hexdigest() == found.file:
        return metrics
    told = f"{found.asked} is NOT SHOWN: the file that was written is not the one that was judged."
    return replace(metrics, promise=replace(found, holds=False, told=told))
