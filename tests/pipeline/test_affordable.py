"""Budgets that nothing can hold are refused at capture; what is told is what would be measured."""

from __future__ import annotations

import pytest

import bitwright as bw
from bitwright.allocation.allocate import allocate
from bitwright.allocation.latency_table import Conditions, LatencyCell, LatencyTable
from bitwright.engine.progress import Progress
from bitwright.errors import BudgetError, RecipeError
from bitwright.graph.choice import FLOAT
from bitwright.pipeline.affordable import check_budgets, check_latency, costs_of
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.job import Job, capture_job, rewrite_network
from bitwright.pipeline.plan import Plan, menu_of
from bitwright.sources.data import as_dataset
from networks import pictures, small_network

MENU = "w8a8,w4a8,w2a8"


def batches():
    return [pictures(16, seed=1)[i : i + 8] for i in range(0, 16, 8)]


def quantise(progress=None, **options):
    options = {"mode": "parallel", "batch": 8, "menu": MENU, **options}
    return bw.quantize(
        small_network(), batches(), progress=progress, **{"recipe": "fixed", **options}
    )


def prepared_job(**options):
    plan = Plan.of(make_recipe("fixed", {"mode": "parallel", "batch": 8, "menu": MENU, **options}))
    job, graph = capture_job(Job(small_network(), as_dataset(batches()), plan))
    graph = rewrite_network(job, graph, Progress())
    return job, graph, menu_of(graph, plan)


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("size<=0.01", "size: least attainable"),
        ("size<=10B", "80 bit .* asked"),
        ("bops<=0.001", "bops: least attainable"),
        ("bops<=10BOP", "10 BOP asked"),
        ("energy<=0.001", "energy: least attainable"),
        ("size<=0.9 and bops<=0.001", "bops: least attainable .* with the other budgets held"),
        ("loss<=0.5 and size<=0.01", "size: least attainable"),
    ],
)
def test_an_unattainable_budget_is_told_before_anything_is_observed(budget, told):
    progress = Progress()
    more = {"minimize": "bops"} if "loss" in budget else {}
    with pytest.raises(BudgetError, match=told):
        quantise(progress, budget=budget, **more)
    assert [stage.name for stage in progress.stages] == ["capture"]


def test_a_cost_that_is_not_there_is_told_at_once():
    progress = Progress()
    with pytest.raises(RecipeError, match=r"unknown cost 'sizes'.*Did you mean 'size'"):
        quantise(progress, budget="sizes<=0.5")
    assert progress.stages == []


@pytest.mark.parametrize("target", ["paper", "ort-cpu", "weights-only"])
def test_what_is_told_to_be_the_least_can_be_had(target):
    """The remedy of the message holds in the end: costs at capture are those of the run."""
    menu = "w8afloat,w4afloat" if target == "weights-only" else "w8a8,w4a8"
    options = {"target": target, "menu": menu, "scheme": menu.split(",")[0]}
    with pytest.raises(BudgetError) as told:
        quantise(budget="size<=0.01 and bops<=0.9", **options)
    remedy = str(told.value).split("--budget '")[1].split("'")[0]
    result = quantise(budget=remedy, **options)
    job, graph, own = prepared_job(budget=remedy, **options)
    costs = costs_of(job, graph, own)
    known = {(r.unit, r.choice): r for r in (*costs.rows, *costs.references)}
    for row in (*result.table.rows, *result.table.references):
        seen = known[row.unit, row.choice]
        assert (row.weight_bits, row.bops, row.energy_pj) == (
            seen.weight_bits, seen.bops, seen.energy_pj,
        )  # fmt: skip
    assert {c["w_bits"] for c in result.allocation["choices"].values()} == {4}


def test_ties_and_kept_units_count():
    job, graph, menu = prepared_job(budget="size<=0.5", keep="head=w8a8", ties="stem|project")
    costs = costs_of(job, graph, menu)
    assert len(costs.of("head")) == 1 and costs.of("stem")[0].group == costs.of("project")[0].group
    with pytest.raises(BudgetError, match="kept units take part of it: head at w8a8"):
        quantise(budget="size<=0.05", keep="head=w8a8")


def test_a_budget_of_latency_is_refused_once_the_menu_is_timed():
    job, graph, menu = prepared_job(budget="latency<=1ms and size<=0.9")
    check_budgets(job, graph, menu)
    costs = costs_of(job, graph, menu)
    cells = {(r.unit, r.choice): LatencyCell(1.0) for r in (*costs.rows, *costs.references)}
    here = Conditions("paper", 1, 1, "some processor", "1.0")
    table = LatencyTable(costs.units, cells, {FLOAT: 0.0}, here)
    with pytest.raises(BudgetError, match="latency: least attainable"):
        check_latency(job, graph, menu, {"latency": table})
    job, *_ = prepared_job(budget="latency<=100ms and size<=0.9")
    check_latency(job, graph, menu, {"latency": table})
    assert allocate(costs, "size<=0.9", advise=False).rows is not None
