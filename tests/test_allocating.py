"""Mixed precision from end to end: the menu solved, the table measured, bits allocated."""

from __future__ import annotations

import json

import pytest
import torch

import bitwright as bw
from bitwright.errors import BitwrightError, RecipeError
from bitwright.search.table import read_table
from networks import pictures, small_network

MENU = "w8a8,w4a8,w2a8"


def batches():
    return [pictures(64, seed=1)[i : i + 16] for i in range(0, 64, 16)]


def mixed(budget, menu=MENU, **options):
    options = {"method": "quadratic", "mode": "parallel", "batch": 8, **options}
    return bw.quantize(small_network(width=64), batches(), menu=menu, budget=budget, **options)


@pytest.fixture(scope="module")
def result():
    return mixed("size<=0.2")


def test_the_file_on_disk_holds_the_budget(result, tmp_path):
    run = result.save(tmp_path / "run", verify=False)
    size = run["model.safetensors"].stat().st_size
    floats = 4 * sum(u.params for u in result.graph.units)
    record = json.loads(run["allocation.json"].read_text())
    assert record["status"] == "optimal"
    assert 8 * size <= record["budgets"]["size"]["limit"] <= 0.2 * 8 * floats


def test_table_has_a_measured_row_for_every_choice(result, tmp_path):
    run = result.save(tmp_path / "run", verify=False)
    table = read_table(run["table.csv"])
    assert len(table.rows) == 3 * len(result.graph.units)
    assert all(row.loss_delta is not None and row.loss_stderr is not None for row in table.rows)
    assert all(row.loss_delta == 0 for row in table.rows if str(row.choice) == "w8a8")


def test_never_worse_than_uniform_where_both_are_run(result):
    losses = result.allocation["measured_loss"]
    assert losses["allocation"] <= losses.get("uniform", float("inf")) or result.allocation["note"]


def test_uniform_is_taken_where_the_sum_of_single_losses_misleads(monkeypatch):
    from bitwright import allocating

    told = iter([2.0, 1.0])
    monkeypatch.setattr(allocating.Base, "kl", lambda self, choices: next(told))
    found = mixed("size<=0.2")
    bits = {(c["w_bits"], c["a_bits"]) for c in found.allocation["choices"].values()}
    assert len(bits) == 1
    assert "misled" in found.allocation["note"]


def test_same_bits_again_and_from_the_store(tmp_path):
    one, other = (mixed("size<=0.2", store=tmp_path / "store") for _ in range(2))
    assert one.allocation["choices"] == other.allocation["choices"]
    for name, solved in one.assignment.weights.items():
        assert torch.equal(solved.q, other.assignment.weights[name].q)


def test_sequential_solves_the_allocation_again():
    parallel, sequential = (mixed("size<=0.2", mode=m) for m in ("parallel", "sequential"))
    assert parallel.allocation["choices"] == sequential.allocation["choices"]
    same = [
        torch.equal(s.q, sequential.assignment.weights[n].q)
        for n, s in parallel.assignment.weights.items()
    ]
    assert not all(same)


def test_kept_units_keep_their_choice():
    found = mixed("size<=0.3", keep="last=w8a8")
    last = found.graph.units[-1].name
    assert found.allocation["choices"][last] == {"w_bits": 8, "a_bits": 8, "points": 1}
    assert len([r for r in found.table.rows if r.unit == last]) == 1


def test_float_may_be_on_the_menu():
    found = mixed("size<=0.9", menu="w8a8,float", scheme="w8a8")
    assert torch.isfinite(found.model(pictures(2, seed=3))).all()


def test_unattainable_budget_says_what_is_attainable():
    with pytest.raises(BitwrightError, match="least attainable"):
        mixed("size<=0.01")


@pytest.mark.parametrize(("menu", "budget"), [(MENU, ""), ("", "size<=0.2")])
def test_menu_and_budget_go_together(menu, budget):
    with pytest.raises(RecipeError, match="without"):
        mixed(budget, menu=menu)
