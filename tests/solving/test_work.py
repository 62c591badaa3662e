"""What a method is shown of a unit, and what comes back into the network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from runs_of import ADAQUANT, QUADRATIC, Odd, Residual, run_of, solving_of, tiny
from torch import nn

from bitwright.errors import DataError
from bitwright.graph.simulate import stitch
from bitwright.methods.adaquant import AdaQuant
from bitwright.solving import bind_batches
from bitwright.solving.work import inputs_key, problem_of
from networks import normal, pictures, seeded


def shown(net, data, **options):
    """The problems of a parallel run, by unit."""
    work = run_of(net, data, "w4a4", method=ADAQUANT, **options).work
    return work, {
        name: problem_of(work, work.graph.unit(name), choice, work.grids[name, choice], None)
        for name, choice in work.tasks()
    }


def test_what_follows_a_unit_and_whose_its_input_is():
    _, problems = shown(seeded(Odd).eval(), pictures(40, seed=1, size=16))
    names = {n: p.activation.name if p.activation else None for n, p in problems.items()}
    assert names == {
        "stem": "relu", "twice": "relu", "between": None, "gate": "sigmoid", "up": None,
        "padded": None, "head": None,
    }  # fmt: skip
    # A weight that is used twice has two inputs: their grids are not for one solution to move.
    assert {n for n, p in problems.items() if not p.free_inputs} == {"twice"}
    assert len(problems["twice"].inputs) == 2


def test_an_input_that_a_sum_reads_too_is_not_free():
    work, problems = shown(seeded(Residual).eval(), tiny(), target="ort-cpu")
    assert problems["stem"].free_inputs and not problems["body.1"].free_inputs
    assert work.shared_inputs(work.graph.unit("body.1"))


def test_seeds_tell_units_choices_methods_and_runs_apart():
    net = seeded(Residual).eval()
    seeds = set()
    for menu, seed, method in (
        ("w4a4,w2a4", 0, QUADRATIC), ("w4a4", 1, QUADRATIC), ("w4a4", 0, ADAQUANT),
    ):  # fmt: skip
        work = run_of(net, tiny(), menu, method=method, seed=seed).work
        for name, choice in work.tasks():
            unit = work.graph.unit(name)
            seeds.add(problem_of(work, unit, choice, work.grids[name, choice], None).seed)
    assert len(seeds) == 4 * len(work.graph.units)


class OwnBiases(nn.Module):
    """One weight, two calls, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.one = nn.Parameter(torch.randn(6) + 3)
        self.other = nn.Parameter(torch.randn(6) - 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        first = nn.functional.linear(x, self.weight, self.one)
        second = nn.functional.linear(x.flip(1), self.weight, self.other)
        return self.head(torch.relu(first) - torch.relu(second))


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
@pytest.mark.parametrize("method", [QUADRATIC, ADAQUANT], ids=["quadratic", "adaquant"])
def test_calls_with_a_bias_each_keep_theirs(mode, method):
    """There is no one bias to solve for; one put in place of both would break the network."""
    net, data = seeded(OwnBiases).eval(), normal(40, 6, seed=1)
    run = run_of(net, data, "w8a8", mode, method=method)
    found, _ = run.solved()
    by_name = {name: solution for (name, _), solution in found.items()}
    assert by_name["weight"].method == "nearest" and by_name["weight"].bias is None
    module = stitch(run.work.graph, run.assignment())
    with torch.no_grad():
        error = (module(data) - net(data)).square().mean() / net(data).square().mean()
    assert error < 0.02


def test_inputs_as_a_plain_value():
    run = run_of(seeded(Residual).eval(), tiny(), "w4a4")
    (grid,) = run.work.grids["stem", run.work.menu["stem"][0]]
    key = inputs_key((grid, None))
    assert key == ((4, float(grid.scale), int(grid.zero_point)), None) and hash(key)
    assert inputs_key((replace(grid, scale=grid.scale * 2),)) != inputs_key((grid,))


def test_tasks_are_in_the_networks_order_without_float_ones():
    run = run_of(seeded(Residual).eval(), tiny(), "w8a8,float,w4a4", keep={"stem": "float"})
    names = [name for name, _ in run.work.tasks()]
    assert names == [n for i in range(4) for n in [f"body.{i}"] * 2] + ["head"] * 2


def test_a_method_that_learns_is_given_rows_and_one_that_sums_is_not(monkeypatch):
    run = run_of(seeded(Residual).eval(), tiny(), "w4a4", method=ADAQUANT)
    with solving_of(monkeypatch, AdaQuant) as given:
        run.solved()
    assert all(p.samples is not None and p.samples_apart is not None for p in given)
    with solving_of(monkeypatch, type(QUADRATIC)) as given:
        run.but(method=QUADRATIC).solved()
    assert all(p.samples is None and p.gram is not None for p in given)


def test_batches_are_checked_against_what_the_network_takes():
    work = run_of(seeded(Residual).eval(), tiny(), "w4a4").work
    assert sum(1 for _ in work.batches()) == 10 and sum(1 for _ in work.batches()) == 10
    wrong = bind_batches(work.graph, lambda: iter([(torch.zeros(2, 4, 8, 8),)]))
    with pytest.raises(DataError, match="has shape"):
        next(wrong())
