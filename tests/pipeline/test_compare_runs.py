"""Runs side by side: what each became by its own records, and which units have other bits."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

import bitwright as bw
from bitwright.errors import InputError, RunDirectoryError
from bitwright.export import rundir
from bitwright.pipeline.compare_runs import compare_runs
from networks import pictures, small_network


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs: two of one network, one of which has a wide first layer, and another network."""
    folder = tmp_path_factory.mktemp("side by side")
    names = ("eight", "four <b>", "other")
    keeps = ("", "first=w8a8", "")
    for name, keep, seed in zip(names, keeps, (0, 0, 1), strict=True):
        result = bw.quantize(
            small_network(seed), [pictures(48 if name == "other" else 32)], recipe="fixed",
            scheme="w8a8" if name != "four <b>" else "w4a8", keep=keep,
        )  # fmt: skip
        result.save(folder / name)
    return [folder / name for name in names]


def test_every_figure_is_the_runs_own(runs):
    found = compare_runs(runs[:2])
    for path, one in zip(runs, found.runs, strict=False):
        metrics = json.loads((path / rundir.METRICS).read_text())
        verify = json.loads((path / rundir.VERIFY).read_text())
        assert (one.run, one.samples) == (str(path), metrics["samples"])
        assert (one.agreement, one.kl) == (metrics["agreement"], metrics["kl"])
        assert one.weight_ratio == metrics["size"]["weight_ratio"]
        assert one.onnx_bytes == (path / rundir.ONNX).stat().st_size
        assert one.verified is verify["passed"]
    assert found.passed


def test_units_whose_bits_differ_are_named_and_no_others(runs):
    found = compare_runs(runs[:2])
    census = [json.loads((path / rundir.CENSUS).read_text())["units"] for path in runs[:2]]
    bits = [{u["name"]: (u["w_bits"], u["a_bits"]) for u in units} for units in census]
    other = {name for name in bits[0] if bits[0][name] != bits[1][name]}
    assert {unit.name for unit in found.units} == other
    assert found.same == len(bits[0]) - len(other) > 0
    assert {unit.bits for unit in found.units} == {("w8a8", "w4a8")}


def test_figures_that_do_not_compare_are_said(runs):
    assert any("numbers of samples" in note for note in compare_runs(runs).notes)
    assert not any("numbers of samples" in note for note in compare_runs(runs[:2]).notes)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)


def test_the_command_and_its_page(runs, bitwright, tmp_path):
    page = tmp_path / "page.html"
    done = bitwright("compare", *runs[:2], "--page", page)
    assert done.code == 0, done.err
    assert "units have the same bits" in done.out and "w4a8" in done.out
    text = page.read_text()
    # A folder's name stays text.
    assert "b" not in Tags(text).seen and "four &lt;b&gt;" in text
    said = json.loads(bitwright("compare", *runs[:2], "--json").out)
    assert said == compare_runs(runs[:2]).to_json()


def test_what_makes_no_sense(runs, bitwright, tmp_path):
    with pytest.raises(InputError, match="Name two or more"):
        compare_runs(runs[:1])
    with pytest.raises(InputError, match="named twice"):
        compare_runs([runs[0], runs[0]])
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        compare_runs([runs[0], tmp_path])
    mixed = bitwright("compare", runs[0], runs[1] / rundir.ONNX)
    assert mixed.code == 2 and "runs alone, or files alone" in mixed.err
    data = bitwright("compare", *runs[:2], "--data", "random")
    assert data.code == 2 and "without --data" in data.err
