"""QAT-KLD: all weights learn from the float network's answers, straight through the rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from bitwright.errors import RecipeError
from bitwright.evaluation.judge import Judge, Loss
from bitwright.graph.answers import Compared
from bitwright.graph.model_graph import ModelGraph
from bitwright.methods.problem import UnitSolution
from bitwright.methods.training import moves
from bitwright.numerics.affine import dequantize, fake_quantize_ste, round_half_even
from bitwright.solving.configuration import Configuration
from bitwright.solving.samples import Samples, has_fixed_batch, in_memory, size_of, split_samples
from bitwright.tuning.descent import backward, is_plain, rows_at_once, weight_paths
from bitwright.tuning.network import simulate, with_biases
from bitwright.tuning.pool import gather, minibatches
from bitwright.tuning.report import TuneReport, report_moments
from bitwright.tuning.straight import differentiable

# A weight begins as near to its float value as surely rounds to the solution's integer.
WITHIN = 0.45
# The published schedule: passes over the samples, those after which the rate falls, by how much.
EPOCHS, FALLS, FALL, SGD_RATE = 10, (2, 8), 1e-2, 0.1


@dataclass(frozen=True)
class WeightTraining:
    """How all weights are trained.

    Attributes:
        iterations: steps of Adam.
        rate: its first learning rate, in steps of each weight's grid; falls as a cosine.
        bias_rate: the same for biases, in their root mean square in the unit.
        batch: samples a step.
        early_stop: train on half of the samples, and take the moment that the other half finds
            best; else train on all of them and take the end, whatever it is.
        checks: how often the other half is asked.
        seed: of the samples' order.
        published: ten passes of plain gradient descent instead, on answers that are not softened,
            at a rate of 0.1 for weights and biases as they are, falling to a hundredth after the
            second pass and the eighth; `iterations`, `rate` and `bias_rate` say nothing then.
    """

    iterations: int = 300
    rate: float = 0.003
    bias_rate: float = 0.001
    batch: int = 32
    early_stop: bool = True
    checks: int = 10
    seed: int = 0
    published: bool = False

    def __post_init__(self) -> None:
        least = min(self.iterations, self.batch, self.checks)
        if least < 1 or not min(self.rate, self.bias_rate) > 0.0:
            raise RecipeError(
                f"iterations={self.iterations}, batch={self.batch}, checks={self.checks}, "
                f"rate={self.rate}, bias_rate={self.bias_rate} in training of weights: all must be "
                "positive."
            )

    @property
    def name(self) -> str:
        """As `--tune` has it."""
        if self.published:
            return "qat-kld-paper"
        return "qat-kld" if self.early_stop else "qat-kld-last"

    def apply(self, start: Configuration, samples: Samples) -> tuple[Configuration, TuneReport]:
        """See `train_weights`."""
        return train_weights(start, samples, self)


@dataclass(frozen=True, eq=False)
class _Trained:
    """The weights of one unit in steps of their grid, and its bias; both learned."""

    old: UnitSolution
    weight_path: str
    bias_path: str
    steps: Tensor
    bias: Tensor | None
    bias_unit: float

    def parameters(self) -> tuple[Tensor, ...]:
        """What is learned."""
        return (self.steps,) if self.bias is None else (self.steps, self.bias)

    def tensors(self) -> dict[str, Tensor]:
        """As the network computes with them."""
        qparams = self.old.weight
        one, zero = torch.ones(()), qparams.zero_point.float()
        whole = fake_quantize_ste(self.steps, one, zero, qparams.grid)
        found = {self.weight_path: whole * qparams.scale}
        if self.bias is not None and self.old.bias is not None:
            found[self.bias_path] = self.old.bias + self.bias_unit * self.bias
        return found

    def solution(self, weight: Tensor) -> UnitSolution:
        """What has been learned so far, as integers; `weight` is the float network's."""
        qparams = self.old.weight
        grid = qparams.grid
        q = round_half_even(self.steps.detach()) + qparams.zero_point
        q = q.clamp(grid.qmin, grid.qmax).to(grid.dtype)
        change = (dequantize(q, qparams) - weight).double().square().sum()
        bias = self.old.bias
        if self.bias is not None and bias is not None:
            bias = bias + self.bias_unit * self.bias.detach()
        return replace(
            self.old,
            q=q,
            bias=bias,
            method="qat-kld",
            error=float(change / weight.double().square().sum().clamp_min(1e-30)),
            moves=moves(weight, q, qparams),
        )


def train_weights(
    start: Configuration, samples: Samples, options: WeightTraining | None = None
) -> tuple[Configuration, TuneReport]:
    """Train the weights and biases of all quantised units on the float network's answers.

    Equation: min over W, b of T^2 KL(softmax(f(x) / T) || softmax(q(x; W, b) / T)), gradients
    straight through all quantisers; scales and the grids of inputs stay. With early stopping the
    half of the samples that is not trained on chooses the moment, and what it finds worse than the
    start is not kept; without, the end is kept: few samples are then learned by heart.
    Reference: Kim et al., arXiv 1911.12491, as the comparison of Hubara et al. 2020 (figure 1,
    table 2) uses it; Adam in steps of the grid instead of its SGD, which `published` is (appendix
    D).

    Args:
        start: the solved network; units without a solution stay in float.
        samples: calibration samples; both of their parts are used, parted anew.
        options: how.

    Returns:
        The network, changed units new; and what happened.
    """
    options = options or WeightTraining()
    with torch.inference_mode(False), torch.no_grad():
        parted = _part(start.graph, samples, options.early_stop)
        judge = Judge.of(start.graph, parted.held_out)
        biased = start.having(with_biases(start))
        before = judge(simulate(biased).module)
        best, chosen, history = before, dict[str, UnitSolution](), [(0, before)]
        loss = partial(judge.loss, soft=not options.published)
        for step, found in _moments(biased, parted, loss, options):
            now = judge(simulate(biased.changed(found)).module)
            history.append((step, now))
            if not options.early_stop or (now.no_worse(before) and now.soft < best.soft):
                best, chosen = now, found
    note = _note(options, before, chosen)
    report = report_moments(options.name, history, best, tuple(chosen), judge, parted, note)
    return start.changed(chosen), report


def _note(options: WeightTraining, before: Loss, chosen: dict[str, UnitSolution]) -> str:
    if not options.early_stop:
        if not chosen:
            return "training left the numbers that a computer holds: left as it was"
        return "no early stopping: its losses are on the samples that it was trained on"
    return "" if chosen else f"held-out loss is never below {before}: left as it was"


def _part(graph: ModelGraph, samples: Samples, early_stop: bool) -> Samples:
    """Two halves, or all of the samples as both parts."""

    def everything() -> Iterator[tuple[object, ...]]:
        return chain(samples.fit(), samples.held_out())

    if samples.held_out_count == 0 or samples.fit_count == samples.held_out_count == 1:
        everything = samples.fit
    if early_stop:
        return in_memory(split_samples(graph, everything, 2))
    count = sum(size_of(flat) for flat in everything())
    return in_memory(Samples(everything, everything, count, count))


def _moments(
    start: Configuration,
    samples: Samples,
    loss: Callable[[Compared, Compared], Tensor],
    options: WeightTraining,
) -> Iterator[tuple[int, dict[str, UnitSolution]]]:
    """The iterations at which the weights are to be judged, and what they are then."""
    trained = _make_parameters(start)
    if not trained:
        return
    graph = start.graph
    module = differentiable(simulate(start).module)
    weights = {name: graph.tensor(graph.unit(name).weight).float() for name in trained}
    pool = gather(graph, samples.fit)
    part = rows_at_once(graph, pool)
    size = max(1, options.batch // (size_of(pool[0].flat) if has_fixed_batch(graph) else 1))
    batches = minibatches(pool, size, options.seed)
    epoch = -(-len(pool) // size)
    descent = (
        _descend_as_published(trained, epoch) if options.published else _adam(trained, options)
    )
    every = max(1, descent.steps // options.checks) if options.early_stop else 0

    def tensors() -> dict[str, Tensor]:
        return {path: t for unit in trained.values() for path, t in unit.tensors().items()}

    for step in range(1, descent.steps + 1):
        descent.optimizer.zero_grad()
        backward(graph, module, tensors, next(batches), loss, part)
        descent.step(step)
        if not all(bool(p.isfinite().all()) for t in trained.values() for p in t.parameters()):
            return
        if step == descent.steps or (every and step % every == 0):
            yield step, {name: unit.solution(weights[name]) for name, unit in trained.items()}


@dataclass(frozen=True, eq=False)
class _Descent:
    """An optimiser, for how many steps, and what part of its first rate each step has."""

    optimizer: torch.optim.Optimizer
    steps: int
    part: Callable[[int], float]
    units: tuple[tuple[Tensor, Tensor], ...] = ()

    def step(self, number: int) -> None:
        """The step of this number, counted from one."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * self.part(number)
        for parameter, square in self.units:
            if parameter.grad is not None:
                parameter.grad.div_(square)
        self.optimizer.step()


def _adam(trained: Mapping[str, _Trained], options: WeightTraining) -> _Descent:
    """Steps of the grid by Adam, at a rate that falls as a cosine."""
    biases = [t.bias for t in trained.values() if t.bias is not None]
    groups = [
        {"params": [t.steps for t in trained.values()], "rate": options.rate},
        {"params": biases, "rate": options.bias_rate},
    ]

    def part(number: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * (number - 1) / options.iterations))

    return _Descent(torch.optim.Adam(groups, lr=options.rate), options.iterations, part)


def _descend_as_published(trained: Mapping[str, _Trained], epoch: int) -> _Descent:
    """Gradient descent on weights and biases as they are, at the published rates.

    Equation: W <- W - r dL/dW is k <- k - r (dL/dk) / s^2 for W = s k, and likewise for biases.
    """
    units = [(t.steps, t.old.weight.scale.float().square()) for t in trained.values()]
    units += [
        (t.bias, torch.tensor(t.bias_unit).square()) for t in trained.values() if t.bias is not None
    ]
    groups = [{"params": [parameter for parameter, _ in units], "rate": SGD_RATE}]

    def part(number: int) -> float:
        return FALL ** sum((number - 1) // epoch >= after for after in FALLS)

    return _Descent(torch.optim.SGD(groups, lr=SGD_RATE), EPOCHS * epoch, part, tuple(units))


def _make_parameters(start: Configuration) -> dict[str, _Trained]:
    graph = start.graph
    simulation = simulate(start)
    paths = weight_paths(simulation.module)
    made = {}
    for unit in graph.units:
        solution = start.solved.get(unit.name)
        if solution is None or not is_plain(solution) or unit.name not in paths:
            continue
        k = solution.q.float() - solution.weight.zero_point
        rest = graph.tensor(unit.weight).float() / solution.weight.scale - k
        steps = (k + rest.clamp(-WITHIN, WITHIN)).requires_grad_()
        place = simulation.places.get(unit.name)
        bias = None
        if place is not None and solution.bias is not None:
            bias = torch.zeros_like(solution.bias, requires_grad=True)
        size = 1.0 if solution.bias is None else float(solution.bias.square().mean().sqrt())
        made[unit.name] = _Trained(
            solution,
            paths[unit.name],
            "" if place is None else place.bias,
            steps,
            bias,
            size or 1.0,
        )
    return made
