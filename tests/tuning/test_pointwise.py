"""Gradients of strided pointwise convolutions, where the library's own run over their buffers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch import nn

from bitwright.graph.capture import capture
from bitwright.graph.execute import first_tensor, walk
from bitwright.graph.operators import aten
from bitwright.tuning.pointwise import narrow_strides_apart
from bitwright.tuning.straight import run_with
from networks import normal, seeded


class Padded(nn.Module):
    """The padding as a word, which is another operator."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 6, 1, 2, padding="valid")

    def forward(self, x):
        return self.layer(x)


SHAPES = {
    "3 channels": lambda: nn.Conv2d(3, 6, 1, 2),
    "4 channels": lambda: nn.Conv2d(4, 6, 1, 2, bias=False),
    "one way": lambda: nn.Conv2d(4, 6, 1, (1, 2)),
    "12 channels": lambda: nn.Conv2d(12, 5, 1, 3),
    "16 channels": lambda: nn.Conv2d(16, 5, 1, 2),
    "groups": lambda: nn.Conv2d(8, 6, 1, 2, groups=2),
    "padded": lambda: nn.Conv2d(4, 6, 1, 2, padding=1),
    "a window": lambda: nn.Conv2d(4, 6, 3, 2),
    "a word": Padded,
}
THREADS = ("1", "2")


def graph_of(shape: str):
    model = seeded(SHAPES[shape]).eval()
    layer = getattr(model, "layer", model)
    x = normal(22, layer.in_channels, 8, 8).to(memory_format=torch.channels_last)
    return capture(model, x[:2]), x


def gradients(shape: str, times: int):
    """Those of the output's square with respect to input and weight, several times over."""
    graph, x = graph_of(shape)
    narrow_strides_apart(graph.module)
    unit = graph.units[0]
    weight = unit.weight
    for _ in range(times):
        leaves = x.clone().requires_grad_(), graph.tensor(weight).clone().requires_grad_()
        y = first_tensor(run_with(graph.module, (leaves[0],), {weight: leaves[1]}))
        yield y.detach(), *torch.autograd.grad(y.square().sum(), leaves)
        if unit.bias is not None:  # by itself it asks the library for the weight's gradient too
            alone = {unit.bias: graph.tensor(unit.bias).clone().requires_grad_()}
            y = first_tensor(run_with(graph.module, (x,), alone))
            torch.autograd.grad(y.square().sum(), list(alone.values()))


@cache
def in_double(shape: str):
    graph, x = graph_of(shape)
    module, weight = graph.module.double(), graph.units[0].weight
    leaves = x.double().requires_grad_(), graph.tensor(weight).double().requires_grad_()
    y = first_tensor(run_with(module, (leaves[0],), {weight: leaves[1]}))
    return y.detach(), *torch.autograd.grad(y.square().sum(), leaves)


def compared(shape: str) -> list[float]:
    """The worst relative errors of output and gradients in forty passes."""
    true = in_double(shape)
    worst = [0.0] * 3
    for made in gradients(shape, 40):
        errors = [
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(made, true, strict=True)
        ]
        worst = [max(pair) for pair in zip(worst, errors, strict=True)]
    return worst


@pytest.fixture(scope="module")
def errors():
    """By threads and shape, from a process of its own: a heap that is written over ends it."""
    # Threads that wait for one another must not burn the processor that they wait for.
    threads = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    ran = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, check=False,
        env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("threads", THREADS)
def test_gradients_are_those_in_double_precision(errors, threads):
    worst = errors[threads]
    assert set(worst) == set(SHAPES)
    assert max(max(errors) for errors in worst.values()) < 1e-5, worst


def test_only_narrow_strided_pointwise_ones_are_sliced():
    for shape in SHAPES:
        graph, x = graph_of(shape)
        narrow_strides_apart(graph.module)
        with torch.profiler.profile() as profile:
            walk(graph.module, (x,))
        sliced = any(event.key == "aten::slice" for event in profile.key_averages())
        assert sliced == (shape not in ("16 channels", "groups", "padded", "a window")), shape


def test_the_general_operator_is_known_too():
    model = seeded(SHAPES["4 channels"]).eval()
    graph = capture(model, normal(2, 4, 8, 8))
    (node,) = (n for n in graph.module.graph.nodes if n.target is aten.conv2d.default)
    plain = model(normal(2, 4, 8, 8))
    node.target = aten.convolution.default
    node.args = (*node.args[:2], None, [2, 2], [0, 0], [1, 1], False, [0, 0], 1)
    narrow_strides_apart(graph.module)
    made = first_tensor(walk(graph.module, (normal(2, 4, 8, 8),)))
    assert torch.allclose(made, plain, rtol=1e-5, atol=1e-6)


def test_transposed_ones_stay_as_they_are():
    model = seeded(lambda: nn.ConvTranspose2d(4, 4, 1, 2)).eval()
    x = normal(2, 4, 8, 8)
    graph = capture(model, x)
    (node,) = (n for n in graph.module.graph.nodes if n.target is aten.conv_transpose2d.input)
    node.target = aten.convolution.default
    node.args = (*node.args[:3], [2, 2], [0, 0], [1, 1], True, [0, 0], 1)
    narrow_strides_apart(graph.module)
    assert torch.allclose(first_tensor(walk(graph.module, (x,))), model(x), rtol=1e-5, atol=1e-6)


def compared_with(threads: str) -> dict[str, list[float]]:
    torch.set_num_threads(int(threads))
    return {shape: compared(shape) for shape in SHAPES}


if __name__ == "__main__":
    sys.stdout.write(json.dumps({threads: compared_with(threads) for threads in THREADS}))
