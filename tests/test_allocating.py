"""Mixed precision from end to end: the menu solved, the table measured, bits allocated."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch

import bitwright as bw
from bitwright.errors import BitwrightError, BudgetError, RecipeError
from bitwright.export.latency import predict
from bitwright.export.latency_csv import latency_text, read_latencies
from bitwright.graph.choice import FLOAT, Choice
from bitwright.search.cost import weight_bits
from bitwright.search.energy import energy_pj, energy_table
from bitwright.search.latency import in_nanoseconds
from bitwright.search.table import read_table
from bitwright.table_commands import Request, run_allocate
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
    monkeypatch.setattr(allocating.Base, "loss", lambda self, choices: next(told))
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


# ---- costs -----------------------------------------------------------------------------------


def test_energy_may_be_bounded():
    found = mixed("energy<=0.2")
    (spent,) = found.allocation["budgets"].values()
    chosen = {row.unit: row for row in found.chosen()}
    assert spent["used"] <= spent["limit"] == pytest.approx(0.2 * spent["float"], abs=0.001)
    assert spent["used"] == pytest.approx(sum(row.energy_pj for row in chosen.values()))
    floats = {row.unit: row for row in found.table.references}
    assert spent["float"] == pytest.approx(sum(row.energy_pj for row in floats.values()))
    stem = found.graph.units[0]
    # 3 x 16 x 16 numbers are read: at 8 bits a quarter of what they take in float.
    moved = {bits: 3 * 16 * 16 * bits / 8 * energy_table()["activation_byte"] for bits in (8, 32)}
    base = next(row for row in found.table.of(stem.name) if str(row.choice) == "w8a8")
    bits = weight_bits(stem.params, stem.shape[0], base.choice, zero_points=True)
    alone = energy_pj(stem.macs, bits, base.choice)
    assert base.energy_pj == pytest.approx(alone + moved[8], abs=0.001)
    assert floats[stem.name].energy_pj == pytest.approx(
        energy_pj(stem.macs, 32 * stem.params, FLOAT) + moved[32], abs=0.001
    )


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    from bitwright import menu_latency

    folder = tmp_path_factory.mktemp("timed")
    quick = replace(menu_latency.SETTINGS, repetitions=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(menu_latency, "SETTINGS", quick)
        result = mixed("latency<=100ms", menu="w8a8,float", target="ort-cpu", store=folder / "s")
        again = mixed("latency<=100ms", menu="w8a8,float", target="ort-cpu", store=folder / "s")
    return result, again, result.save(folder / "run", verify=False).path


def test_latency_is_measured_where_it_is_bounded(timed):
    result, again, _ = timed
    table = result.latency
    assert table.units == tuple(u.name for u in result.graph.units)
    for row in result.table.rows:
        assert row.latency_ms == in_nanoseconds(table.own(row.unit, row.choice)) > 0
    (spent,) = result.allocation["budgets"].values()
    choices = {u: Choice(**bits) for u, bits in result.allocation["choices"].items()}
    assert spent["used"] == pytest.approx(predict(table, choices), abs=1e-4)
    assert spent["float"] == pytest.approx(table.float_ms, abs=1e-4)
    # From the store the same figures come back; nothing is timed a second time.
    assert latency_text(again.latency) == latency_text(table)
    assert "time" not in [stage.name for stage in again.progress.stages]
    assert mixed("size<=0.3").latency is None


def test_the_run_keeps_its_latencies_and_allocate_counts_the_borders(timed):
    result, _, run = timed
    assert read_latencies(run / "latency.csv").float_ms == result.latency.float_ms
    networks = [
        dict(zip(result.latency.units, choices, strict=True))
        for choices in itertools.product((Choice(8, 8), FLOAT), repeat=len(result.latency.units))
    ]
    times = sorted(predict(result.latency, network) for network in networks)
    limit = times[len(times) // 2]
    found, _ = run_allocate(run, Request((f"latency<={limit}ms",)), run.parent / "other.json")
    reached = predict(result.latency, found.choices)
    assert reached <= limit + 1e-5
    assert found.budgets[0].used == pytest.approx(reached, abs=1e-4)
    with pytest.raises(BudgetError, match="latency: least attainable"):
        run_allocate(run, Request((f"latency<={times[0] / 2}ms",)), run.parent / "other.json")


def test_latency_may_be_made_small(monkeypatch):
    from bitwright import menu_latency

    quick = replace(menu_latency.SETTINGS, repetitions=1)
    monkeypatch.setattr(menu_latency, "SETTINGS", quick)
    found = mixed("loss<=0.1", minimize="latency", menu="w8a8,w4a8", target="paper")
    assert found.allocation["minimizes"] == "latency"
    assert found.allocation["objective"] == pytest.approx(
        predict(found.latency, {u: Choice(**b) for u, b in found.allocation["choices"].items()}),
        abs=1e-4,
    )
