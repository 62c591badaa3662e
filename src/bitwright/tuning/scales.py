"""Scale tuning: the steps of all grids, and the biases, learn from the float network's answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, fx

from bitwright.evaluation.judge import Judge
from bitwright.graph.custom_ops import FAKE_QUANTIZE
from bitwright.graph.placing import device_of
from bitwright.graph.sites import Site
from bitwright.graph.ties import grid_classes
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import QParams
from bitwright.numerics.exact import significant_bits
from bitwright.solving.configuration import Configuration
from bitwright.solving.samples import Samples, in_memory
from bitwright.tuning.descent import Descent, Learned, descend, is_plain, weight_paths
from bitwright.tuning.network import Simulation, simulate, with_biases
from bitwright.tuning.norms import nearest_scale
from bitwright.tuning.report import TuneReport, report_moments
from bitwright.tuning.statistics import output_moments

STAGE = "scales"
# Scales that stand at least this close together are learned: those of 8-bit grids have four
# significant bits, and a step of six per cent is more than there is to gain.
FINE_BITS = 6
EdgeGrids = Mapping[tuple[str, str], QParams]


@dataclass(frozen=True)
class ScaleTuning(Descent):
    """How steps of grids and biases are trained.

    Attributes:
        rate: Adam's first rate for biases, in standard deviations of the channel's result.
        weight_rate: the same for the logarithm of each weight scale.
        input_rate: the same for the logarithm of each activation scale.
    """

    name: ClassVar[str] = "scales"
    rate: float = 0.005
    weight_rate: float = 0.002
    input_rate: float = 0.005

    def __post_init__(self) -> None:
        self.check(
            "scale tuning",
            rate=self.rate,
            weight_rate=self.weight_rate,
            input_rate=self.input_rate,
        )

    def apply(self, start: Configuration, samples: Samples) -> tuple[Configuration, TuneReport]:
        """See `tune_scales`."""
        return tune_scales(start, samples, self)


def grid_names(start: Configuration) -> dict[str, str]:
    """The name of each quantised value's grid, by its root node.

    Values that a runtime wants on one grid have one name.
    """
    return grid_classes(start.graph, start.work.target, start.sites)


def scale_edges(start: Configuration, logs: Mapping[str, float]) -> EdgeGrids:
    """The grids of edges, each class's scales times the exponential of its logarithm.

    Scales stay on their lattice. A value may be read on a narrow grid and on an 8-bit one: the
    latter stays.
    """
    edges, classes = dict(start.edges), grid_names(start)
    for site in start.sites:
        edge = (site.source, site.reader)
        log = logs.get(classes[site.root], 0.0)
        if edge in edges and log and is_fine(edges[edge]):
            edges[edge] = stretch(edges[edge], torch.tensor(log))
    return edges


def give_inputs(
    solution: UnitSolution, unit: str, sites: Iterable[Site], edges: EdgeGrids
) -> UnitSolution:
    """A unit's solution with its inputs on these edges."""
    inputs = list(solution.inputs)
    for site in sites:
        if site.unit == unit and inputs[site.call] is not None:
            inputs[site.call] = edges[site.source, site.reader]
    return replace(solution, inputs=tuple(inputs))


def stretch(qparams: QParams, log: Tensor) -> QParams:
    """The same grid, its scales times exp(log), each on the nearest of few significant bits."""
    wanted = qparams.scale.double() * log.double().exp()
    scale = nearest_scale(wanted, significant_bits(qparams.grid))
    return replace(qparams, scale=scale, dynamic=False)


def tune_scales(
    start: Configuration, samples: Samples, options: ScaleTuning | None = None
) -> tuple[Configuration, TuneReport]:
    """Train the scales of weights and activations, and biases, on the float network's answers.

    Equation: min over s_w, s_x, b of T^2 KL(softmax(f(x) / T) || softmax(q(x) / T)), f the float
    and q the quantised network; the integers of the weights stay, so W' = s_w' (k - z). With
    x^ = s clamp(round(x / s)) the gradient of an activation's scale is
    s dx^/ds = x^ - x inside the clamp and x^ outside, and rounding is passed straight through.
    Adam on logarithms of scales. The samples held out choose the moment, with scales and biases as
    they will be deployed, and what they find no better than the start is not kept. No labels.
    Scales have few significant bits (`numerics.exact`); the snapping too is passed straight
    through, and those of 8-bit grids, which have too few, stay.
    Reference: Esser et al., arXiv 1902.08153, for the gradient of a scale; Hubara et al. 2020
    (arXiv 2006.10518), section 3.3, for the loss, which the paper lowers by biases alone.

    Args:
        start: the solved network; units without a solution stay in float.
        samples: calibration samples in two parts.
        options: how.

    Returns:
        The network, solutions and edges that changed new; and what happened.
    """
    options = options or ScaleTuning()
    with torch.inference_mode(False), torch.no_grad():
        samples = in_memory(samples)
        judge = Judge.of(start.graph, samples.held_out)
        biased = start.having(with_biases(start))
        simulation = simulate(biased)
        before = judge(simulation.module)
        best, chosen, history = before, None, [(0, before)]
        for step, moment in _moments(simulation, biased, samples, judge, options):
            found = moment.applied(biased)
            now = judge(simulate(found).module)
            history.append((step, now))
            if now.no_worse(before) and now.soft < best.soft:
                best, chosen = now, found
    note = "" if chosen else f"held-out loss is never below {before}: left as it was"
    units = tuple(biased.solved) if chosen else ()
    report = report_moments(STAGE, history, best, units, judge, samples, note)
    return chosen or start, report


@dataclass(frozen=True, eq=False)
class _Moment:
    """What has been learned so far: logarithms of scales by unit and by class, biases by unit."""

    weights: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    biases: Mapping[str, Tensor]

    def applied(self, start: Configuration) -> Configuration:
        """As it would be deployed."""
        edges = scale_edges(start, {name: float(log) for name, log in self.inputs.items()})
        found = {}
        for name, old in start.solved.items():
            weight, bias = old.weight, old.bias
            if name in self.weights:
                weight = stretch(weight, self.weights[name])
            if name in self.biases:
                bias = self.biases[name]
            made = replace(old, weight=weight, bias=bias)
            found[name] = give_inputs(made, name, start.sites, edges)
        return start.having(found, edges)


def _moments(
    simulation: Simulation,
    biased: Configuration,
    samples: Samples,
    judge: Judge,
    options: ScaleTuning,
) -> Iterator[tuple[int, _Moment]]:
    """The moments that are to be judged, and the iterations at which they come."""
    graph, start = biased.graph, biased.solved
    numbers = weight_paths(simulation.module)
    plain = [
        name for name, s in start.items() if is_plain(s) and name in numbers and is_fine(s.weight)
    ]
    classes = scale_paths(simulation.module, biased)
    weights = {name: _zeros(start[name].weight.scale) for name in plain}
    device = device_of(graph)
    inputs = {name: _zeros(torch.zeros((), device=device)) for name in classes}
    units = [unit for unit in graph.units if unit.name in simulation.places]
    spread = {
        name: moments.var.sqrt().float().to(device)
        for name, moments in output_moments(graph.module, units, samples.fit).items()
    }
    biases = {name: _zeros(s) for name, s in spread.items()}
    steps = {n: start[n].q.float() - start[n].weight.zero_point.float() for n in plain}

    def bias(name: str, moved: Tensor) -> Tensor:
        base = start[name].bias
        assert base is not None
        return base + spread[name] * moved

    def tensors() -> dict[str, Tensor]:
        made = {numbers[n]: steps[n] * learn_scale(start[n].weight, w) for n, w in weights.items()}
        for name, log in inputs.items():
            made |= {path: learn_scale(qp, log) for path, qp in classes[name].items()}
        return made | {simulation.places[n].bias: bias(n, moved) for n, moved in biases.items()}

    learned = (
        Learned(tuple(weights.values()), options.weight_rate),
        Learned(tuple(inputs.values()), options.input_rate),
        Learned(tuple(biases.values()), options.rate),
    )
    for step, (w, x, b) in descend(
        graph, simulation.module, samples, judge, learned, tensors, options
    ):
        moved = dict(zip(biases, b, strict=True))
        yield (
            step,
            _Moment(
                dict(zip(weights, w, strict=True)),
                dict(zip(inputs, x, strict=True)),
                {name: bias(name, mean) for name, mean in moved.items()},
            ),
        )


def is_fine(qparams: QParams) -> bool:
    """Whether the scales of a grid may stand close enough together to be learned."""
    return significant_bits(qparams.grid) >= FINE_BITS


def learn_scale(qparams: QParams, log: Tensor) -> Tensor:
    """The scale that would be deployed, with the gradient of the one before it is snapped."""
    exact = qparams.scale * log.exp()
    return exact + (stretch(qparams, log.detach()).scale - exact).detach()


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like).requires_grad_()


def scale_paths(module: fx.GraphModule, start: Configuration) -> dict[str, dict[str, QParams]]:
    """Where the stitched network keeps the scales of each class of edges, and what they are.

    Of classes whose scales are to be learned: those of narrow grids.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    classes = grid_names(start)
    found: dict[str, dict[str, QParams]] = {}
    for site in start.sites:
        qparams = start.edges.get((site.source, site.reader))
        if qparams is None or site.reader not in nodes or not is_fine(qparams):
            continue
        for path in _paths_into(nodes[site.reader].all_input_nodes, site.source):
            found.setdefault(classes[site.root], {})[path] = qparams
    return found


def _paths_into(inputs: Iterable[fx.Node], source: str) -> Iterator[str]:
    for node in inputs:
        if node.target is not FAKE_QUANTIZE:
            continue
        value, scale = node.args[:2]
        if isinstance(value, fx.Node) and isinstance(scale, fx.Node) and value.name == source:
            yield str(scale.target)
