"""Budgets of several devices in one program, checked by brute force; their tables as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_latency_budget import W4, W8, everything, loss_in, random_latency, random_losses

from bitwright.allocation.allocate import INFEASIBLE, OPTIMAL, allocate
from bitwright.allocation.budget import parse_budgets
from bitwright.allocation.devices import (
    check_devices,
    format_devices,
    parse_devices,
    parse_devices_text,
    read_devices,
    resolve_devices,
    with_devices,
)
from bitwright.allocation.latency_csv import write_latencies
from bitwright.allocation.latency_table import LatencyCell, LatencyTable, predict
from bitwright.errors import RecipeError, RunDirectoryError
from bitwright.graph.choice import FLOAT, Choice
from bitwright.pipeline.check import make_recipe


def scaled(table: LatencyTable, factor: float, of_float: float) -> LatencyTable:
    """Another device: all slower, its float kernels by another factor."""

    def cell(choice: Choice, own: LatencyCell) -> LatencyCell:
        by = of_float if choice.is_float else factor
        return LatencyCell(own.ms * by, own.enter * by, own.leave * by)

    return replace(
        table,
        cells={key: cell(key[1], own) for key, own in table.cells.items()},
        rest={choice: ms * factor for choice, ms in table.rest.items()},
    )


@pytest.mark.parametrize("seed", range(8))
def test_both_devices_budgets_are_held_by_the_best_there_is(seed):
    here, table = random_latency(seed), random_losses(seed)
    there = scaled(here, 4.0, 3.0)
    devices = {"latency[x86]": here, "latency[pi]": there}
    found = allocate(with_devices(table, devices), ["latency[x86]<=0.8", "latency[pi]<=0.9"])
    held = [
        network
        for network in everything()
        if predict(here, network) <= 0.8 * here.float_ms
        and predict(there, network) <= 0.9 * there.float_ms
    ]
    best = min(map(loss_in(table), held), default=None)
    if best is None:
        assert found.status == INFEASIBLE
        return
    assert found.status == OPTIMAL and found.loss == pytest.approx(best)
    for spent, latency in zip(found.budgets, (here, there), strict=True):
        assert spent.used <= spent.limit and spent.unit == "ms"
        assert spent.used == pytest.approx(predict(latency, found.choices), abs=1e-5)
        assert spent.whole == pytest.approx(latency.float_ms, abs=1e-5)


def test_a_device_beside_this_machine_and_in_its_own_unit():
    here, table = random_latency(1), random_losses(1)
    both = with_devices(table, {"latency[pi]": scaled(here, 2.0, 2.0), "latency": here})
    limit = 0.8 * here.float_ms
    one = allocate(both, f"latency<={limit}ms")
    other = allocate(both, f"latency[pi]<={2 * limit}ms")
    assert one.choices == other.choices and one.status == other.status == OPTIMAL
    least = allocate(both, "loss<=1", minimize="latency[pi]")
    assert least.objective <= allocate(both, "latency[pi]<=1").budgets[0].used + 1e-9


def test_tables_in_one_file_come_back_bit_for_bit(tmp_path):
    here = random_latency(2)
    devices = {"latency[pi]": scaled(here, 1 / 3, 1.7), "latency[x86]": here}
    back = parse_devices_text(format_devices(devices), "latencies.csv")
    assert list(back) == list(devices)
    for name, table in devices.items():
        assert vars(back[name].conditions) == vars(table.conditions)
        assert (back[name].cells, back[name].rest) == (table.cells, table.rest)


def test_what_is_written_is_read_or_refused(tmp_path):
    assert parse_devices("my-pi.4=b.csv, c.csv") == {
        "latency[my-pi.4]": Path("b.csv"), "latency": Path("c.csv"),
    }  # fmt: skip
    for wrong in ("pi=", "=x.csv", "p i=x.csv"):
        with pytest.raises(RecipeError, match=r"is not DEVICE=FILE\.csv"):
            parse_devices(wrong)
    with pytest.raises(RecipeError, match=r"gives latency\[pi\] twice"):
        parse_devices("pi=a.csv,pi=b.csv")
    assert resolve_devices("a=x.csv,y.csv") == f"a={Path.cwd() / 'x.csv'}, {Path.cwd() / 'y.csv'}"
    with pytest.raises(RecipeError, match="of devices there is a latency alone"):
        parse_budgets("size[pi]<=0.5")
    with pytest.raises(RecipeError, match="device 'pi', of which there is no table"):
        check_devices(["latency[pi]<=0.5"], "", "x86=x.csv")
    with pytest.raises(RecipeError, match="device 'pi', of which there is no table"):
        check_devices([], "latency[pi]", "")


def test_a_table_that_is_not_there_is_told_at_once():
    options = {"menu": "w8a8,w4a8", "budget": "latency[pi]<=0.5", "latencies": "pi=gone.csv"}
    with pytest.raises(RunDirectoryError, match=r"no table of latencies 'gone\.csv'"):
        make_recipe("fixed", options)
    with pytest.raises(RecipeError, match=r"latencies is 'pi=gone\.csv', but without --menu"):
        make_recipe("fixed", {"latencies": "pi=gone.csv"})


def test_a_table_of_another_target_or_without_a_choice_is_refused(tmp_path):
    here = random_latency(3)
    write_latencies(tmp_path / "pi.csv", here)
    given = f"pi={tmp_path / 'pi.csv'}"
    assert read_devices(given, "t")["latency[pi]"].cells == here.cells
    with pytest.raises(RecipeError, match="measured on files of target 't', the run's is 'paper'"):
        read_devices(given, "paper")
    lacking = {key: own for key, own in here.cells.items() if key != ("c", W4)}
    with pytest.raises(RunDirectoryError, match="none of unit 'c' at w4a8"):
        with_devices(random_losses(3), {"latency[pi]": replace(here, cells=lacking)})
    assert with_devices(
        random_losses(3, (W8, FLOAT)), {"latency[pi]": replace(here, cells=lacking)}
    )
