"""18,000 mutated recipes, options, targets, tables and budgets.

Each is answered, or refused with an error of ours: nothing else is raised, and none takes 5 s or
500 MB.
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mutants import WORDS, mutated_text
from networks_on_disk import quantised

from bitwright.allocation.budget import parse_budgets
from bitwright.cli.table_commands import Request, run_allocate
from bitwright.errors import BitwrightError
from bitwright.export import rundir
from bitwright.graph.target import load_target
from bitwright.pipeline.check import make_recipe
from bitwright.recipe.values import Recipe, to_toml

SECONDS, MEGABYTES = 5.0, 500
TARGET = """
name = "mine"
description = "a runtime"
weight_bits = [2, 4, 8]
input_bits = [8]
weight_symmetric = true
weight_signed = true
chain = ["add", "concat"]
outputs = true
bias_bits = 32
ties = ["reads", "add"]
points = "sum"
input_part_bits = 4
"""
BUDGETS = [
    "size<=0.13", "size<=0.5 and bops<=2GBOP", "loss<=0.05", "drop<=1%", "latency<=2ms",
    "energy<=1.5mJ and size<=3MB",
]  # fmt: skip


def answered(what: bytes, work: Callable[..., object], *given: object) -> bool:
    """Whether the work was done; refused is as good, anything else a failure."""
    started = time.perf_counter()
    try:
        work(*given)
        done = True
    except BitwrightError as error:
        assert str(error).strip(), what
        done = False
    except Exception as error:  # noqa: BLE001 - that there is none is what is tested
        pytest.fail(f"{type(error).__name__}: {error}\nof {what[:500]!r}")
    assert time.perf_counter() - started < SECONDS, what[:500]
    return done


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(autouse=True)
def bounded_memory():
    before = peak_mb()
    yield
    assert peak_mb() - before < MEGABYTES


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return quantised(folder, "--menu", "w8a8,w4a8,w2a8", "--budget", "bops<=0.05")


@pytest.mark.slow
def test_recipes(tmp_path):
    dice, path, good = random.Random(1), tmp_path / "mine.toml", to_toml(Recipe(menu="w4a8,w8a8"))
    passed = 0
    for _ in range(6000):
        content = mutated_text(good, dice)
        path.write_bytes(content)
        passed += answered(content, make_recipe, str(path), {})
    assert 0 < passed < 6000


@pytest.mark.slow
def test_options():
    dice, passed = random.Random(2), 0
    texts = {key: value for key, value in vars(Recipe()).items() if isinstance(value, str)}
    texts |= {"menu": "w{2..8}a{4,8}", "budget": "size<=0.1", "keep": "first,last=w8a8"}
    texts |= {"ties": "layer1.*|stem, a:b.*", "tune": "bn, bias", "prepare": "equalize"}
    for _ in range(3000):
        key = dice.choice(list(texts))
        value = mutated_text(texts[key], dice).decode("utf-8", "replace")
        passed += answered(f"{key}={value}".encode(), make_recipe, "fixed", {key: value})
    assert 0 < passed < 3000


@pytest.mark.slow
def test_targets(tmp_path):
    dice, path = random.Random(3), tmp_path / "mine.toml"
    passed = 0
    for _ in range(4000):
        content = mutated_text(TARGET, dice)
        path.write_bytes(content)
        passed += answered(content, load_target, str(path))
    assert 0 < passed < 4000


@pytest.mark.slow
def test_budgets(run, tmp_path):
    dice, passed, solved = random.Random(4), 0, 0
    for turn in range(3000):
        text = mutated_text(dice.choice(BUDGETS), dice).decode("utf-8", "replace")
        good = answered(text.encode(), parse_budgets, [text])
        passed += good
        if good and turn % 5 == 0:
            request = Request((text,), "" if "loss" not in text else "size", seconds=2.0)
            out = tmp_path / "allocation.json"
            solved += answered(text.encode(), run_allocate, run, request, out)
    assert 0 < passed < 3000 and solved


@pytest.mark.slow
def test_tables(run, tmp_path):
    dice, good = random.Random(5), (run / rundir.TABLE).read_text()
    (tmp_path / rundir.RECIPE).write_text((run / rundir.RECIPE).read_text())
    passed = 0
    for _ in range(2000):
        content = mutated_text(good, dice)
        (tmp_path / rundir.TABLE).write_bytes(content)
        request = Request(("bops<=0.05",), seconds=2.0)
        passed += answered(content, run_allocate, tmp_path, request, tmp_path / "a.json")
    assert 0 < passed < 2000


def test_a_word_is_never_more_than_refused():
    """A few of them, in every run of the tests."""
    for word in WORDS:
        for key in (
            "scheme",
            "menu",
            "keep",
            "budget",
            "method",
            "device",
            "tune",
            "ties",
            "metric",
        ):
            answered(word.encode(), make_recipe, "fixed", {key: word})
