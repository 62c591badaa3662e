"""The stages as public functions: composed by hand they give what a run gives."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import ModelError, RecipeError
from bitwright.graph.choice import Choice, parse_scheme
from bitwright.graph.simulate import Assignment
from bitwright.graph.sites import find_sites
from bitwright.methods.catalogue import method
from bitwright.numerics.ranges import range_rule
from bitwright.solving import bind_batches
from bitwright.solving.grids import share_stats
from bitwright.solving.samples import Samples, split_samples
from bitwright.tuning.catalogue import ABOUT
from networks import pictures, small_network

BATCHES = list(pictures(48, seed=1).split(8))
STAGES = ("capture", "observe", "solve", "measure_losses", "allocate", "stitch", "tune")


@dataclass(frozen=True)
class Composed:
    work: bw.Work
    samples: Samples
    edges: dict

    def grids(self, choices):
        rule = range_rule("mse")
        work = self.work
        return bw.input_grids(work.sites, work.stats, choices, work.target, rule)


@cache
def composed(*schemes: str, solver: str = "quadratic", target: str = "paper") -> Composed:
    graph, target = bw.capture(small_network(), (BATCHES[0],)), bw.load_target(target)
    sites = find_sites(graph, target)
    opened = bind_batches(graph, lambda: iter(BATCHES))
    seen = bw.observe(graph, BATCHES, {site.root for site in sites})
    stats = share_stats(graph, target, seen.stats)
    menu = {unit.name: tuple(map(parse_scheme, schemes)) for unit in graph.units}
    samples = split_samples(graph, opened)
    work = bw.Work(
        graph=graph, menu=menu, target=target, sites=sites, stats=stats, method=method(solver),
        grids=bw.task_grids(graph, menu, sites, stats, target, range_rule("mse")),
        batches=samples.fit, samples=samples.fit_count, batch=8, seed=0, count=seen.batches,
    )  # fmt: skip
    return Composed(work, samples, {})


@cache
def solved_by_hand(solver: str = "quadratic"):
    """Choices and solutions of one scheme, which each test tunes in its own way."""
    own = composed("w4a4", solver=solver)
    choices = base_of(own.work, "w4a4")
    solved = bw.solve(own.work, "parallel", own.grids(choices), lambda _: None)
    return own, solved.configuration(choices)


def base_of(work: bw.Work, scheme: str) -> dict[str, Choice]:
    return {unit.name: parse_scheme(scheme) for unit in work.graph.units}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Both ways look the steps up here: what one takes a fifth of, so does the other."""
    shorter = {
        "bias": {"iterations": 40},
        "scales": {"iterations": 40},
        "lapq": {"evaluations": 12, "norms": (2.0, 3.0)},
    }
    for name, settings in shorter.items():
        monkeypatch.setitem(ABOUT, name, replace(ABOUT[name], settings=settings))


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_public_and_says_what_it_does(name):
    stage = getattr(bw, name)
    assert name in bw.__all__ and callable(stage)
    assert len(inspect.getdoc(stage)) > 100


@pytest.mark.parametrize("steps", ["bn", "bias", "bn,bias", "scales", "refine", "bn,refine"])
def test_tuning_by_hand_is_that_of_a_run(steps):
    options = {"method": "quadratic", "scheme": "w4a4", "batch": 8, "keep": "", "tune": steps}
    options["mode"] = "parallel"
    if "refine" in steps:
        options["refine_method"] = "quadratic"
    run = bw.quantize(small_network(), BATCHES, **{"recipe": "fixed", **options})
    own, start = solved_by_hand()
    made = bw.tune(start, own.samples, steps)
    mine = made.configuration.assignment()
    same_parameters(mine, run.assignment)
    assert [r.stage for r in made.reports if r.kept] == [
        r["step"] for r in run.metrics["tuning"] if r["kept"]
    ]
    assert torch.equal(bw.stitch(own.work.graph, mine)(BATCHES[0]), run.model(BATCHES[0]))


def same_parameters(first: Assignment, second: Assignment) -> None:
    assert first.weights.keys() == second.weights.keys()
    for name, weight in first.weights.items():
        assert torch.equal(weight.q, second.weights[name].q), name
        assert torch.equal(weight.qparams.scale, second.weights[name].qparams.scale), name


def test_lapq_by_hand_is_that_of_a_run():
    options = {"recipe": "lapq", "scheme": "w4a4", "batch": 8, "keep": ""}
    run = bw.quantize(small_network(), BATCHES, **{"recipe": "fixed", **options})
    own, start = solved_by_hand("nearest")
    made = bw.tune(start, own.samples, "lapq")
    same_parameters(made.configuration.assignment(), run.assignment)


def divergence(reference: torch.Tensor, other: torch.Tensor) -> float:
    """KL(softmax(reference) || softmax(other)), mean over samples, in float64."""
    p, q = (torch.log_softmax(x.double(), -1) for x in (reference, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_the_table_holds_what_whole_networks_lose():
    own = composed("w8a8", "w4a4", "w2a8")
    work, base = own.work, base_of(own.work, "w8a8")
    edges = own.grids(base)
    solved = bw.solve(work, "parallel", edges, lambda _: None).solutions
    table = bw.measure_losses(work, solved, base, edges, BATCHES)
    data = torch.cat(BATCHES)
    wanted = work.graph.module(data)

    def loss(choices):
        network = bw.Configuration.of(work, solved, choices, edges).module()
        return divergence(wanted, network(data))

    begun = loss(base)
    for row in table.rows:
        if row.choice.is_float:
            continue
        delta = loss({**base, row.unit: row.choice}) - begun
        assert row.loss_delta == pytest.approx(delta, rel=1e-3, abs=1e-7), row


def test_bits_chosen_by_hand_hold_their_budget():
    own = composed("w8a8", "w4a8")
    base = base_of(own.work, "w8a8")
    edges = own.grids(base)
    solved = bw.solve(own.work, "parallel", edges, lambda _: None).solutions
    table = bw.measure_losses(own.work, solved, base, edges, BATCHES)
    uniform = [sum(r.weight_bits for r in table.rows if r.choice.w_bits == b) for b in (8, 4)]
    found = bw.allocate(table, f"size<={sum(uniform) / 2 / 8:.0f}B")
    assert found.status == "optimal" and len(set(found.choices.values())) == 2
    assert set(found.choices.values()) <= set(map(parse_scheme, ("w8a8", "w4a8")))
    (spent,) = found.budgets
    assert spent.used <= spent.limit
    assert bw.allocate(table, "size<=0.01").status == "infeasible"


def test_unknown_steps_are_refused():
    own = composed("w4a4")
    start = bw.Configuration(own.work, base_of(own.work, "w4a4"), {}, {})
    with pytest.raises(RecipeError, match="unknown step 'ban'"):
        bw.tune(start, own.samples, "ban")


def test_a_file_that_is_not_there_is_told_of():
    with pytest.raises(ModelError, match=r"no file 'net\.pt2'"):
        bw.quantize("net.pt2", BATCHES, recipe="fixed")


@pytest.mark.parametrize("wrong", [3, None, nn.Linear])
def test_what_is_no_network_is_refused(wrong):
    with pytest.raises(ModelError, match=r"pass a torch\.nn\.Module in eval mode"):
        bw.quantize(wrong, BATCHES, recipe="fixed")
