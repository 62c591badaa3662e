"""ZeroQ: inputs made from what batch-norms remember, and runs without any data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.engine.progress import Progress
from bitwright.errors import DataError, RecipeError
from bitwright.graph.capture import capture
from bitwright.graph.execute import walk
from bitwright.pipeline.runs import evaluate, load_run
from bitwright.prepare.distil import Distillation, distil, list_wanted_outputs, mismatch
from networks import Chain, SmallNet, normal, pictures, seeded

QUICK = Distillation(samples=16, batch=16, iterations=60)


def trained():
    """A network whose batch-norms have seen `pictures`, as training leaves them."""
    net = seeded(SmallNet).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5, torch.Generator().manual_seed(1))
            nn.init.normal_(module.bias, 0.0, 0.3, torch.Generator().manual_seed(2))
    with torch.no_grad():
        for seed in range(8):
            net(pictures(64, seed=seed))
    net.eval().example_inputs = (pictures(2),)
    return net


@pytest.fixture(scope="module")
def graph():
    return capture(trained(), (pictures(2),))


def test_what_batch_norms_remember_is_what_their_outputs_were_like(graph):
    seen = {}
    x = torch.cat([pictures(64, seed=seed) for seed in range(8)])
    walk(graph.module, (x,), lambda node, value: seen.update({node.name: value}))
    for name, goal in list_wanted_outputs(graph).items():
        output = seen[name].movedim(1, 0).flatten(1)
        assert torch.allclose(output.mean(1), goal.mean, atol=0.02)
        assert torch.allclose(output.std(1), goal.std, rtol=0.03)


def test_distilled_inputs_match_better_than_noise_and_are_the_same_every_time(graph):
    (x,), (again,) = distil(graph, QUICK), distil(graph, QUICK)
    assert torch.equal(x, again) and x.shape == (16, 3, 16, 16)
    wanted = list_wanted_outputs(graph)
    with torch.no_grad():
        noise, real = normal(16, *x.shape[1:]), pictures(16, seed=50)
        found = [float(mismatch(graph, t, wanted)) for t in (x, noise, real)]
    assert found[0] < 0.2 * found[1] and found[0] < found[2]


def test_batches_are_as_many_as_asked_and_told(graph):
    told = []
    options = Distillation(samples=6, batch=4, iterations=2)
    assert [len(x) for x in distil(graph, options, told.append)] == [4, 2] and told == [4, 6]


def test_a_run_without_data(tmp_path):
    net = trained()
    blind = bw.quantize(net, "none", recipe="zeroq")
    assert blind.metrics["evaluated_on"] == "distilled data"
    x = pictures(128, seed=77)
    with torch.no_grad():
        want, got = net(x), blind.model(x)
    assert (got - want).square().sum() < 0.05 * want.square().sum()
    run = blind.save(tmp_path / "run")
    assert run.read_json("verify.json")["passed"]
    found = evaluate(load_run(tmp_path / "run", net), "", "agreement", Progress())
    assert found["agreement"] > 0.9


def test_weights_only_need_no_statistics():
    net = Chain(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    net.example_inputs = (torch.zeros(2, 6),)
    result = bw.quantize(net, "none", recipe="fixed", scheme="w8a8", target="weights-only")
    assert result.metrics["agreement"] > 0.9


@pytest.mark.parametrize(
    ("net", "example", "message"),
    [
        (Chain(nn.Linear(6, 5)), torch.zeros(2, 6), "no batch-norm that was folded"),
        (Chain(nn.Embedding(9, 4), nn.Linear(4, 2)), torch.ones(2, 3).long(), "one input of float"),
    ],
)
def test_networks_that_do_not_say_what_their_data_were_like(net, example, message):
    net.eval().example_inputs = (example,)
    with pytest.raises(DataError, match=message):
        bw.quantize(net, "none", recipe="fixed", scheme="w8a8")


def test_a_network_that_does_not_say_its_inputs():
    with pytest.raises(DataError, match="Set example_inputs"):
        bw.quantize(Chain(nn.Linear(6, 5)).eval(), "none", recipe="fixed", scheme="w8a8")


def test_nonsense_settings():
    with pytest.raises(RecipeError, match="a batch has two samples"):
        Distillation(batch=1)
