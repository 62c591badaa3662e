"""`bitwright frontier RUN --eval D`: the knees run, against the same bits quantised alone."""

from __future__ import annotations

import csv
import re
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import torch

import bitwright as bw
from bitwright import cli
from bitwright.cli.table_commands import FrontierRequest, trace_run
from bitwright.graph.choice import Choice
from bitwright.pipeline.knees import candidates
from networks import TESTS, pictures, small_network

USER_FILE = f"""
import sys
sys.path.append({str(TESTS)!r})
import torch
from networks import pictures, small_network


def net():
    made = small_network(width=32)
    made.example_inputs = (torch.zeros(2, 3, 16, 16),)
    return made


def calib():
    return [pictures(32)]


def labelled():
    x = pictures(40, seed=3)
    return [(x, torch.arange(40) % 10)]
"""
SETTINGS = {"method": "quadratic", "mode": "parallel", "batch": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier")
    (folder / "user.py").write_text(USER_FILE)
    (folder / "recipe.toml").write_text(
        "".join(f"{k} = {v!r}\n".replace("'", '"') for k, v in SETTINGS.items())
    )
    code, _, told = bitwright(
        "quantize", f"{folder / 'user.py'}:net", "--data", f"{folder / 'user.py'}:calib",
        "--menu", "w{2,3,4,8}a{4,8}", "--budget", "size<=0.3", "--out", folder / "run",
        "--store", folder / "store", "--recipe", folder / "recipe.toml", "--target", "paper",
        "--quiet",
    )  # fmt: skip
    assert code in (0, 1), told
    return folder


def bitwright(*words):
    """The command in this process: exit code, what it prints, what it tells."""
    import contextlib
    import io

    out, told = io.StringIO(), io.StringIO()
    old, sys.argv = sys.argv, ["bitwright", *map(str, words)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
            cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = old
    return code, out.getvalue(), told.getvalue()


def lines_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def stored(folder):
    return {p: p.stat().st_mtime_ns for p in (folder / "store").rglob("*.safetensors")}


def test_knees_are_run_from_the_stored_solutions(run):
    before = stored(run)
    data = f"{run / 'user.py'}:labelled"
    code, out, told = bitwright(
        "frontier", run / "run", "--eval", data, "--store", run / "store", "--beside"
    )
    assert code == 0, told
    assert "measured" in out and "top1" in out
    assert stored(run) == before  # everything was there; nothing was solved again
    lines = lines_of(run / "run" / "frontier.csv")
    ran = [r for r in lines if r["measured"]]
    assert {r["method"] for r in ran} == {"ip", "greedy-accuracy", "greedy-compression", "uniform"}
    knees = [r for r in lines if r["knee"] == "1"]
    assert knees and all(r["measured"] for r in knees)
    check_one(run, ran)
    check_picture((run / "run" / "frontier.svg").read_text(), len(ran))


def check_one(run, ran):
    """A knee quantised by itself, its bits named one by one, gives the same figures."""
    found = trace_run(run / "run", FrontierRequest())
    chosen = candidates(found.table, found.frontier)[0]
    line = next(r for r in ran if r["method"] == "ip" and float(r["used"]) == chosen.used)
    keep = ",".join(f"{unit}={choice}" for unit, choice in chosen.choices.items())
    net, calib = small_network(width=32), pictures(32)
    alone = bw.quantize(net, [calib], keep=keep, **{"recipe": "fixed", **SETTINGS}).model
    base = bw.quantize(net, [calib], scheme="w8a8", **{"recipe": "fixed", **SETTINGS}).model
    x = pictures(40, seed=3)
    with torch.no_grad():
        change = divergence(net, alone, calib) - divergence(net, base, calib)
        answers = alone(x).argmax(1)
        assert float(line["measured"]) == pytest.approx(change, rel=1e-3, abs=1e-6)
        assert float(line["top1"]) == pytest.approx(
            float((answers == torch.arange(40) % 10).float().mean())
        )
        assert float(line["agreement"]) == pytest.approx(
            float((answers == net(x).argmax(1)).float().mean())
        )
        assert float(line["kl"]) == pytest.approx(divergence(net, alone, x), rel=1e-3)
    assert float(line["loss_delta"]) == pytest.approx(chosen.predicted)


def divergence(net, other, x):
    p, q = (model(x).double().log_softmax(1) for model in (net, other))
    return float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean"))


def check_picture(text, count):
    picture = ElementTree.fromstring(text)
    shown = " ".join(picture.itertext())
    for words in ("Error of the additive prediction", "top1 on the evaluation", "rings: measured"):
        assert words in shown
    # Rings: in the picture, in the legend, and in the panels of error, agreement and top1.
    assert len(re.findall(r'fill="white" stroke-width', text)) == 4 * count + 1
    height = float(picture.attrib["height"])
    assert all(0 <= float(n) <= height for n in re.findall(r' cy="(-?[\d.]+)"', text))


def test_without_a_store_what_is_needed_is_solved_again(run):
    code, _, told = bitwright(
        "frontier", run / "run", "--eval", f"{run / 'user.py'}:labelled", "--quiet"
    )
    assert code == 0, told
    ran = [r for r in lines_of(run / "run" / "frontier.csv") if r["measured"]]
    assert ran and {r["method"] for r in ran} == {"ip"}
    check_one(run, ran)


def test_candidates_beside_a_knee_cost_no_more(run):
    found = trace_run(run / "run", FrontierRequest(cost="bops"))
    every = candidates(found.table, found.frontier, beside=True)
    knees = sorted(c.used for c in every if c.method == "ip")
    assert len(knees) == len(found.frontier.knees)
    for other in every:
        assert other.used <= knees[-1]
        rows = [
            next(r for r in found.table.of(u) if r.choice == c) for u, c in other.choices.items()
        ]
        assert sum(r.bops for r in rows) == other.used
        assert sum(r.loss for r in rows) == pytest.approx(other.predicted)
        assert other.share == other.used / found.frontier.cost.whole
    uniform = next(c for c in every if c.method == "uniform")
    assert len({Choice(c.w_bits, c.a_bits) for c in uniform.choices.values()}) == 1


def test_wrong_requests(run, tmp_path):
    code, _, told = bitwright("frontier", run / "run", "--eval", "nowhere.py:data")
    assert code == 2 and "nowhere.py" in told
    code, _, told = bitwright(
        "frontier", run / "run", "--eval", f"{run / 'user.py'}:labelled", "--metric", "top9"
    )
    assert code == 2 and "unknown metric 'top9'" in told
    net = small_network()
    made = bw.quantize(net, [pictures(16)], recipe="fixed", menu="w8a8,w4a8", budget="size<=0.9")
    made.save(tmp_path / "run", verify=False)
    code, _, told = bitwright("frontier", tmp_path / "run", "--eval", f"{run / 'user.py'}:labelled")
    assert code == 2 and "names no MODEL" in told
