"""Equalisation and factorisation: the network's answers stay, ranges become alike."""

from __future__ import annotations

import pytest
import torch
from foldable import NETWORKS, inputs

import bitwright as bw
from bitwright.errors import RecipeError
from bitwright.graph.capture import capture
from bitwright.prepare.equalize import Equalize, reader_range, weights_of, writer_range
from bitwright.prepare.factorize import Factorize
from bitwright.prepare.joints import find_joints
from bitwright.tuning.statistics import output_moments
from networks import pictures, small_network

SCALING = {"equalize": Equalize(), "factorize": Factorize()}
EVERY = pytest.mark.parametrize("name", NETWORKS)
STEP = pytest.mark.parametrize("step", SCALING)


def made(name, uneven=True):
    """A captured network whose channels differ in range by far more than random ones do."""
    net = NETWORKS[name][0]()
    graph = capture(net, (inputs(name),))
    if uneven:
        for joint in find_joints(graph):
            weight = graph.tensor(joint.writer.weight)
            factor = torch.exp(torch.linspace(-2, 2, joint.channels))
            shape = [1] * weight.dim()
            shape[joint.writer.channel_axis] = -1
            weight.mul_(factor.reshape(shape))
    return graph


@EVERY
@STEP
def test_the_answers_stay_what_they_were(name, step):
    graph = made(name)
    digest = graph.digest()
    x = inputs(name, 16, seed=5)
    with torch.no_grad():
        want = graph.module(x)
        changed = SCALING[step].apply(graph)
        got = changed.module(x)
    assert graph.digest() == digest != changed.digest()
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


@EVERY
def test_both_sides_of_every_joint_get_the_same_range(name):
    changed = Equalize().apply(made(name))
    joints = find_joints(changed)
    assert len(joints) == len(NETWORKS[name][1])
    weights = weights_of(changed, joints)
    for joint in joints:
        own, theirs = writer_range(joint, weights), reader_range(joint, weights)
        assert torch.allclose(own, theirs, rtol=5e-3)


@EVERY
def test_factorisation_fills_ranges_and_enlarges_none(name):
    graph = made(name)
    joints = find_joints(graph)
    changed = Factorize().apply(graph)
    before, after = weights_of(graph, joints), weights_of(changed, joints)
    first = joints[0]
    own = writer_range(first, before)
    assert float(own.max()) == pytest.approx(float(writer_range(first, after).max()), rel=1e-6)
    assert (writer_range(first, after) >= own * (1 - 1e-6)).all()
    if first.writer.name not in graph.folded:
        assert torch.allclose(writer_range(first, after), own.max().expand_as(own))


@STEP
@pytest.mark.parametrize("name", ["inverted", "small"])
def test_records_of_batch_norms_follow(name, step):
    graph = made(name, uneven=False)
    changed = SCALING[step].apply(graph)
    x = inputs(name, 64, seed=7)
    moments = [output_moments(g.module, g.units, lambda: iter([(x,)])) for g in (graph, changed)]
    for unit, record in changed.folded.items():
        old = graph.folded[unit]
        factor = (moments[1][unit].var / moments[0][unit].var).sqrt().float()
        alive = moments[0][unit].var > 1e-8
        for have, had in ((record.gamma, old.gamma), (record.beta, old.beta)):
            assert torch.allclose(have[alive], (had * factor)[alive], rtol=1e-3, atol=1e-6)
        assert torch.equal(record.mean, old.mean)


def test_clips_that_are_let_go_are_said():
    graph = made("inverted", uneven=False)
    changed = Equalize(relu6="relu").apply(graph)
    assert sum("its clip is let go" in note.text for note in changed.notes) == 3
    left = Equalize(relu6="skip").apply(graph)
    assert left.digest() == graph.digest()
    x = 0.01 * inputs("inverted")
    with torch.no_grad():
        assert torch.allclose(changed.module(x), graph.module(x), atol=1e-5)


def test_equalising_twice_changes_nothing_more():
    once = Equalize().apply(made("inverted"))
    twice = Equalize().apply(once)
    for unit in once.units:
        a, b = once.tensor(unit.weight), twice.tensor(unit.weight)
        assert torch.allclose(a, b, rtol=5e-3)


def test_dead_channels_stay():
    graph = made("rows", uneven=False)
    graph.tensor("m0.weight")[3] = 0.0
    graph.tensor("m0.weight")[4] *= 1e-20
    graph.tensor("m2.weight")[:, 5] = 0.0
    for name, step in SCALING.items():
        changed = step.apply(graph)
        assert all(torch.isfinite(changed.tensor(u.weight)).all() for u in changed.units)
        # A constant must not grow without bounds; the last channel is one that nobody reads.
        assert (changed.tensor("m0.bias").abs() < 20 * graph.tensor("m0.bias").abs()).all()
        same = torch.equal(changed.tensor("m0.weight")[5], graph.tensor("m0.weight")[5])
        assert same == (name == "equalize")


@pytest.mark.parametrize(
    ("prepare", "target"),
    [
        ("equalize", "ort-cpu"),
        ("equalize-relu", "paper"),
        ("factorize", "paper"),
        ("ocs", "ort-cpu"),
    ],
)
def test_through_the_pipeline_and_onnx_runtime(prepare, target, tmp_path):
    net = small_network()
    result = bw.quantize(
        net, [pictures(48)], recipe="fixed", scheme="w8a8", prepare=prepare, target=target
    )
    run = result.save(tmp_path / "run")
    assert run.read_json("verify.json")["passed"]
    assert result.metrics["agreement"] > 0.9
    x = pictures(16, seed=3)
    again = bw.load(tmp_path / "run", model=net)
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))


def test_unknown_treatment():
    with pytest.raises(RecipeError, match="unknown treatment of ReLU6 'keep' in equalize"):
        Equalize(relu6="keep")
