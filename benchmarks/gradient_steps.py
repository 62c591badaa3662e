"""A step of the gradient methods against plain autograd, on units as vision networks have them.

    python benchmarks/gradient_steps.py [--steps 50]

A step of AdaQuant's kind learns weight, bias and the input's scale of one unit from a minibatch of
its rows; one of AdaRound's learns where each weight is rounded. `plain` writes it as formulas for
autograd; `package` takes the package's rows, quantiser, loss and slopes. Both run by turns, on one
thread, and learn the same but for rounding. Needs no data. Writes docs/gradient_steps.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.tables import DOCS, RESULTS, markdown, write_csv
from bitwright.graph.activation import Activation
from bitwright.graph.choice import Choice
from bitwright.methods.problem import Samples, UnitProblem
from bitwright.methods.training import batch_rows, picked_rows, squared_error
from bitwright.numerics.affine import QParams, fake_quantize_ste
from bitwright.numerics.grid import Grid
from bitwright.numerics.soft_rounding import GAMMA, ZETA, begin_at, pull, slope, soft_rounding

GRID = Grid(4)
STEP, POWER, PULL = 0.05, 8.0, 1e-4
ROUNDS = 5


@dataclass(frozen=True)
class Shape:
    """A unit's matrices: groups, inputs and outputs of each, rows kept, what follows."""

    name: str
    groups: int
    inputs: int
    outputs: int
    rows: int
    activation: Activation | None = None


RELU6 = Activation("hardtanh", (0.0, 6.0))
SHAPES = (
    Shape("3x3, 16 to 16", 1, 144, 16, 1 << 15, Activation("relu")),
    Shape("3x3, 64 to 64", 1, 576, 64, 1 << 15, Activation("relu")),
    Shape("expansion 32 to 192", 1, 32, 192, 1 << 15, RELU6),
    Shape("expansion 192 to 1152", 1, 192, 1152, 1 << 14, RELU6),
    Shape("projection 672 to 112", 1, 672, 112, 1 << 15),
    Shape("depthwise 3x3, 576", 576, 9, 1, 1 << 12, RELU6),
    Shape("depthwise 5x5, 672", 672, 25, 1, 1 << 11, RELU6),
)


def problem_of(shape: Shape) -> UnitProblem:
    """Random weights and rows of a shape."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    x = normal(shape.groups, shape.rows, shape.inputs).relu_()
    weight = normal(shape.groups, shape.outputs, shape.inputs) / shape.inputs**0.5
    y = x @ weight.transpose(1, 2)
    inputs = QParams(GRID, torch.tensor(0.2), torch.tensor(0, dtype=torch.int32))
    return UnitProblem(
        name="unit", kind="conv2d", weight=weight, bias=None, channel_axis=0, groups=shape.groups,
        choice=Choice(4, 4), grid=GRID, symmetric=False, per_channel=True, inputs=(inputs,), seed=0,
        samples=Samples(x, y), activation=shape.activation,
    )  # fmt: skip


@dataclass(eq=False)
class Learned:
    """What is learned, and its optimiser."""

    problem: UnitProblem

    def __post_init__(self) -> None:
        weight = self.problem.weight
        self.weight = weight.clone().requires_grad_()
        self.bias = weight.new_zeros(weight.shape[0], 1, weight.shape[1]).requires_grad_()
        self.log = torch.zeros(()).requires_grad_()
        self.scale, self.zero = torch.tensor(0.2), torch.tensor(0.0)
        self.adam = torch.optim.Adam([self.weight, self.bias, self.log], lr=1e-3)

    def updated(self, loss: Tensor) -> None:
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()


def plain(learned: Learned, picked: Tensor) -> None:
    """The formulas, for autograd."""
    problem = learned.problem
    assert problem.samples is not None
    x, y = problem.samples.x[:, picked], problem.samples.y[:, picked]
    scale = learned.scale * learned.log.exp()
    ratio = x / scale
    steps = ratio + (torch.round(ratio) - ratio).detach()
    x = steps.clamp(GRID.qmin, GRID.qmax) * scale
    out = x @ learned.weight.transpose(1, 2) + learned.bias
    if problem.activation is not None:
        out, y = problem.activation(out), problem.activation(y)
    learned.updated((out - y).square().mean())


def package(learned: Learned, picked: Tensor) -> None:
    """The same step as the methods take it."""
    problem = learned.problem
    assert problem.samples is not None
    x, y = picked_rows(problem.samples.x, picked), picked_rows(problem.samples.y, picked)
    scale = learned.scale * learned.log.exp()
    x = fake_quantize_ste(x, scale, learned.zero, GRID)
    y = y if problem.activation is None else problem.activation(y)
    learned.updated(squared_error(problem, x, learned.weight, learned.bias, y))


@dataclass(eq=False)
class Rounded:
    """What AdaRound learns of a unit, and its optimiser."""

    problem: UnitProblem

    def __post_init__(self) -> None:
        steps = self.problem.weight / STEP
        self.floor = steps.floor()
        self.weight = begin_at(steps - self.floor)
        self.adam = torch.optim.Adam([self.weight], lr=1e-2)

    def error(self, h: Tensor, x: Tensor, y: Tensor, own: bool) -> Tensor:
        """The output's error at some rounding, by the package's loss or by formulas."""
        weight, activation = (self.floor + h).clamp(-8, 7) * STEP, self.problem.activation
        y = y if activation is None else activation(y)
        if own:
            return squared_error(self.problem, x, weight, torch.zeros(()), y)
        out = x @ weight.transpose(1, 2)
        return ((out if activation is None else activation(out)) - y).square().mean()


def plain_rounding(learned: Rounded, picked: Tensor) -> None:
    """The formulas, for autograd."""
    samples, v = learned.problem.samples, learned.weight.requires_grad_()
    assert samples is not None
    h = (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
    loss = learned.error(h, samples.x[:, picked], samples.y[:, picked], own=False)
    loss = loss + PULL * (1 - (2 * h - 1).abs().pow(POWER)).sum()
    learned.adam.zero_grad()
    loss.backward()
    learned.adam.step()


def package_rounding(learned: Rounded, picked: Tensor) -> None:
    """The same step as AdaRound takes it."""
    samples, v = learned.problem.samples, learned.weight
    assert samples is not None
    h = soft_rounding(v).requires_grad_()
    x, y = picked_rows(samples.x, picked), picked_rows(samples.y, picked)
    (grad,) = torch.autograd.grad(learned.error(h, x, y, own=True), h)
    v.grad = slope(v, grad + pull(h.detach(), POWER, PULL))
    learned.adam.step()


Step = Callable[[Any, Tensor], None]
KINDS: dict[str, tuple[type[Learned | Rounded], Step, Step]] = {
    "adaquant": (Learned, plain, package),
    "adaround": (Rounded, plain_rounding, package_rounding),
}


def timed(make: Any, step: Step, problem: UnitProblem, steps: int) -> tuple[float, Any]:
    """Processor seconds of some steps."""
    assert problem.samples is not None
    learned, generator = make(problem), torch.Generator().manual_seed(1)
    rows, size = problem.samples.x.shape[1], batch_rows(problem.samples, 1024)
    begin = time.process_time()
    for _ in range(steps):
        step(learned, torch.randperm(rows, generator=generator)[:size])
    return time.process_time() - begin, learned


def measured(kind: str, shape: Shape, steps: int) -> dict[str, object]:
    """Both by turns; the median of the ratios."""
    problem = problem_of(shape)
    make, by_formulas, by_package = KINDS[kind]
    ratios, best = [], float("inf")
    for _ in range(ROUNDS):
        slow, one = timed(make, by_formulas, problem, steps)
        fast, other = timed(make, by_package, problem, steps)
        apart = float(
            (one.weight - other.weight).detach().abs().max() / one.weight.detach().abs().max()
        )
        ratios.append(slow / fast)
        best = min(best, fast / steps)
    return {
        "kind": kind,
        "unit": shape.name,
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "step_ms": 1e3 * best,
        "apart": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in KINDS:
        for shape in SHAPES:
            rows.append(measured(kind, shape, arguments.steps))
            print(rows[-1], flush=True)
    write_csv(RESULTS / "gradient_steps.csv", rows)
    columns = {
        "step": "{kind}",
        "unit": "{unit}",
        "plain / package": "{ratio:.2f}",
        "least to most": "{least:.2f} to {most:.2f}",
        "package, ms a step": "{step_ms:.2f}",
        "apart": "{apart:.1e}",
    }
    text = [
        "# A step of the gradient methods",
        "",
        "Written by `python benchmarks/gradient_steps.py`. A step of AdaQuant's kind (weight, bias",
        "and the input's scale of one unit learn from a minibatch) and one of AdaRound's (the",
        "rounding of each weight learns, behind the warm-up) written as formulas for autograd, and",
        f"as the package takes it: processor time by turns, one thread, {ROUNDS} rounds of",
        f"{arguments.steps} steps, on a machine that does other work. *Apart* is the largest",
        "difference of what both have learned (weights, or V), relative to the largest.",
        "",
        markdown(rows, columns),
        "",
    ]
    (DOCS / "gradient_steps.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
