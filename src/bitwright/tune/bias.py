"""Bias tuning: the biases of the stitched network learn from the float network's answers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.errors import RecipeError
from bitwright.graph.model_graph import ModelGraph
from bitwright.methods.problem import UnitSolution
from bitwright.tune.descent import backward, rows_at_once
from bitwright.tune.judge import Judge
from bitwright.tune.network import Deploy, Simulation, Solved, install, simulate, with_biases
from bitwright.tune.pool import gather, minibatches
from bitwright.tune.report import TuneReport, chosen_moment
from bitwright.tune.samples import Samples, fixed_batch, in_memory, size_of
from bitwright.tune.statistics import output_moments
from bitwright.tune.straight import differentiable

BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class BiasTuning:
    """How biases are trained; the defaults won on calibration images of real networks.

    Attributes:
        iterations: steps of the optimiser; the paper takes 200.
        rate: Adam's first learning rate, in standard deviations of the channel; falls as a cosine.
        batch: samples a step.
        smoothing: what is judged and kept is a running mean of the biases with this memory.
        checks: how often the held-out samples are asked.
        seed: of the samples' order.
    """

    iterations: int = 200
    rate: float = 0.005
    batch: int = 32
    smoothing: float = 0.9
    checks: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.iterations, self.batch, self.checks) < 1 or not self.rate > 0.0:
            raise RecipeError(
                f"iterations={self.iterations}, batch={self.batch}, checks={self.checks}, "
                f"rate={self.rate} in bias tuning: all must be positive."
            )
        if not 0.0 <= self.smoothing < 1.0:
            raise RecipeError(f"smoothing={self.smoothing} in bias tuning: use 0 up to below 1.")


def tune_biases(
    graph: ModelGraph,
    solved: Solved,
    deploy: Deploy,
    samples: Samples,
    options: BiasTuning | None = None,
) -> tuple[dict[str, UnitSolution], TuneReport]:
    """Train the biases of all quantised units to bring the network's answers to the float ones.

    Equation: min over biases of T^2 KL(softmax(f(x) / T) || softmax(q(x) / T)), f the float and q
    the quantised network, whose activation quantisers pass gradients straight through and whose
    weights are constants; Adam on b = b_0 + std(o) t, o the unit's float result, from t = 0.
    The samples held out choose the moment: the least loss among those where neither the softened
    nor the plain divergence is above the start's, with biases as they will be deployed. So it
    never ends worse than it began. No labels.
    Reference: seed 002 (Hubara et al., arXiv 2006.10518), section 3.3, appendix D.3.

    Args:
        graph: the captured float network.
        solved: solutions by unit; units that are not there stay in float.
        deploy: how solutions become what is deployed (`stages.assemble`, bound).
        samples: calibration samples in two parts.
        options: how.

    Returns:
        All solutions, those of changed units new; and what happened.
    """
    options = options or BiasTuning()
    with torch.inference_mode(False), torch.no_grad():
        samples = in_memory(samples)
        judge = Judge.of(graph, samples.held_out)
        simulation = simulate(graph, solved, deploy)
        before = judge(simulation.module)
        start = with_biases(graph, solved)
        best, chosen, history = before, {}, [(0, before)]
        for step, biases in _moments(graph, simulation, start, samples, judge, options):
            for name, bias in biases.items():
                install(simulation, replace(start[name], bias=bias), name, deploy)
            now = judge(simulation.module)
            history.append((step, now))
            if now.no_worse(before) and now.soft < best.soft:
                best, chosen = now, biases
    note = "" if chosen else f"held-out loss is never below {before}: left as it was"
    report = chosen_moment("bias", history, best, tuple(chosen), judge, samples, note)
    tuned = {name: replace(start[name], bias=bias) for name, bias in chosen.items()}
    return {**solved, **tuned}, report


@dataclass(frozen=True, eq=False)
class _Trained:
    """The biases of one unit: what they were, what one unit of the parameter moves them by."""

    path: str
    base: Tensor
    spread: Tensor
    parameter: Tensor

    @property
    def bias(self) -> Tensor:
        """As the network adds it; a gradient reaches the parameter."""
        return self.base + self.spread * self.parameter


def _moments(
    graph: ModelGraph,
    simulation: Simulation,
    start: dict[str, UnitSolution],
    samples: Samples,
    judge: Judge,
    options: BiasTuning,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The iterations at which the biases are to be judged, and the biases then."""
    trained = _trained(graph, simulation, start, samples)
    if not trained:
        return
    module = differentiable(simulation.module)
    pool = gather(graph, samples.fit)
    part = rows_at_once(graph, pool)
    parameters = [unit.parameter for unit in trained.values()]
    optimizer = torch.optim.Adam(parameters, lr=options.rate, betas=BETAS)
    smooth = [torch.zeros_like(parameter) for parameter in parameters]
    every = max(1, options.iterations // options.checks)
    size = max(1, options.batch // (size_of(pool[0].flat) if fixed_batch(graph) else 1))
    batches = minibatches(pool, size, options.seed)
    for step in range(1, options.iterations + 1):
        fraction = (step - 1) / options.iterations
        optimizer.param_groups[0]["lr"] = options.rate * 0.5 * (1 + math.cos(math.pi * fraction))
        optimizer.zero_grad()
        entries = next(batches)
        backward(
            graph,
            module,
            lambda: {unit.path: unit.bias for unit in trained.values()},
            entries,
            judge.temperature,
            part,
        )
        optimizer.step()
        for mean, parameter in zip(smooth, parameters, strict=True):
            mean.lerp_(parameter.detach(), 1.0 - options.smoothing)
        if step % every == 0 or step == options.iterations:
            known = 1.0 - options.smoothing**step
            yield (
                step,
                {
                    name: unit.base + unit.spread * (mean / known)
                    for (name, unit), mean in zip(trained.items(), smooth, strict=True)
                },
            )


def _trained(
    graph: ModelGraph,
    simulation: Simulation,
    start: dict[str, UnitSolution],
    samples: Samples,
) -> dict[str, _Trained]:
    """Parameters at zero, each in standard deviations of its channel in the float network."""
    units = [unit for unit in graph.units if unit.name in simulation.places]
    moments = output_moments(graph.module, units, samples.fit)
    made = {}
    for name, found in moments.items():
        bias = start[name].bias
        assert bias is not None
        base = bias.detach().clone()
        parameter = torch.zeros_like(base, requires_grad=True)
        path = simulation.places[name].bias
        made[name] = _Trained(path, base, found.var.sqrt().float(), parameter)
    return made
