"""20,000 mutated recipes, options, targets, tables, budgets and files of a run.

Each is answered, or refused with an error of ours: nothing else is raised, and none takes 5 s or
500 MB.
"""

from __future__ import annotations

import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mutants import WORDS, mutated_json, mutated_text
from networks_on_disk import quantised

from bitwright.allocation.budget import parse_budgets
from bitwright.cli.table_commands import Request, run_allocate, run_explain, units_below
from bitwright.engine.manifest import Manifest, parse_manifest, seal
from bitwright.errors import BitwrightError
from bitwright.export import rundir
from bitwright.export.packed import load_packed, read_file, write_file
from bitwright.graph.target import load_target
from bitwright.pipeline import integrity, runs
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


def load(run: Path) -> None:
    """What `load` reads before there is a network."""
    directory = rundir.open_existing(run)
    runs.recipe_of(directory)
    load_packed(directory.checked(rundir.MODEL))


def allocate(run: Path) -> None:
    run_allocate(run, Request(("bops<=0.05",), seconds=2.0), None)


def explain(run: Path) -> None:
    run_explain(run, "stem", Request(seconds=2.0))


def part(run: Path) -> None:
    units_below(run, "part")


# The commands that read a file; `check` reads them all.
READERS: dict[str, tuple[Callable[[Path], object], ...]] = {
    rundir.METRICS: (runs.report,),
    rundir.CENSUS: (runs.report, allocate),
    rundir.VERIFY: (runs.report,),
    rundir.ALLOCATION: (explain, part),
    rundir.TABLE: (allocate, explain, part),
    rundir.RECIPE: (load, runs.report, allocate, explain),
    rundir.MANIFEST: (load, runs.report, allocate, explain, part),
    rundir.MODEL: (load,),
    rundir.LOG: (),
}


def spoilt(path: Path, dice: random.Random) -> bytes:
    """A file of a run with something done to it; what a digest of its own guards has a new one."""
    if path.name == rundir.MODEL:
        tensors, metadata = read_file(path)
        del metadata["sha256"]
        key = dice.choice(["units", "edges", "inputs", "version"])
        spoil = mutated_json if key != "version" and dice.random() < 0.9 else mutated_text
        text = spoil(metadata[key], dice).decode("utf-8", "replace")
        return write_file(tensors, {**metadata, key: text})
    text = path.read_text()
    if path.suffix == ".json" and dice.random() < 0.7:
        return mutated_json(text, dice)
    return mutated_text(text, dice)


def laid_out(run: Path, target: Path, name: str, content: bytes, sealed: bool) -> None:
    """The run with another file in it: of an earlier version, or with a manifest that fits."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run, target)
    (target / name).write_bytes(content)
    if name == rundir.MANIFEST:
        return
    path = target / rundir.MANIFEST
    if sealed:
        files = parse_manifest(path.read_bytes(), str(path)).files
        path.write_bytes(Manifest({**files, name: seal(target / name)}).text())
    else:
        path.unlink()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bitwright.errors.RunWarning")
def test_files_of_a_run(run, tmp_path):
    """Whoever writes such a file can write its digests too, so most of them have right ones."""
    dice, read, refused = random.Random(6), dict.fromkeys(READERS, 0), dict.fromkeys(READERS, 0)
    for turn in range(2000):
        name = dice.choice(list(READERS))
        content = spoilt(run / name, dice)
        laid_out(run, tmp_path / "run", name, content, sealed=turn % 3 > 0)
        for command in (*READERS[name], integrity.check):
            good = answered(name.encode() + b": " + content, command, tmp_path / "run")
            (read if good else refused)[name] += 1
    lenient = {rundir.LOG}
    assert all(read.values()) and all(n for name, n in refused.items() if name not in lenient)


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
