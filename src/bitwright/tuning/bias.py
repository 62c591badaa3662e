"""Bias tuning: the biases of the stitched network learn from the float network's answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from bitwright.evaluation.judge import Judge
from bitwright.graph.model_graph import ModelGraph
from bitwright.methods.problem import UnitSolution
from bitwright.solving.configuration import Configuration
from bitwright.solving.samples import Samples, in_memory
from bitwright.tuning.descent import Descent, Learned, descend
from bitwright.tuning.network import Simulation, install, simulate, with_biases
from bitwright.tuning.report import TuneReport, report_moments
from bitwright.tuning.statistics import output_moments


@dataclass(frozen=True)
class BiasTuning(Descent):
    """How biases are trained; the defaults won on calibration images of real networks.

    Attributes:
        rate: Adam's first learning rate, in standard deviations of the channel; falls as a cosine.
    """

    name: ClassVar[str] = "bias"
    rate: float = 0.005

    def __post_init__(self) -> None:
        self.check("bias tuning", rate=self.rate)

    def apply(self, start: Configuration, samples: Samples) -> tuple[Configuration, TuneReport]:
        """See `tune_biases`."""
        return tune_biases(start, samples, self)


def tune_biases(
    start: Configuration, samples: Samples, options: BiasTuning | None = None
) -> tuple[Configuration, TuneReport]:
    """Train the biases of all quantised units to bring the network's answers to the float ones.

    Equation: min over biases of T^2 KL(softmax(f(x) / T) || softmax(q(x) / T)), f the float and q
    the quantised network, whose activation quantisers pass gradients straight through and whose
    weights are constants; Adam on b = b_0 + std(o) t, o the unit's float result, from t = 0.
    The samples held out choose the moment: the least loss among those where neither the softened
    nor the plain divergence is above the start's, with biases as they will be deployed. So it
    never ends worse than it began. No labels.
    Reference: Hubara et al. 2020 (arXiv 2006.10518), section 3.3, appendix D.3.

    Args:
        start: the solved network; units without a solution stay in float.
        samples: calibration samples in two parts.
        options: how.

    Returns:
        The network, changed units new; and what happened.
    """
    options = options or BiasTuning()
    graph = start.graph
    with torch.inference_mode(False), torch.no_grad():
        samples = in_memory(samples)
        judge = Judge.of(graph, samples.held_out)
        simulation = simulate(start)
        before = judge(simulation.module)
        biased = with_biases(start)
        best, chosen, history = before, {}, [(0, before)]
        for step, biases in _moments(graph, simulation, biased, samples, judge, options):
            for name, bias in biases.items():
                install(simulation, replace(biased[name], bias=bias), name)
            now = judge(simulation.module)
            history.append((step, now))
            if now.no_worse(before) and now.soft < best.soft:
                best, chosen = now, biases
    note = "" if chosen else f"held-out loss is never below {before}: left as it was"
    report = report_moments("bias", history, best, tuple(chosen), judge, samples, note)
    tuned = {name: replace(biased[name], bias=bias) for name, bias in chosen.items()}
    return start.changed(tuned), report


@dataclass(frozen=True, eq=False)
class _Trained:
    """The biases of one unit: what they were, what one unit of the parameter moves them by."""

    path: str
    base: Tensor
    spread: Tensor
    parameter: Tensor

    def at(self, parameter: Tensor) -> Tensor:
        """As the network adds it."""
        return self.base + self.spread * parameter


def _moments(
    graph: ModelGraph,
    simulation: Simulation,
    start: dict[str, UnitSolution],
    samples: Samples,
    judge: Judge,
    options: BiasTuning,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The iterations at which the biases are to be judged, and the biases then."""
    trained = _make_parameters(graph, simulation, start, samples)
    learned = Learned(tuple(unit.parameter for unit in trained.values()), options.rate)

    def tensors() -> dict[str, Tensor]:
        return {unit.path: unit.at(unit.parameter) for unit in trained.values()}

    for step, (means,) in descend(
        graph, simulation.module, samples, judge, (learned,), tensors, options
    ):
        yield (
            step,
            {n: unit.at(mean) for (n, unit), mean in zip(trained.items(), means, strict=True)},
        )


def _make_parameters(
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
        made[name] = _Trained(path, base, found.var.sqrt().float().to(base.device), parameter)
    return made
