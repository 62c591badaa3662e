"""Batch-norm tuning: the quantised units' output statistics are put back to what they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.errors import RecipeError, unknown
from bitwright.evaluation.judge import Judge
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.methods.problem import UnitSolution
from bitwright.solving.configuration import Configuration
from bitwright.solving.samples import Samples, fewer, in_memory
from bitwright.tuning.moments import ChannelMoments
from bitwright.tuning.network import (
    Simulation,
    deploy_biases,
    install,
    simulate,
    tunable,
    with_biases,
)
from bitwright.tuning.norms import BatchNorm, from_statistics, gain_between, reconstruct, refuse
from bitwright.tuning.report import TuneReport, report_attempt
from bitwright.tuning.statistics import in_order, output_moments

ORDERS = ("sequential", "together")
REFERENCES = ("float", "record")
SolutionsByUnit = dict[str, UnitSolution]


@dataclass(frozen=True)
class BatchNormTuning:
    """How batch-norm statistics are re-estimated; the defaults won on real networks.

    Attributes:
        order: `sequential` measures each unit with all before it corrected: exact statistics, one
            sweep. `together` updates all units by running means, as the paper does.
        passes: over the calibration set, for `together`; the paper needs at most ten.
        momentum: what part of the running means each pass replaces.
        reference: what the statistics are put back to. `float`: what the float network's are on
            the same samples. `record`: the folded batch-norm's own, as in the paper; they were
            taken in training, and moving to them changes the float network as well.
        scales: whether variances are corrected too, by the weights' scales; else means alone.
        most: how many samples are passed over. Both networks are measured on the same ones, so
            that what the samples have in common drops out.
        name: of the step, in reports.
    """

    order: str = "sequential"
    passes: int = 10
    momentum: float = 0.3
    reference: str = "float"
    scales: bool = True
    most: int = 256
    name: str = "bn"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise RecipeError(unknown("order", self.order, ORDERS, "batch-norm tuning"))
        if self.reference not in REFERENCES:
            raise RecipeError(unknown("reference", self.reference, REFERENCES, "batch-norm tuning"))
        if not 1 <= self.passes <= 10 or not 0.0 < self.momentum <= 1.0 or self.most < 1:
            raise RecipeError(
                f"passes is {self.passes}, momentum {self.momentum} and most {self.most} in "
                "batch-norm tuning: use 1 to 10 passes, a momentum above 0 and at most 1, and one "
                "sample or more."
            )

    def apply(self, start: Configuration, samples: Samples) -> tuple[Configuration, TuneReport]:
        """See `tune_batchnorms`."""
        return tune_batchnorms(start, samples, self)


def tune_batchnorms(
    start: Configuration, samples: Samples, options: BatchNormTuning | None = None
) -> tuple[Configuration, TuneReport]:
    """Give every quantised unit's result the mean and variance that it has in the float network.

    Equation: o' = gamma_r (o - mean) / sqrt(var + eps) + beta_r for the unit's result o, with mean
    and var those of o in the quantised network; fused into scale and bias (`norms.refuse`), while
    the integers stay as they are. Forward passes only. Where the held-out samples find the network
    worse than before, it is left as it was.
    Reference: Hubara et al. 2020 (arXiv 2006.10518), section 3.3, appendix B.

    Args:
        start: the solved network; units without a solution stay in float.
        samples: calibration samples; the held-out part must not have helped to solve the units,
            or it will not notice what tuning repairs.
        options: how.

    Returns:
        The network, changed units new; and what happened.
    """
    options = options or BatchNormTuning()
    graph, solved = start.graph, start.solved
    samples = in_memory(fewer(graph, samples, options.most))
    units = tunable(graph, solved)
    judge = Judge.of(graph, samples.held_out)
    simulation = simulate(start)
    before = judge(simulation.module)
    norms = reference_norms(graph, units, samples, options.reference)
    task = _Task(simulation, units, norms, samples, options)
    correct = _sequential if options.order == "sequential" else _together
    made = correct(task, with_biases(start))
    after = judge(simulation.module)
    kept = after.no_worse(before)
    moved = [u.name for u in units if kept and differ(solved[u.name], made[u.name])]
    report = report_attempt(options.name, (before, after), tuple(moved), kept, judge, samples)
    return start.changed({name: made[name] for name in moved}), report


@dataclass(frozen=True, eq=False)
class _Task:
    """What both orders work on; the simulation's parameters are set as they go."""

    simulation: Simulation
    units: tuple[Unit, ...]
    norms: Mapping[str, BatchNorm]
    samples: Samples
    options: BatchNormTuning


def reference_norms(
    graph: ModelGraph, units: tuple[Unit, ...], samples: Samples, reference: str
) -> dict[str, BatchNorm]:
    """The reconstructed batch-norm of every unit: from its record, or from float statistics."""
    known = {
        unit.name: reconstruct(graph.folded[unit.name])
        for unit in units
        if reference == "record" and unit.name in graph.folded
    }
    rest = [unit for unit in units if unit.name not in known]
    measured = output_moments(graph.module, rest, samples.fit) if rest else {}
    return known | {name: from_statistics(m.mean, m.var) for name, m in measured.items()}


def _sequential(task: _Task, start: SolutionsByUnit) -> SolutionsByUnit:
    """One sweep: every unit is measured with those before it corrected."""
    made: SolutionsByUnit = {}

    def correct(unit: Unit, found: ChannelMoments) -> None:
        norm = replace(task.norms[unit.name], mean=found.mean, var=found.var)
        made[unit.name] = refuse(start[unit.name], norm, task.options.scales)
        install(task.simulation, made[unit.name], unit.name)

    in_order(task.simulation, task.units, task.samples, correct)
    return made


def _together(task: _Task, start: SolutionsByUnit) -> SolutionsByUnit:
    """Running means over several passes, all units at once.

    Equation: mean <- mean + m (mean_now - mean), likewise var, from the reconstructed values.
    Each pass sees the network as corrected so far; what it finds at a unit is translated to the
    unit's result before correction: o = (o' - c) / g for o' = g o + c.
    """
    made: SolutionsByUnit = {unit.name: start[unit.name] for unit in task.units}
    norms = dict(task.norms)
    momentum = task.options.momentum
    for _ in range(task.options.passes):
        measured = output_moments(task.simulation.module, task.units, task.samples.fit)
        biases = deploy_biases(task.simulation.start.having(made))
        for name, found in measured.items():
            first, norm = start[name], norms[name]
            assert first.bias is not None
            gain = gain_between(first, made[name])
            shift = biases[name].double() - gain * first.bias.double()
            mean, var = (found.mean - shift) / gain, found.var / gain.square()
            norms[name] = replace(
                norm,
                mean=_towards(norm.mean, mean, momentum),
                var=_towards(norm.var, var, momentum),
            )
            made[name] = refuse(first, norms[name], task.options.scales)
            install(task.simulation, made[name], name)
    return made


def _towards(old: Tensor, new: Tensor, part: float) -> Tensor:
    return old + part * (new - old)


def differ(before: UnitSolution, after: UnitSolution) -> bool:
    """Whether a unit's scale or bias is another; no bias and zeros are the same."""
    if not torch.equal(before.weight.scale, after.weight.scale):
        return True
    if before.bias is None or after.bias is None:
        given = before.bias if after.bias is None else after.bias
        return given is not None and bool(given.any())
    return not torch.equal(before.bias, after.bias)
