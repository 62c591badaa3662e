"""What can be typed: JSON of every table, lists without a word, parts of a network, --force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from networks_on_disk import quantised

from bitwright.cli.options import BITS, FOR, HOW, WHAT, WHERE
from bitwright.cli.parser import app
from bitwright.prepare.names import ABOUT
from bitwright.tuning.catalogue import STEPS


@pytest.fixture(scope="module")
def fixed(tmp_path_factory) -> Path:
    """A run of one scheme."""
    return quantised(tmp_path_factory.mktemp("fixed"), "--scheme", "w8a8")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A run of a menu under a budget."""
    folder = tmp_path_factory.mktemp("mixed")
    return quantised(folder, "--menu", "w8a8,w4a8", "--budget", "bops<=0.05")


def test_every_option_of_quantize_stands_in_a_group():
    command = typer.main.get_command(app).commands["quantize"]
    groups: dict[str, list[str]] = {}
    for parameter in command.params:
        if parameter.name not in ("model", "recipe", "help"):
            groups.setdefault(getattr(parameter, "rich_help_panel", None), []).append(
                parameter.name
            )
    assert set(groups) == {WHAT, BITS, HOW, FOR, WHERE}


def test_the_help_of_steps_names_them_all():
    command = typer.main.get_command(app).commands["quantize"]
    helps = {parameter.name: getattr(parameter, "help", "") for parameter in command.params}
    assert helps["tune"].endswith(", ".join(STEPS))
    assert helps["prepare"].endswith(", ".join(ABOUT))


def test_list_without_a_word_lists_everything(bitwright):
    done = bitwright("list")
    assert done.code == 0
    for word in ("methods:", "quadratic", "recipes:", "light", "targets:", "ort-cpu", "metrics:"):
        assert word in done.out
    lists = json.loads(bitwright("list", "--json").out)
    for name in ("methods", "recipes", "targets", "metrics"):
        assert lists[name] == json.loads(bitwright("list", name, "--json").out)


def test_json_of_every_table(bitwright, mixed, tmp_path):
    model, data = f"{mixed.parent}/net.py:net", f"{mixed.parent}/net.py:calib"

    def ask(*words):
        done = bitwright(*words, "--json")
        assert done.code == 0, done.err
        return json.loads(done.out)  # and nothing else is on standard output

    assert {row["name"] for row in ask("doctor", model)["census"]["units"]} >= {"stem", "head"}
    assert ask("evaluate", mixed, "--metric", "agreement")["agreement"] > 0.5
    assert ask("verify", mixed)["passed"] is True
    found = ask("allocate", mixed, "--budget", "bops<=0.04", "--out", tmp_path / "a.json")
    on_disk = json.loads((tmp_path / "a.json").read_text())
    assert found == {**on_disk, "file": str(tmp_path / "a.json")}
    curve = ask("frontier", mixed)["curves"]["ip"]
    assert curve and curve[0]["used"] < curve[-1]["used"] and curve[0]["loss"] >= curve[-1]["loss"]
    told = ask("explain", mixed, "stem")
    assert [c["choice"] for c in told["choices"] if c["taken"]] == [told["choice"]]
    words = ("--repetitions", 1, "--checks", 0, "--menu", "w8a8")
    timed = ask("measure", model, "--data", data, *words, "--out", tmp_path / "latency.csv")
    assert timed["networks"] and {row["unit"] for row in timed["units"]} >= {"stem", "head"}
    again = ask("quantize", model, "--data", data, "--out", tmp_path / "run")
    assert again["verify"]["passed"] is True and again["out"] == str(tmp_path / "run")


def test_explain_lists_the_units_of_a_part(bitwright, mixed):
    done = bitwright("explain", mixed, "part")
    assert done.code == 0
    chosen = json.loads((mixed / "allocation.json").read_text())["choices"]
    for unit in ("part.first", "part.second"):
        bits = f"w{chosen[unit]['w_bits']}a{chosen[unit]['a_bits']}"
        line = next(line for line in done.out.splitlines() if line.startswith(unit))
        assert bits in line and "w8a8 w4a8" in line
    assert "stem" not in done.out
    rows = json.loads(bitwright("explain", mixed, "part", "--json").out)
    assert [row["unit"] for row in rows] == ["part.first", "part.second"]
    nothing = bitwright("explain", mixed, "par")
    assert nothing.code == 2 and "unknown unit 'par'" in nothing.err


def test_a_run_without_a_menu_says_so_to_allocate(bitwright, fixed):
    before = (fixed / "allocation.json").read_bytes()
    done = bitwright("allocate", fixed, "--budget", "size<=0.2")
    assert done.code == 2 and "quantised without a menu" in done.err and "--menu" in done.err
    assert (fixed / "allocation.json").read_bytes() == before
    unit = next(iter(json.loads(before)["choices"]))
    asked = bitwright("explain", fixed, unit)
    assert asked.code == 2 and "quantised without a menu" in asked.err


def test_force_replaces_another_run_and_nothing_else(bitwright, fixed, tmp_path):
    model, data = f"{fixed.parent}/net.py:net", f"{fixed.parent}/net.py:calib"
    words = ("quantize", model, "--data", data, "--calib", 10, "--quiet", "--out", tmp_path / "run")
    assert bitwright(*words).code == 0
    (tmp_path / "run" / "frontier.csv").write_text("of the old run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    refused = bitwright(*words, "--scheme", "w4a8")
    assert refused.code == 2 and "--force" in refused.err
    assert bitwright(*words, "--scheme", "w4a8", "--force").code == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "frontier.csv" not in names and "notes.txt" in names
    assert 'scheme = "w4a8"' in (tmp_path / "run" / "recipe.toml").read_text()


def test_force_takes_no_folder_that_is_no_run(bitwright, fixed, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    model, data = f"{fixed.parent}/net.py:net", f"{fixed.parent}/net.py:calib"
    done = bitwright("quantize", model, "--data", data, "--out", tmp_path, "--force")
    assert done.code == 2 and "holds no run" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
