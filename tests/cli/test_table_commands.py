"""allocate, frontier and explain on a run that holds a recipe and a table and nothing else."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitwright.allocation.cost import bops, weight_bits
from bitwright.allocation.table import Row, make_table, read_table, write_table
from bitwright.graph.choice import FLOAT, Choice

UNITS = {"stem": 500, "layer1.conv": 9000, "layer2.conv": 36000, "layer3.conv": 70000, "fc": 640}
LOSS = {"w8a8": 1.0, "w4a8": 40.0, "w8a4": 70.0, "w4a4": 120.0, "w2a4": 900.0}
KEPT = {"stem": "w8a8", "fc": "float"}


def rows():
    for number, (unit, params) in enumerate(UNITS.items()):
        macs = 1000 * params // (number + 1)
        for name, scale in LOSS.items():
            choice = Choice(int(name[1]), int(name[3]))
            if unit in KEPT and KEPT[unit] != name:
                continue
            yield Row(
                unit, choice, None if unit in KEPT else scale * 1e-5 * (number + 1), params,
                weight_bits(params, 16, choice), macs, bops(macs, choice),
                latency_ms=macs * (choice.w_bits + choice.a_bits) / 1e7,
                loss_stderr=None if unit in KEPT else scale * 1e-6,
            )  # fmt: skip
        yield Row(
            unit, FLOAT, None, params, 32 * params, macs, bops(macs, FLOAT), latency_ms=macs / 1e5
        )


@pytest.fixture
def run(tmp_path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    (path / "recipe.toml").write_text('version = 1\nmodel = "nowhere.py:net"\n')
    write_table(path / "table.csv", make_table(rows()))
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_allocate(bitwright, run):
    done = bitwright("allocate", run, "--budget", "size<=0.17 and bops<=0.05")
    assert done.code == 0, done.err
    assert "optimal" in done.out and "allocation.json" in done.out
    record = read(run / "allocation.json")
    assert record["status"] == "optimal" and record["solver"] == "ip" and record["gap"] == 0
    table = read_table(run / "table.csv")
    picked = {
        unit: next(r for r in table.of(unit) if r.choice.to_json() == bits)
        for unit, bits in record["choices"].items()
    }
    assert sum(r.weight_bits for r in picked.values()) == record["budgets"]["size"]["used"]
    assert sum(r.bops for r in picked.values()) == record["budgets"]["bops"]["used"]
    assert record["budgets"]["size"]["limit"] == int(17 * 32 * sum(UNITS.values()) // 100)
    assert record["choices"]["fc"] == {"w_bits": 0, "a_bits": 0, "points": 1}
    assert record["uniform"]["loss"] >= record["loss"]


def test_nothing_but_the_recipe_and_the_table_is_read_or_torch_loaded(run):
    code = (
        "import sys; from bitwright import cli\n"
        "sys.argv = ['bitwright', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
    )
    for words in (
        ["allocate", str(run), "--budget", "size<=0.17"],
        ["frontier", str(run)],
        ["explain", str(run), "layer2.conv"],
    ):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert time.perf_counter() - started < 30
    assert {p.name for p in run.iterdir()} == {
        "recipe.toml", "table.csv", "allocation.json", "frontier.csv", "frontier.svg",
    }  # fmt: skip


def test_a_model_in_the_run_is_said_to_keep_its_bits(bitwright, run):
    (run / "model.safetensors").write_bytes(b"")
    done = bitwright("allocate", run, "--budget", "size<=0.17")
    assert done.code == 0 and "model.safetensors keeps the bits" in done.out


def test_the_other_direction_and_another_file(bitwright, run, tmp_path):
    out = tmp_path / "cheap.json"
    done = bitwright(
        "allocate", run, "--budget", "loss<=0.003", "--minimize", "latency", "--out", out
    )
    assert done.code == 0 and "latency" in done.out and "minimised" in done.out
    assert read(out)["minimizes"] == "latency" and read(out)["loss"] <= 0.003
    assert not (run / "allocation.json").exists()
    again = bitwright("allocate", run, "--budget", "latency<=0.5", "--quiet")
    assert again.code == 0 and again.out == ""


@pytest.mark.parametrize("solver", ["greedy-accuracy", "greedy-compression"])
def test_greedy_rules(bitwright, run, solver):
    done = bitwright("allocate", run, "--budget", "size<=0.17", "--solver", solver)
    assert done.code == 0 and solver in done.out
    assert read(run / "allocation.json")["status"] == "feasible"


def test_an_infeasible_budget_is_exit_code_two_with_the_least_attainable(bitwright, run):
    done = bitwright("allocate", run, "--budget", "size<=0.05")
    assert done.code == 2 and done.out == ""
    least = read(run / "allocation.json")["infeasible"]["size"]["least"]
    assert f"least attainable {least} bit" in done.err
    assert "stem at w8a8" in done.err and "fc at float" in done.err
    remedy = done.err.split("--budget '")[1].split("'")[0]
    assert bitwright("allocate", run, "--budget", remedy).code == 0


def test_budgets_of_the_recipe(bitwright, run):
    with (run / "recipe.toml").open("a") as file:
        file.write('budget = "loss<=0.003"\nminimize = "size"\nsolver = "greedy-accuracy"\n')
    assert bitwright("allocate", run).code == 0
    record = read(run / "allocation.json")
    assert (record["minimizes"], record["solver"]) == ("size", "greedy-accuracy")
    assert bitwright("allocate", run, "--budget", "size<=0.2").code == 0
    record = read(run / "allocation.json")
    assert (record["minimizes"], record["solver"]) == ("loss", "ip")


def test_a_cost_of_the_users_own(bitwright, run, tmp_path):
    path = tmp_path / "cycles.csv"
    lines = ["unit,w_bits,a_bits,points,value"]
    table = read_table(run / "table.csv")
    for r in (*table.rows, *table.references):
        lines.append(f"{r.unit},{r.choice.w_bits},{r.choice.a_bits},1,{(r.choice.w_bits or 32)}")
    path.write_text("\n".join(lines))
    words = ("--cost-table", f"dsp={path}")
    assert bitwright("allocate", run, "--budget", "dsp<=0.4", *words).code == 0
    assert read(run / "allocation.json")["budgets"]["dsp"]["limit"] == 64
    assert bitwright("frontier", run, "--cost", "dsp", *words).code == 0
    assert bitwright("explain", run, "layer1.conv", *words).code == 0
    wrong = bitwright("allocate", run, "--budget", "dsp<=0.4", "--cost-table", "cycles.csv")
    assert wrong.code == 2 and "NAME=FILE.csv" in wrong.err


def test_frontier(bitwright, run):
    done = bitwright("frontier", run)
    assert done.code == 0 and "knee" in done.out and "frontier.svg" in done.out
    with (run / "frontier.csv").open() as file:
        points = [r for r in csv.DictReader(file) if r["method"] == "ip"]
    point = points[len(points) // 2]
    again = bitwright("allocate", run, "--budget", f"size<={point['used']}bit")
    assert again.code == 0
    assert read(run / "allocation.json")["loss"] == pytest.approx(float(point["loss_delta"]))
    assert (run / "frontier.svg").read_text().startswith("<svg")


def test_explain(bitwright, run):
    none = bitwright("explain", run, "layer2.conv")
    assert none.code == 2 and "--budget 'size<=0.13'" in none.err
    bitwright("allocate", run, "--budget", "size<=0.17")
    taken = read(run / "allocation.json")["choices"]["layer2.conv"]
    done = bitwright("explain", run, "layer2.conv")
    assert done.code == 0
    assert f"layer2.conv: {Choice(**taken)} under size<=0.17" in done.out
    assert "one MB more would lower loss" in done.out and "* " in done.out
    other = bitwright("explain", run, "layer2.conv", "--budget", "loss<=0.01", "--minimize", "size")
    assert other.code == 0 and "under loss<=0.01" in other.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("allocate", "{run}"), "no --budget"),
        (("allocate", "{run}", "--budget", "size<0.1"), "Write <="),
        (("allocate", "{run}", "--budget", "loss<=0.1"), "--minimize size"),
        (("allocate", "{run}", "--budget", "size<=0.2", "--solver", "best"), "unknown solver"),
        (("allocate", "{run}x", "--budget", "size<=0.2"), "no run directory"),
        (("allocate", "{run}/..", "--budget", "size<=0.2"), "holds no recipe.toml"),
        (("allocate", "{run}", "--budget", "drop<=1%", "--minimize", "size"), "accuracy drop"),
        (("explain", "{run}", "layer2.cnv", "--budget", "size<=1"), "Did you mean 'layer2.conv'"),
        (("frontier", "{run}", "--cost", "loss"), "Name a cost"),
        (("frontier", "{run}", "--cost", "latancy"), "Did you mean 'latency'"),
    ],
)
def test_wrong_requests(bitwright, run, words, told):
    done = bitwright(*(word.replace("{run}", str(run)) for word in words))
    assert done.code == 2 and told in done.err and done.out == ""


def test_a_table_cut_short_is_refused_by_every_command(bitwright, run):
    lines = (run / "table.csv").read_text().splitlines(keepends=True)
    (run / "table.csv").write_text("".join(line for line in lines if "layer3.conv" not in line))
    for words in (("allocate", run), ("explain", run, "stem"), ("frontier", run)):
        budget = () if words[0] == "frontier" else ("--budget", "size<=0.5")
        done = bitwright(*words, *budget)
        assert done.code == 2 and "it was cut short" in done.err and done.out == ""
    assert not (run / "allocation.json").exists()


def test_units_that_are_not_those_of_the_run_are_refused(bitwright, run):
    census = {"units": [{"name": unit} for unit in UNITS]}
    (run / "census.json").write_text(json.dumps(census))
    assert bitwright("allocate", run, "--budget", "size<=0.2").code == 0
    (run / "census.json").write_text(json.dumps({"units": [*census["units"], {"name": "tail"}]}))
    done = bitwright("allocate", run, "--budget", "size<=0.2")
    assert done.code == 2 and "holds no unit 'tail', which census.json lists" in done.err
    (run / "census.json").write_text(json.dumps({"units": census["units"][:-1]}))
    done = bitwright("allocate", run, "--budget", "size<=0.2")
    assert done.code == 2 and "holds the unit 'fc', which census.json does not list" in done.err
    (run / "census.json").unlink()
    with (run / "recipe.toml").open("a") as file:
        file.write('keep = "first,head=w8a8"\n')
    done = bitwright("allocate", run, "--budget", "size<=0.2")
    assert done.code == 2 and "'head' matches no unit" in done.err


def test_a_table_of_an_older_version_is_read_with_a_note(bitwright, run):
    path = run / "table.csv"
    path.write_text("\n".join(line.rpartition(",")[0] for line in path.read_text().splitlines()))
    for words in (
        ("allocate", run, "--budget", "size<=0.2"),
        ("frontier", run),
        ("explain", run, "stem"),
    ):
        done = bitwright(*words)
        assert done.code == 0 and "does not say how many lines" in done.out, words


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("allocate", "--budget", "size<=1e9999999999"), "no number that a cost can have"),
        (("allocate", "--budget", "size<=1e-99999999"), "no number that a cost can have"),
        (("allocate", "--budget", "size<=0." + "1" * 100_000), "(100008 characters)"),
        (("allocate", "--budget", "loss<=1e999999999", "--minimize", "size"), "no number that"),
        (("allocate", "--budget", "size<=0.2", "--seconds", "nan"), "--seconds nan"),
        (("allocate", "--budget", "size<=0.2", "--seconds", "1e300"), "--seconds 1e+300"),
        (("frontier", "--budgets", "999999999999"), "--budgets 999999999999"),
    ],
)
def test_numbers_without_end_are_refused_by_value_at_once(bitwright, run, words, told):
    started = time.process_time()
    done = bitwright(words[0], run, *words[1:])
    assert done.code == 2 and told in done.err and len(done.err) < 1000
    assert time.process_time() - started < 1


def test_a_damaged_run(bitwright, run):
    lines = (run / "table.csv").read_text().splitlines()
    lines[3] = lines[3].replace(",8,", ",eight,", 1)
    (run / "table.csv").write_text("\n".join(lines))
    done = bitwright("allocate", run, "--budget", "size<=0.2")
    assert done.code == 2 and "table.csv, line 4: w_bits is 'eight'" in done.err
    (run / "table.csv").unlink()
    assert "cannot be read" in bitwright("frontier", run).err
    (run / "recipe.toml").write_text("budget = ")
    write_table(run / "table.csv", make_table(rows()))
    assert (
        "recipe.toml is not valid TOML" in bitwright("allocate", run, "--budget", "size<=0.2").err
    )
