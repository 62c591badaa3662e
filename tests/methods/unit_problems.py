"""Units of every kind as problems: alone, and with rows collected as in a solving run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn

from bitwright.graph.activation import activation_of
from bitwright.graph.capture import capture
from bitwright.graph.choice import Choice
from bitwright.methods.problem import RowSamples, UnitProblem, UnitSolution
from bitwright.numerics.affine import dequantize, fake_quantize
from bitwright.numerics.exact import exact_range
from bitwright.numerics.grid import Grid
from bitwright.solving.collect import CollectedPart, Collector, collect_batch, plan_of
from bitwright.solving.work import inputs_key
from networks import Chain, normal, seeded

BATCHES = 9  # one of eight is held out


class Product(nn.Module):
    """A product with a parameter: a unit that cannot have a bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.weight


class Added(nn.Module):
    """A product with a parameter and a bias, as GPT-2 writes its layers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


@dataclass(frozen=True)
class Case:
    """A layer, what follows it, one batch's shape, and what is odd about its inputs."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    after: Callable[[], nn.Module] | None = None
    spoil: Callable[[torch.Tensor], torch.Tensor] | None = None
    batches: int = BATCHES
    float_input: bool = False


def _with(layer, place, value):
    layer.weight.data[place] = value
    return layer


def _scaled(layer):
    layer.weight.data[0] *= 1e6
    layer.weight.data[1] *= 1e-20
    return layer


def _fixed(axis_slice, value):
    def spoil(x):
        x = x.clone()
        x[:, axis_slice] = value
        return x

    return spoil


IMAGE, ROW = (4, 4, 6, 6), (24, 12)
CASES = {
    "linear": Case(lambda: nn.Linear(12, 5), ROW),
    "linear without bias": Case(lambda: nn.Linear(12, 5, bias=False), ROW),
    "linear in three dimensions": Case(lambda: nn.Linear(12, 5), (4, 6, 12)),
    "product": Case(lambda: Product(12, 5), ROW),
    "added product": Case(lambda: Added(12, 5), ROW),
    "conv": Case(lambda: nn.Conv2d(4, 6, 3), IMAGE),
    "conv without bias": Case(lambda: nn.Conv2d(4, 6, 3, bias=False), IMAGE),
    "conv with relu": Case(lambda: nn.Conv2d(4, 6, 3), IMAGE, nn.ReLU),
    "conv with relu6": Case(lambda: nn.Conv2d(4, 6, 3, padding=1), IMAGE, nn.ReLU6),
    "conv in one dimension": Case(lambda: nn.Conv1d(4, 6, 3), (4, 4, 9)),
    "depthwise": Case(lambda: nn.Conv2d(6, 6, 3, groups=6), (4, 6, 6, 6), nn.ReLU6),
    "grouped": Case(lambda: nn.Conv2d(6, 8, 3, groups=2), (4, 6, 6, 6)),
    "transposed": Case(lambda: nn.ConvTranspose2d(4, 6, 3, 2), (4, 4, 4, 4)),
    "transposed grouped": Case(lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (4, 4, 4, 4)),
    "pointwise": Case(lambda: nn.Conv2d(8, 6, 1), (4, 8, 4, 4)),
    "dead inputs": Case(lambda: nn.Linear(12, 5), ROW, spoil=_fixed(slice(3, 7), 0.0)),
    "all inputs dead": Case(lambda: nn.Linear(12, 5), ROW, spoil=torch.zeros_like),
    "constant inputs": Case(lambda: nn.Conv2d(4, 6, 3), IMAGE, spoil=_fixed(slice(0, 2), 0.7)),
    "dead weights": Case(lambda: _with(nn.Linear(12, 5), (slice(None), slice(3, 7)), 0.0), ROW),
    "dead channel": Case(lambda: _with(nn.Conv2d(4, 6, 3), (2,), 0.0), IMAGE),
    "all weights dead": Case(lambda: _with(nn.Linear(12, 5, bias=False), (slice(None),), 0.0), ROW),
    "constant channels": Case(lambda: _with(nn.Conv2d(4, 6, 3), (slice(0, 3),), 0.7), IMAGE),
    "negative channel": Case(lambda: _with(nn.Linear(12, 5), (1,), -0.3), ROW),
    "huge and tiny channels": Case(lambda: _scaled(nn.Linear(12, 5)), ROW),
    "one output": Case(lambda: nn.Linear(12, 1), ROW),
    "one sample": Case(lambda: nn.Linear(12, 5), (1, 12), batches=1),
    "one image": Case(lambda: nn.Conv2d(4, 6, 3), (1, 4, 4, 4), nn.ReLU, batches=1),
    "one number": Case(lambda: nn.Linear(12, 1), (1, 12), batches=1),
    "two rows": Case(lambda: nn.Linear(12, 5), (2, 12), nn.ReLU, batches=1),
    "float input": Case(lambda: nn.Conv2d(4, 6, 3), IMAGE, nn.ReLU, float_input=True),
}  # fmt: skip


def layer_of(name: str) -> nn.Module:
    """The bare layer of a case."""
    return seeded(CASES[name].make)


@cache
def captured(name: str):
    """The case's network as a graph of one unit."""
    case = CASES[name]
    parts = [layer_of(name)] + ([case.after()] if case.after else [])
    return capture(Chain(*parts).eval(), (normal(max(case.shape[0], 2), *case.shape[1:]),))


def batches_of(name: str) -> list[torch.Tensor]:
    """Inputs, centred away from zero as activations are."""
    case = CASES[name]
    made = [normal(*case.shape, seed=i).abs() + 0.1 for i in range(case.batches)]
    return [case.spoil(x) if case.spoil else x for x in made]


def bare(layer: nn.Module, bits: int, symmetric=False, per_channel=True) -> UnitProblem:
    """A linear layer that stands in no network."""
    return UnitProblem(
        name="unit",
        kind="linear",
        weight=layer.weight.detach(),
        bias=None if layer.bias is None else layer.bias.detach(),
        channel_axis=0,
        groups=1,
        choice=Choice(bits, 8),
        grid=Grid(bits, symmetric),
        symmetric=symmetric,
        per_channel=per_channel,
        inputs=(None,),
        seed=7,
    )


def problem(name: str, bits: int, symmetric=False, per_channel=True) -> UnitProblem:
    """A case by its weights alone."""
    graph = captured(name)
    unit = graph.units[0]
    return UnitProblem(
        name="unit",
        kind=unit.kind,
        weight=graph.tensor(unit.weight),
        bias=graph.tensor(unit.bias) if unit.bias else None,
        channel_axis=unit.channel_axis,
        groups=unit.groups,
        choice=Choice(bits, bits),
        grid=Grid(bits, symmetric),
        symmetric=symmetric,
        per_channel=per_channel,
        inputs=(None,),
        seed=7,
        unit=unit,
    )


def with_rows(name: str, bits: int, symmetric=False, per_channel=True) -> UnitProblem:
    """A case with its sums and rows; what the unit is given differs a little from the truth."""
    graph, case = captured(name), CASES[name]
    unit, batches = graph.units[0], batches_of(name)
    every = torch.cat([x.reshape(-1) for x in batches])
    grid = exact_range(every.min(), every.max(), Grid(bits))
    inputs = (None if case.float_input else grid,)
    plan = plan_of(graph, unit, {inputs_key(inputs): inputs}, len(batches), 1 << 12, 3)
    collector = Collector(plan)
    for index, x in enumerate(batches):
        part = CollectedPart({})
        given = x + 0.05 * (x != 0) * normal(*x.shape, seed=100 + index)
        collect_batch(plan, part, index, 0, x, given)
        collector.absorb(part)
    sums, (fit, apart) = collector.sums[inputs_key(inputs)], collector.samples()
    return replace(
        problem(name, bits, symmetric, per_channel),
        inputs=inputs,
        gram=sums.fit,
        held_out=sums.apart,
        samples=fit,
        samples_apart=apart,
        activation=activation_of(graph, unit),
    )


def output_error(
    given: UnitProblem, rows: RowSamples, found: UnitSolution, activation=None
) -> float:
    """Squared output error of a solution on some rows, written out once more in float64."""
    weight = dequantize(found.q, found.weight).double()
    if given.kind in ("addmm", "matmul"):
        weight = weight.t()[None]
    elif given.kind.startswith("conv_transpose"):
        # A transposed convolution turns its kernel; here only those of one group.
        weight = weight.flip(2, 3).transpose(0, 1).flatten(1)[None]
    else:
        weight = weight.reshape(given.groups, -1, rows.x.shape[-1])
    x = rows.x if found.inputs[0] is None else fake_quantize(rows.x, found.inputs[0])
    out = x.double() @ weight.transpose(1, 2)
    if found.bias is not None:
        out = out + found.bias.double().reshape(out.shape[0], 1, out.shape[2])
    act = activation or (lambda value: value)
    return float((act(out) - act(rows.y.double())).square().sum())
