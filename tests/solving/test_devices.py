"""Observing, sums, solving and measuring on a device: nothing stays behind, results come back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bitwright.engine.device import move
from bitwright.engine.progress import Progress
from bitwright.pipeline.job import edges_of, prepare, work_on
from bitwright.pipeline.plan import choices_of, menu_of
from bitwright.pipeline.quantize import job_of_python
from bitwright.pipeline.run import begin, tune_job
from bitwright.pipeline.tabulate import solve_and_measure
from bitwright.solving import solve
from fake_device import FAKE, FakeDevice, is_fake
from networks import pictures, small_network


def begun(device: str = "cpu", **options):
    """A job with its network captured, then sent to a device."""
    own = {"method": "quadratic", "target": "paper", "scheme": "w4a8", **options}
    job = job_of_python(small_network(), [pictures(48)], None, "fixed", own)
    job, graph = begin(job, Progress())
    return replace(job, plan=job.plan.under(replace(job.recipe, device=device))), graph


def solved(device: str, mode: str, **options):
    job, graph = begun(device, mode=mode, **options)
    prepared = prepare(job, graph, menu_of(graph, job.plan), Progress())
    choices = choices_of(graph, job.plan)
    work = work_on(job, prepared, {name: (c,) for name, c in choices.items()})
    return solve(work, mode, edges_of(job, prepared, choices), lambda _: None).configuration()


def same(found, want, least=0.9):
    assert found.solved.keys() == want.solved.keys()
    for name, solution in found.solved.items():
        other = want.solved[name]
        assert float((solution.q == other.q).float().mean()) > least, name
        assert solution.q.device.type == "cpu" and not is_fake(solution.q)


@pytest.mark.parametrize("options", [{}, {"activation_range": "output"}], ids=["", "output"])
@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_no_tensor_stays_behind_while_units_are_solved(mode, options):
    """Every operation of passes, sums and solving has its tensors in one place, or raises."""
    with FakeDevice() as device:
        found = solved(str(FAKE), mode, **options)
    assert device.count > 1000
    same(found, solved("cpu", mode, **options))


def test_a_menu_is_measured_there():
    options = {"menu": "w8a8,w2a8", "budget": "size<=0.2", "mode": "parallel"}

    def table(device):
        job, graph = begun(device, **options)
        prepared = prepare(job, graph, menu_of(graph, job.plan), Progress())
        return solve_and_measure(job, prepared, Progress())[1]

    with FakeDevice() as device:
        found = table(str(FAKE))
    assert device.count > 1000
    losses = [[row.loss_delta for row in t.rows if row.loss_delta is not None]
              for t in (found, table("cpu"))]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=0.05, abs=1e-4)


@pytest.mark.parametrize(
    "step",
    ["bn", "refine", *(pytest.param(s, marks=pytest.mark.slow) for s in ("bias", "scales"))],
)
def test_a_tuning_step_does_there_what_it_does_here(step):
    """A step that computes there, and the one that solves again; those that learn are slow."""

    def tuned(device):
        job, graph = begun(device, tune=step, mode="parallel")
        prepared = prepare(job, graph, menu_of(graph, job.plan), Progress())
        choices = choices_of(graph, job.plan)
        work = work_on(job, prepared, {name: (c,) for name, c in choices.items()})
        edges = edges_of(job, prepared, choices)
        start = solve(work, "parallel", edges, lambda _: None).configuration()
        return tune_job(job, prepared, start, Progress())

    with FakeDevice():
        found = tuned(str(FAKE))
    want = tuned("cpu")
    assert found.figures()[-1].loss_after == pytest.approx(want.figures()[-1].loss_after, rel=0.05)
    same(found.configuration, want.configuration)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_on_a_real_device(mode):
    same(solved("cuda", mode), solved("cpu", mode))


def test_what_is_moved_is_told_by_its_tensors():
    value = {"a": (torch.ones(2), [1, "x"]), "b": None}
    with FakeDevice():
        there = move(value, str(FAKE))
        assert is_fake(there["a"][0]) and there["a"][1] == [1, "x"]
