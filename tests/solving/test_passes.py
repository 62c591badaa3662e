"""Passes of the sequential mode as counted beforehand: those that it then makes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from bitwright.engine.progress import Progress
from bitwright.graph import replay as replaying
from bitwright.pipeline.job import edges_of, prepare, work_on
from bitwright.pipeline.plan import choices_of, menu_of
from bitwright.pipeline.quantize import job_of_python
from bitwright.pipeline.run import begin
from bitwright.solving import cuts
from bitwright.solving.passes import count_walks
from bitwright.solving.sequential import solve_sequential
from networks import pictures, small_network

SAMPLES, BATCH = 40, 8


@pytest.mark.parametrize("room", [0, 60_000, 1 << 30], ids=["none", "of some", "of all"])
def test_every_node_runs_as_often_as_was_counted(monkeypatch, room):
    """By node: samples that the float network computes it for, whatever fits into memory."""
    monkeypatch.setattr(cuts, "CUT_BYTES", room)
    monkeypatch.setattr(cuts, "WIDE_SAMPLES", 16)
    options = {"method": "quadratic", "mode": "sequential", "batch": BATCH, "target": "paper"}
    job = job_of_python(small_network(), [pictures(SAMPLES)], None, "fixed", options)
    job, graph = begin(job, Progress())
    prepared = prepare(job, graph, menu_of(graph, job.plan), Progress())
    choices = choices_of(graph, job.plan)
    work = work_on(job, prepared, {name: (c,) for name, c in choices.items()})
    units = {call for unit in graph.units for call in unit.calls}
    told = count_walks(work, dict.fromkeys(units, 1.0))

    ran: Counter[str] = Counter()
    own = replaying.compute

    def counted(module, node, values, given):
        value = own(module, node, values, given)
        if node.name in units:
            ran[node.name] += value.shape[0]
        return value

    monkeypatch.setattr(replaying, "compute", counted)
    opened = 0

    def batches():
        nonlocal opened
        for flat in work.batches():
            opened += flat[0].shape[0]
            yield flat

    with torch.no_grad():
        edges = edges_of(job, prepared, choices)
        solve_sequential(replace(work, batches=batches), edges, lambda _: None)
    # The float and the quantised network both run.
    assert told.cost * 2 == sum(ran.values())
    assert opened >= told.read > 0
