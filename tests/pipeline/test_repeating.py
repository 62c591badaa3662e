"""The line on the page runs the same run again, bit for bit, whatever was asked for."""

from __future__ import annotations

import ast
import html
import re
import shlex
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from typer.main import get_command

import bitwright as bw
from bitwright.cli.parser import app
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.repeat import SOURCES, line_again, of_python
from bitwright.recipe.names import DEFAULT
from bitwright.recipe.values import BUILT_IN, Recipe, load_recipe, to_toml, update
from networks import normal, seeded

MINE = """
import torch

def network():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16), torch.nn.ReLU(),
        torch.nn.Linear(16, 4))
    return net.eval()

def calibration():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(20, 8, generator=generator) for _ in range(3)]

def held_out():
    return [(x, torch.arange(20) % 4) for x in calibration()]
"""


def shown(page: str) -> str:
    return html.unescape(re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)[1])


def call(words: list[str]) -> None:
    try:
        get_command(app).main(words, standalone_mode=False)
    except SystemExit as end:  # pragma: no cover - other versions of click
        assert not end.code


@pytest.mark.parametrize(
    "options",
    [
        ["--scheme", "w4a8", "--method", "quadratic", "--keep", "first, last=w8a8",
         "--activation-range", "minmax", "--batch", "7", "--calib", "41", "--seed", "5"],
        ["--menu", "w8a8,w3a8", "--budget", "bops<=0.04", "--eval", "my nets.py:held_out",
         "--target", "it's mine.toml", "--table-samples", "30"],
    ],
)  # fmt: skip
def test_the_line_of_a_command_runs_the_same_again(options, tmp_path, monkeypatch):
    here = tmp_path / "a folder's $HOME"
    here.mkdir()
    (here / "my nets.py").write_text(MINE)
    (here / "it's mine.toml").write_text('name = "mine"\nweight_bits = [3, 8]\n')
    monkeypatch.chdir(here)
    call(["quantize", "my nets.py:network", "--data", "my nets.py:calibration", *options,
          "--out", "out 1", "--quiet"])  # fmt: skip
    line = shown((here / "out 1" / "report.html").read_text())
    program, *words = shlex.split(line)
    assert program == "bitwright"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    call([*words, "--quiet"])
    first, again = here / "out 1", Path(words[-1])
    assert again != first and again.is_dir()
    for name in ("recipe.toml", "model.safetensors", "allocation.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes(), name


def test_the_line_of_python_runs_the_same_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('name = "mine"\nweight_bits = [4, 8]\n')
    net = seeded(lambda: torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))).eval()
    calibration = [normal(30, 8)]
    held_out = [(normal(30, 8, seed=2), torch.arange(30) % 4)]
    result = bw.quantize(
        net,
        calibration,
        recipe="fixed",
        evaluation=held_out,
        scheme="w4a8",
        method="quadratic",
        target="mine.toml",
    )
    line = shown(result.report("page.html").read_text())
    monkeypatch.chdir(tmp_path.parent)
    names = {"bw": bw, "net": net, "calibration": calibration, "held_out": held_out}
    again = eval(line, names)
    assert again.recipe == result.recipe
    assert again.metrics["float"] == result.metrics["float"]
    assert torch.equal(again.model(calibration[0]), result.model(calibration[0]))


def asked_in(line: str) -> dict:
    (call,) = (n for n in ast.walk(ast.parse(line)) if isinstance(n, ast.Call))
    return {word.arg: ast.literal_eval(word.value) for word in call.keywords}


def everything_else() -> Recipe:
    """A recipe in which no key has its default."""
    other = {
        "scheme": "w4a8", "method": "adaquant", "mode": "parallel", "keep": "first=w8a8",
        "menu": "w8a8,w4a8", "budget": "size<=0.3", "minimize": "size", "solver": "greedy-accuracy",
        "table": "quick", "table_samples": 7, "labels": True, "ties": "a|b", "pairwise": 2,
        "prepare": "equalize",
        "tune": "bn, refine", "refine_method": "adaround", "target": "ort-cpu", "metric": "top5",
        "calib": 9, "activation_range": "kl", "weight_range": "lp", "batch": 3, "size": 32,
        "mean": (0.5,), "std": (0.5, 0.25, 0.1), "crop": 0.9, "device": "cpu:0", "seed": 11,
        "onnx": "/mine.onnx", "opset": 21, "dynamic": True, "latencies": "pi=/pi.csv",
        "portable": True, "time": "2min", "answer": "a=box", "loss": "/l.py:f",
    }  # fmt: skip
    return replace(Recipe(), **other)


@pytest.mark.parametrize("name", [*BUILT_IN, "everything"])
def test_every_key_of_every_recipe_is_in_the_line(name, tmp_path):
    made = everything_else() if name == "everything" else make_recipe(name, {})
    recipe = of_python(made, made.data == "none")
    line = line_again(recipe, tmp_path, False)
    assert line.startswith(f"bw.quantize(net, {repr('none') if recipe.data else 'calibration'}")
    asked = make_recipe(DEFAULT, {}), asked_in(line)
    assert update(asked[0], asked[1], "here") == replace(recipe, data=asked[0].data)


def test_no_key_is_forgotten():
    usual, other = asdict(make_recipe(DEFAULT, {})), asdict(everything_else())
    same = {f.name for f in fields(Recipe) if usual[f.name] == other[f.name]}
    # A budget excludes a lossless search, a promise and bits that are given.
    assert same == {*SOURCES, "version", "lossless", "promise", "allocation"}


def test_a_run_from_python_names_no_network_that_it_did_not_use(tmp_path):
    """A recipe file of the command brings its settings, and not its network and data."""
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(replace(Recipe(), model="zoo.py:f", data="d", eval="e", scheme="w4a8")))
    net = seeded(lambda: torch.nn.Sequential(torch.nn.Linear(8, 4))).eval()
    recipe = bw.quantize(net, [normal(9, 8)], recipe=str(file)).recipe
    assert recipe == replace(Recipe(), scheme="w4a8", target="ort-linear")
    assert load_recipe(str(file))["model"] == "zoo.py:f"
