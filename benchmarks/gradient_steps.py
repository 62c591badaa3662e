"""A step of the gradient methods against plain autograd, on units as vision networks have them.

    python benchmarks/gradient_steps.py [--steps 50]

One step learns weight, bias and the input's scale of one unit from a minibatch of its rows. `plain`
writes it as formulas for autograd; `package` takes the package's rows, quantiser and loss. Both run
by turns, on one thread, and learn the same but for rounding. Needs no data. Writes
docs/gradient_steps.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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

GRID = Grid(4)
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


Step = Callable[[Learned, Tensor], None]


def timed(step: Step, problem: UnitProblem, steps: int) -> tuple[float, Learned]:
    """Processor seconds of some steps."""
    assert problem.samples is not None
    learned, generator = Learned(problem), torch.Generator().manual_seed(1)
    rows, size = problem.samples.x.shape[1], batch_rows(problem.samples, 1024)
    begin = time.process_time()
    for _ in range(steps):
        step(learned, torch.randperm(rows, generator=generator)[:size])
    return time.process_time() - begin, learned


def measured(shape: Shape, steps: int) -> dict[str, object]:
    """Both by turns; the median of the ratios."""
    problem = problem_of(shape)
    ratios, best = [], float("inf")
    for _ in range(ROUNDS):
        slow, one = timed(plain, problem, steps)
        fast, other = timed(package, problem, steps)
        apart = float(
            (one.weight - other.weight).detach().abs().max() / one.weight.detach().abs().max()
        )
        ratios.append(slow / fast)
        best = min(best, fast / steps)
    return {
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
    for shape in SHAPES:
        rows.append(measured(shape, arguments.steps))
        print(rows[-1], flush=True)
    write_csv(RESULTS / "gradient_steps.csv", rows)
    columns = {
        "unit": "{unit}",
        "plain / package": "{ratio:.2f}",
        "least to most": "{least:.2f} to {most:.2f}",
        "package, ms a step": "{step_ms:.2f}",
        "weights apart": "{apart:.1e}",
    }
    text = [
        "# A step of the gradient methods",
        "",
        "Written by `python benchmarks/gradient_steps.py`. A step of AdaQuant's kind (weight, bias",
        "and the input's scale of one unit learn from a minibatch) written as formulas for",
        f"autograd, and as the package takes it: processor time by turns, one thread, {ROUNDS}",
        f"rounds of {arguments.steps} steps, on a machine that does other work. *Weights apart* is",
        "the largest difference of what both have learned, relative to the largest weight.",
        "",
        markdown(rows, columns),
        "",
    ]
    (DOCS / "gradient_steps.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
