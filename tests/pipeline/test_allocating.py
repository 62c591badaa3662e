"""Mixed precision from end to end: the menu solved, the table measured, bits allocated."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bitwright as bw
from bitwright.allocation.cost import weight_bits
from bitwright.allocation.energy import energy_pj, energy_table
from bitwright.allocation.latencies import in_nanoseconds
from bitwright.allocation.latency_csv import latency_text, read_latencies
from bitwright.allocation.latency_table import predict
from bitwright.allocation.table import read_table
from bitwright.cli.table_commands import Request, run_allocate
from bitwright.engine.progress import Progress
from bitwright.errors import BitwrightError, BudgetError, DataError, RecipeError
from bitwright.graph.choice import FLOAT, Choice
from networks import pictures, small_network

MENU = "w8a8,w4a8,w2a8"


def batches():
    return [pictures(64, seed=1)[i : i + 16] for i in range(0, 64, 16)]


# Where the runs of these tests keep what they solve and measure: those that ask for the same menu
# take it from there. What a store may change of a result (nothing) has a test with one of its own.
STORE: dict[str, Path] = {}


@pytest.fixture(scope="module", autouse=True)
def shared_store(tmp_path_factory):
    STORE["store"] = tmp_path_factory.mktemp("shared") / "store"
    yield
    STORE.clear()


def mixed(budget, menu=MENU, **options):
    options = {"method": "quadratic", "mode": "parallel", "batch": 8, **STORE, **options}
    return bw.quantize(
        small_network(width=64),
        batches(),
        menu=menu,
        budget=budget,
        **{"recipe": "fixed", **options},
    )


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
    from bitwright.pipeline import choose_bits as allocating

    told = iter([2.0, 1.0])
    monkeypatch.setattr(
        allocating.Base, "run", lambda self, choices: {"loss": next(told), "drop": 0.0}
    )
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
    chosen = {row.unit: row for row in found.table.chosen(found.allocation.choices)}
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


@pytest.mark.parametrize("keep", ["", "stem=float"])
def test_a_choice_has_one_price_with_a_menu_and_without(tmp_path, keep):
    """Sizes, BOPs and energy of a fixed scheme are those of the same choices in a menu's table."""
    menu = mixed("size<=0.9", menu="w8a8,w4a8", scheme="w8a8", method="nearest", keep=keep)
    fixed = bw.quantize(
        small_network(width=64), batches(), recipe="fixed", scheme="w8a8", keep=keep, batch=8
    )
    known = {(row.unit, row.choice): row for row in menu.table.rows}
    for row in fixed.table.rows:
        other = known[row.unit, row.choice]
        assert (row.weight_bits, row.bops, row.energy_pj) == (
            other.weight_bits, other.bops, other.energy_pj,
        )  # fmt: skip
    # Bits given anew have a file of their own, whose header is a few bytes longer or shorter.
    other = menu.with_bits({"head": "w4a8"})
    for row in other.table.rows:
        assert abs(row.weight_bits - known[row.unit, row.choice].weight_bits) < 64
    # A table's sizes add up to the file; what metrics.json calls weights are the weights alone.
    file = fixed.save(tmp_path / "run", verify=False)["model.safetensors"].stat().st_size
    total = sum(row.weight_bits for row in fixed.table.rows)
    assert 8 * file <= total < 8 * file + len(fixed.table.rows)
    bits = {row.unit: row.choice for row in fixed.table.rows}
    alone = sum(
        -(-weight_bits(u.params, u.shape[0], bits[u.name], True) // 8) for u in fixed.graph.units
    )
    assert fixed.measured()["size"]["weight_bytes"] == alone < file


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    from bitwright.pipeline import menu_latency

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
    from bitwright.pipeline import menu_latency

    quick = replace(menu_latency.SETTINGS, repetitions=1)
    monkeypatch.setattr(menu_latency, "SETTINGS", quick)
    asked = {"minimize": "latency", "menu": "w8a8,w4a8", "target": "paper"}
    found = mixed("loss<=0.1", store=None, **asked)
    assert found.allocation["minimizes"] == "latency"
    assert found.allocation["objective"] == pytest.approx(
        predict(found.latency, {u: Choice(**b) for u, b in found.allocation["choices"].items()}),
        abs=1e-4,
    )


# ---- labels, ties, pairs ---------------------------------------------------------------------


def labelled():
    return [(x, torch.arange(len(x)) % 10) for x in batches()]


def test_with_labels_the_tables_loss_is_the_cross_entropy():
    options = {"method": "nearest", "batch": 8}
    asked = {**options, "menu": "w8a8,w2a8", "budget": "size<=0.2"}
    net = small_network(width=64)
    told = bw.quantize(net, labelled(), labels=True, **{"recipe": "fixed", **asked})
    base = bw.quantize(net, labelled(), scheme="w8a8", **{"recipe": "fixed", **options})
    x = torch.cat([x for x, _ in labelled()])
    y = torch.cat([y for _, y in labelled()])

    def entropy(model):
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(model(x).double(), y))

    losses = told.allocation["measured_loss"]
    assert losses["base"] == pytest.approx(entropy(base.model), rel=1e-4)
    one = "grouped"
    alone = bw.quantize(
        net, labelled(), scheme="w8a8", keep=f"{one}=w2a8", **{"recipe": "fixed", **options}
    )
    row = next(r for r in told.table.of(one) if r.choice.w_bits == 2)
    wanted = entropy(alone.model) - entropy(base.model)
    assert row.loss_delta == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    # By default the labels are not looked at, whatever they are.
    plain = bw.quantize(net, labelled(), **{"recipe": "fixed", **asked})
    bare = bw.quantize(net, batches(), **{"recipe": "fixed", **asked})
    one, other, third = ([r.loss_delta for r in f.table.rows] for f in (plain, bare, told))
    assert one == other != third


def test_other_labels_are_other_results_of_the_store(tmp_path):
    def base_loss(shift):
        data = [(x, (y + shift) % 10) for x, y in labelled()]
        found = bw.quantize(
            small_network(), data, recipe="fixed", menu="w8a8,w4a8",
            budget="size<=0.9", labels=True, store=tmp_path / "store",
        )  # fmt: skip
        return found.allocation["measured_loss"]["base"]

    assert base_loss(0) != base_loss(1)


def test_labels_that_are_not_there():
    with pytest.raises(DataError, match="the calibration data have none"):
        mixed("size<=0.2", labels=True)


def test_tied_units_take_the_same_choice():
    found = mixed("size<=0.2", ties="stem|depthwise|head, a:project|grouped", menu="w{2,4,8}a{4,8}")
    taken = found.allocation["choices"]
    assert taken["stem"] == taken["depthwise"] == taken["head"]
    assert taken["project"]["a_bits"] == taken["grouped"]["a_bits"]
    assert {row.group for row in found.table.of("head")} == {"stem|depthwise|head"}


def test_a_targets_ties_reach_the_table(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nties = ["add"]\n')
    found = mixed("size<=0.2", menu="w8a8,w4a4", target=str(path), method="nearest")
    groups = {row.unit: row.group for row in found.table.rows}
    assert groups["depthwise"] == groups["grouped"] != "" == groups["stem"]
    taken = found.allocation["choices"]
    assert taken["depthwise"]["a_bits"] == taken["grouped"]["a_bits"]


def test_ties_that_cannot_hold_are_told_before_the_work():
    told = []
    with pytest.raises(BitwrightError, match=r"no choice in common.*--tie"):
        mixed("size<=0.9", ties="stem|head", keep="head=w7a7", progress=Progress([told.append]))
    assert "solve the menu" not in {event.stage for event in told}


def test_pairs_correct_the_allocation():
    found = mixed("size<=0.12", pairwise=4, menu="w{2,3,4,8}a8")
    record = found.allocation["pairwise"]
    assert record["pairs"] == 4 and record["measured"] == 16
    losses = found.allocation["measured_loss"]
    assert losses["pairwise"] == record["measured_loss"]["pairwise"]
    assert record["gain"] == pytest.approx(losses["allocation"] - losses["pairwise"])
    # What is taken is the best that was run.
    assert kl_of(found) == pytest.approx(min(v for k, v in losses.items() if k != "base"), rel=1e-3)


def kl_of(result):
    """The divergence of the stitched network from the float one, by torch alone."""
    net, x = small_network(width=64), torch.cat(batches())
    with torch.no_grad():
        p, q = (model(x).double().log_softmax(1) for model in (net, result.model))
    return float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean"))


def test_a_budget_of_the_loss_holds_where_the_network_is_run():
    """The sum of single losses is too small here; the network that is taken holds the budget."""
    found = mixed("loss<=0.02", minimize="size", menu="w{2,3,4,8}a8")
    losses = found.allocation["measured_loss"]
    assert losses["allocation"] - losses["base"] <= 0.02
    assert kl_of(found) - losses["base"] <= 0.02 + 1e-4


def test_a_budget_of_the_loss_is_tightened(monkeypatch):
    from bitwright.pipeline import choose_bits as allocating

    real = allocating.Base.run
    base = mixed("loss<=1", minimize="size").allocation["measured_loss"]["base"]

    def doubled(self, choices):
        figures = real(self, choices)
        return {"loss": base + 2 * (figures["loss"] - base), "drop": figures["drop"]}

    loose = mixed("loss<=0.05", minimize="size")
    monkeypatch.setattr(allocating.Base, "run", doubled)
    tight = mixed("loss<=0.05", minimize="size")
    spent = tight.allocation["budgets"]["loss"]
    losses = tight.allocation["measured_loss"]
    assert losses["allocation"] - losses["base"] <= 0.05
    assert spent["limit"] <= loose.allocation["budgets"]["loss"]["limit"]
    assert tight.allocation["objective"] >= loose.allocation["objective"]


@pytest.mark.parametrize("option", [{"labels": True}, {"ties": "stem|head"}, {"pairwise": 3}])
def test_options_of_the_search_need_one(option):
    with pytest.raises(RecipeError, match="without --menu and --budget no bits"):
        bw.quantize(small_network(), batches(), **{"recipe": "fixed", **option})


def test_allocations_go_by_softened_losses_in_the_losses_units(monkeypatch):
    from bitwright.pipeline import tabulate

    seen = []
    real = tabulate.solve_and_measure
    monkeypatch.setattr(tabulate, "solve_and_measure", lambda *a: seen.append(real(*a)) or seen[-1])
    result = mixed("size<=0.2", method="nearest")
    base, table = seen[0]
    net, x = small_network(width=64), torch.cat(batches())
    temperature = base.solutions.loss.temperature
    unit, choice = "project", Choice(2, 8)
    options = {"method": "nearest", "mode": "parallel", "batch": 8}
    whole = [
        bw.quantize(
            net, batches(), scheme="w8a8", keep=keep, **{"recipe": "fixed", **options}
        ).model
        for keep in ("", f"{unit}={choice}")
    ]

    def soft(model):
        p, q = (m(x).double().div(temperature).log_softmax(1) for m in (net, model))
        found = torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean")
        return temperature**2 * float(found)

    with torch.no_grad():
        change = soft(whole[1]) - soft(whole[0])
    row = next(r for r in table.of(unit) if r.choice == choice)
    # Nearest rounding tells no errors, so nothing is drawn towards a curvature.
    assert row.loss_fitted == pytest.approx(base.scale * change, rel=1e-3)
    free = [r for r in table.rows if r.choice.w_bits != 8]
    assert sum(r.loss_fitted for r in free) == pytest.approx(sum(r.loss_delta for r in free))
    assert result.table.rows == table.rows
