"""What a run has before it: the true number of its samples, and the weight of its stages."""

from __future__ import annotations

import time

from bitwright.engine.forecast import Forecast
from bitwright.graph.model_graph import ModelGraph
from bitwright.pipeline.plan import Plan, menu_of
from bitwright.sources.batches import Dataset
from bitwright.tuning.catalogue import ABOUT

# Counting reads the data once: whoever reads slowly is not kept waiting for a number.
PATIENCE_S = 3.0
_VERIFIED = 1000
# Passes over the calibration samples that a stage amounts to, about: statistics, two networks side
# by side, ONNX Runtime twice beside the simulation, a tuning step with and without a backward pass.
_OBSERVE, _EVALUATE, _VERIFY, _BACKWARD, _FORWARD = 2.0, 3.0, 4.0, 20.0, 5.0
_SOLVE, _SOLVE_WITHOUT_DATA = 4.0, 0.2


def count_samples(dataset: Dataset, most: int = 0, patience: float = PATIENCE_S) -> int | None:
    """How many samples a pass over the data gives, `most` at most; None where counting takes long.

    Args:
        dataset: what to count.
        most: samples used at most; 0 for all.
        patience: seconds that it may take.
    """
    until = time.monotonic() + patience
    found = 0
    for batch in dataset:
        found += batch.size
        if most and found >= most:
            return most
        if time.monotonic() > until:
            return None
    return found


def forecast(graph: ModelGraph, plan: Plan, data: Dataset, evaluation: Dataset | None) -> Forecast:
    """The totals and the weights of the stages of a run, in samples through the float network."""
    samples = count_samples(data, plan.recipe.calib)
    judged = samples if evaluation is None else count_samples(evaluation)
    known = {"observe": samples, "evaluate": judged}
    known["verify"] = None if samples is None else min(samples, _VERIFIED)
    totals = {name: count for name, count in known.items() if count}
    calib = plan.recipe.calib
    return Forecast(totals, _works(graph, plan, samples or calib, judged or calib))


def _works(graph: ModelGraph, plan: Plan, samples: int, judged: int) -> dict[str, float]:
    solving = _SOLVE if plan.method.needs.data else _SOLVE_WITHOUT_DATA
    choices = sum(map(len, menu_of(graph, plan).values())) if plan.menu else 0
    works = {"observe": _OBSERVE * samples}
    if choices:
        measured = min(samples, plan.recipe.table_samples or samples)
        works["solve the menu"] = solving * samples * choices / max(1, len(graph.units))
        # A choice of a unit is measured on what is downstream of it: half the network, on average.
        works["table"] = measured * choices / 2
    works["solve"] = solving * samples
    for step in plan.tune:
        # Of a step of the caller's own it is not known what it does.
        known = ABOUT.get(step) if isinstance(step, str) else None
        name = step if isinstance(step, str) else step.name
        works[f"tune {name}"] = (_BACKWARD if known and known.backward else _FORWARD) * samples
    works["evaluate"] = _EVALUATE * judged
    works["verify"] = _VERIFY * min(samples, _VERIFIED)
    return works
