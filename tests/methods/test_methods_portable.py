"""`--portable`: on a kernel that cuts pairs off at 16 bits the network computes what it says."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from benchmarks.saturating import Saturating

import bitwright as bw
from bitwright.export.certificate import certify
from bitwright.graph.execute import bind, walk
from bitwright.graph.simulate import stitch
from bitwright.numerics.kernel_sums import channel_rows, neighbours_of, pair_peaks
from networks import pictures, small_network


@cache
def quantised(**options):
    options = {"scheme": "w8a8", "target": "ort-cpu", "method": "nearest", **options}
    return bw.quantize(
        small_network(width=8), [pictures(16, size=8)], **{"recipe": "fixed", **options}
    )


def on_old_processor(result, x):
    """The answers and how many sums were cut off, on the emulated processor and on any other."""
    marked = stitch(result.graph, result.assignment, marks=True)
    flat = bind(result.graph, x)
    emulated = Saturating(result.graph, marked)
    with torch.no_grad():
        got, exact = emulated.run(*flat), walk(marked, flat)
    found = got if isinstance(got, torch.Tensor) else got[0]
    lost = sum(cut for cut, _ in emulated.lost.values())
    return found, exact, lost, certify(result.graph, marked)


def hard(size=8):
    """Inputs at the upper end of their grids, where sums are greatest."""
    return pictures(8, size=size).abs() * 4


@pytest.mark.parametrize("method", ["nearest", "quadratic"])
def test_the_answers_are_those_of_every_processor(method):
    got, exact, lost, found = on_old_processor(quantised(method=method, portable=True), hard())
    assert lost == 0 and torch.equal(got, torch.as_tensor(exact[0]))
    assert found["holds"] and all(u["pairs"] <= 1 for u in found["units"].values())


@pytest.mark.parametrize("method", ["nearest", "quadratic"])
def test_without_it_they_are_not(method):
    got, exact, lost, found = on_old_processor(quantised(method=method), hard())
    assert lost > 0 and not torch.equal(got, torch.as_tensor(exact[0]))
    assert not found["holds"]
    # Nothing is cut off in a unit that the certificate calls safe.
    assert any(u["pairs"] > 1 for u in found["units"].values())


def test_seven_bits_need_no_repair():
    """Where nothing can exceed, `--portable` changes no bit."""
    plain, portable = (quantised(scheme="w7a8", portable=p) for p in (False, True))
    for name, weight in plain.assignment.weights.items():
        assert torch.equal(weight.q, portable.assignment.weights[name].q)
        assert torch.equal(weight.qparams.scale, portable.assignment.weights[name].qparams.scale)


def test_channels_that_fit_are_left_alone():
    plain, portable = (quantised(portable=p) if p else quantised() for p in (False, True))
    same = changed = 0
    for unit in plain.graph.units:
        old, new = (r.assignment.weights[unit.name] for r in (plain, portable))
        rows, other = (channel_rows(w.q, unit.channel_axis) for w in (old, new))
        pairs = neighbours_of(old.q, unit.channel_axis)
        for index, peak in enumerate(pair_peaks(rows, pairs).tolist()):
            equal = torch.equal(rows[index], other[index])
            assert equal or peak > 128
            same, changed = same + equal, changed + (not equal)
    assert same and changed


def test_the_other_weights_make_good_for_those_that_give_way():
    """With data known next to nothing is lost."""
    x = pictures(16, size=8)
    with torch.no_grad():
        wanted = small_network(width=8)(x)
        plain, portable = (
            float((quantised(method="quadratic", **own).model(x) - wanted).square().mean())
            for own in ({}, {"portable": True})
        )
    assert portable < 1.5 * plain


def test_learned_weights_are_held_too():
    """A step that learns weights after solving does not undo it."""
    result = quantised(portable=True, tune="qat-kld-last")
    assert on_old_processor(result, hard())[3]["holds"]


def test_one_scale_for_all_channels_gives_way_by_weights_alone(tmp_path):
    target = tmp_path / "one.toml"
    target.write_text(
        'name = "one"\nweight_symmetric = true\nweight_signed = true\nweight_per_channel = false\n'
    )
    result = quantised(portable=True, target=str(target))
    assert on_old_processor(result, hard())[3]["holds"]
    assert all(w.qparams.scale.numel() == 1 for w in result.assignment.weights.values())


def test_a_broken_promise_fails_the_verification():
    """An assignment whose sums exceed does not pass where they were promised to fit."""
    result = quantised(portable=True)
    plain = quantised()
    mixed = replace(result, assignment=plain.assignment, model=plain.model)
    found = mixed.verify()
    assert found["portable"]["asked"] and not found["portable"]["holds"] and not found["passed"]
    assert found["first_failure"] is None and found["agreement"] == 1.0
