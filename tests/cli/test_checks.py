"""A wrong word or a missing file is answered before torch, scipy or onnx would have been loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("torch", "scipy", "onnx", "onnxruntime", "numpy")
Q = ["quantize", "net.py:net", "--data", "x.npz"]
WRONG = {
    "scheme": [*Q, "--scheme", "w4"],
    "keep": [*Q, "--keep", "first"],
    "menu": [*Q, "--menu", "w4a4,w99a4", "--budget", "size<=0.1"],
    "budget": [*Q, "--menu", "w4a4,w8a8", "--budget", "size"],
    "solver": [*Q, "--solver", "mip"],
    "method": [*Q, "--method", "nearst"],
    "mode": [*Q, "--mode", "serial"],
    "target": [*Q, "--target", "ort"],
    "target file": [*Q, "--target", "none.toml"],
    "metric": [*Q, "--metric", "top7"],
    "metric file": [*Q, "--metric", "none.py:f"],
    "recipe": ["quantize", "--recipe", "lite"],
    "recipe file": ["quantize", "--recipe", "none.toml"],
    "recipe key": ["quantize", "--recipe", "keys.toml"],
    "range": [*Q, "--weight-range", "msee"],
    "tune": [*Q, "--tune", "bm"],
    "prepare": [*Q, "--prepare", "equalise"],
    "device": [*Q, "--device", "cpu:7x"],
    "seed": [*Q, "--seed", str(1 << 80)],
    "calib": [*Q, "--calib", "-1"],
    "workers": [*Q, "--workers", "0"],
    "workers' address": [*Q, "--workers", "host:port"],
    "model": ["quantize", "nowhere", "--data", "x.npz"],
    "model file": ["quantize", "none.py:net", "--data", "x.npz"],
    "model program": ["quantize", "none.pt2", "--data", "x.npz"],
    "model folder": ["quantize", "hf:none", "--data", "x.npz"],
    "weights": ["quantize", "timm:resnet18", "--weights", "none.pth", "--data", "x.npz"],
    "data": ["quantize", "net.py:net", "--data", "none.npz"],
    "data folder": ["quantize", "net.py:net", "--data", "nowhere"],
    "eval": [*Q, "--eval", "none.jsonl"],
    "no model": ["quantize"],
    "no data": ["quantize", "net.py:net"],
    "doctor": ["doctor", "none.py:net"],
    "measure": ["measure", "net.py:net", "--menu", "w4"],
    "measure's target": ["measure", "net.py:net", "--target", "ort"],
    "evaluate": ["evaluate", "nowhere"],
    "evaluate's metric": ["evaluate", "run", "--metric", "top7"],
    "verify": ["verify", "nowhere"],
    "verify's data": ["verify", "run", "--data", "none.npz"],
    "export": ["export", "nowhere"],
    "report": ["report", "nowhere"],
    "frontier": ["frontier", "nowhere"],
    "allocate": ["allocate", "run", "--budget", "siz<0.1"],
    "explain": ["explain", "run", "stem", "--budget", "size<0.1 or so"],
    "list": ["list", "nothing"],
}
# Every request in one process: exit code, seconds, what it loaded of the heavy ones.
SCRIPT = """
import contextlib, io, json, sys, time
from bitwright import cli
found = {}
for name, words in json.load(sys.stdin).items():
    sys.argv = ["bitwright", *words]
    err, started = io.StringIO(), time.perf_counter()
    try:
        with contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        code = ended.code
    loaded = [m for m in %r if m in sys.modules]
    found[name] = [code, time.perf_counter() - started, loaded, err.getvalue()]
    if loaded:
        break
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("here")
    (folder / "net.py").write_text("import torch\n\n\ndef net():\n    raise AssertionError\n")
    (folder / "x.npz").write_bytes(b"")
    (folder / "keys.toml").write_text("schme = 'w4a4'\n")
    (folder / "run").mkdir()
    (folder / "run" / "recipe.toml").write_text("version = 1\n")
    script = SCRIPT % (HEAVY[:-1],)
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(WRONG), cwd=folder, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", WRONG)
def test_answered_before_torch_is_loaded(answers, name):
    assert name in answers, f"a request before {name!r} loaded too much: {list(answers)[-1]}"
    code, _, loaded, err = answers[name]
    assert (code, loaded) == (2, []), err
    assert err.startswith("bitwright: ") and err.count("\n") == 1


def test_an_answer_takes_no_longer_than_a_few_bare_starts_of_python(tmp_path):
    """A ratio, for the machines are shared: torch alone is some fifty bare starts."""

    def seconds(*words: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, check=False)
        return time.perf_counter() - started

    bare = min(seconds("-c", "import typer, rich.progress") for _ in range(3))
    wrong = min(seconds("-m", "bitwright", "quantize", "a.py:f", "--data", "no") for _ in range(3))
    assert wrong < 4 * bare + 0.3


def test_completion_in_bash():
    def offered(*words: str) -> list[str]:
        line = " ".join(["bitwright", *words])
        env = {"COMP_WORDS": line, "COMP_CWORD": str(len(words))}
        done = subprocess.run(
            [sys.executable, "-m", "bitwright"], capture_output=True, text=True, check=False,
            env={**os.environ, "_BITWRIGHT_COMPLETE": "complete_bash", **env},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert offered("qu") == ["quantize"]
    assert offered("list", "m") == ["methods", "metrics"]
    assert offered("quantize", "--method", "ada") == ["adaquant", "adaquant-paper", "adaround"]
    own = ["ort-cpu", "ort-linear", "ort-dynamic", "ort-blocks", "ort-web"]
    assert offered("quantize", "--target", "ort") == own
    assert offered("quantize", "--recipe", "l") == ["light", "lapq"]
    assert "--force" in offered("quantize", "--fo")


def test_the_files_of_a_request_may_be_given_from_anywhere(bitwright, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = bitwright("quantize", "net.py:net", "--data", "none")
    assert done.code == 2 and "no file 'net.py'" in done.err and str(Path.cwd()) in done.err
