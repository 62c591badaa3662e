"""Equalisation by data: a factor for each stream of channels, measured or learned, then folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from bitwright.errors import RecipeError
from bitwright.evaluation.judge import Judge
from bitwright.graph.execute import Open, run
from bitwright.graph.model_graph import ModelGraph, shallow_copy
from bitwright.graph.simulate import Assignment, stitch
from bitwright.graph.sites import Site, find_sites
from bitwright.numerics.affine import dequantize, quantize
from bitwright.numerics.exact import exact_range
from bitwright.numerics.stats import TensorStats
from bitwright.prepare.fold_streams import fold_factors
from bitwright.prepare.rescale import put
from bitwright.prepare.streams import Streams, find_streams
from bitwright.solving.grids import LearnedGrids, input_grids, share_stats, sites_in_use
from bitwright.solving.samples import Samples
from bitwright.tuning.descent import Descent
from bitwright.tuning.even import Student, learn_factors
from bitwright.tuning.widths import Aim, QuantisedInput, log_factors, measure_inputs

POWERS = (0.5, 1.0)
# What solved rounding leaves of nearest rounding's error is what one more bit leaves of it.
BITS_OF_SOLVER = 2
# Gains smaller than this are luck.
GAIN = 0.02


@dataclass(frozen=True)
class Equalization:
    """How the factors are found.

    Attributes:
        learn: learn them from the answers, from the measured ones on; else the measured are taken.
        iterations, batch: steps of Adam, and samples each.
        rate: the first learning rate of logarithms; falls as a cosine.
        seed: of the samples' order.
    """

    learn: bool = True
    iterations: int = 160
    batch: int = 32
    rate: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.iterations, self.batch) < 1 or not self.rate > 0.0:
            raise RecipeError(
                f"iterations={self.iterations}, batch={self.batch}, rate={self.rate} in "
                "equalisation: all must be positive."
            )

    @property
    def name(self) -> str:
        """As `--prepare` has it."""
        return "equalize-learned" if self.learn else "balance"


def equalize_by_data(
    graph: ModelGraph, samples: Samples, aim: Aim, options: Equalization
) -> tuple[ModelGraph, str]:
    """The network whose channels suit the grids of its inputs, and what was gained, in a sentence.

    Equation: x_c -> f_c x_c in every value of a stream, exactly undone by those who read it. The
    measured factors are f_c = s_c^-p, s_c the step at which the channel alone has the least squared
    error, its logarithm averaged over all places that read the stream, p one half or one. The
    learned ones, with the step s of each input, lower T^2 KL(softmax(float / T) || softmax(q / T)),
    q the float network whose inputs are clamp(round(x f_c / s)) s / f_c, straight through the
    rounding, from the measured ones of p = 1/2. What is best on the samples that are held out is
    kept, if it gains.
    Reference: none published for whole streams by the answers; Nagel et al., arXiv 1906.04721,
    section 4.1 (equal ranges of weights); Esser et al., arXiv 1902.08153 (learned steps).

    Args:
        graph: the captured network.
        samples: what is measured and learned on, and what judges.
        aim: what the network is to become.
        options: how.
    """
    streams = find_streams(graph)
    with torch.inference_mode(False), torch.no_grad():
        sites = _list_sites(graph, aim)
        if streams.count == 1 or not sites:
            return graph, "no channels that could be rescaled feed a quantised input"
        judge = Judge.of(graph, samples.held_out)
        inputs = measure_inputs(graph, streams, sites, samples.fit, aim)
        before = least = judge(_quantise(graph, samples.fit, aim)).soft
        best, said = graph, ""
        for words, logs, grids in _try_factors(graph, streams, inputs, samples, judge, options):
            made = replace(fold_factors(graph, streams, logs.exp()), grids=grids)
            loss = judge(_quantise(made, samples.fit, aim)).soft
            if loss < least and loss <= (1.0 - GAIN) * before:
                best, least, said = made, loss, words
    if best is graph:
        return graph, f"no gain on held-out samples (loss {before:.3g}): left as it was"
    moved = f"{streams.count - 1} streams of channels rescaled by factors {said}"
    return best, f"{moved}; loss on held-out samples {before:.3g} -> {least:.3g}"


def _try_factors(
    graph: ModelGraph,
    streams: Streams,
    inputs: Sequence[QuantisedInput],
    samples: Samples,
    judge: Judge,
    options: Equalization,
) -> Iterator[tuple[str, Tensor, LearnedGrids]]:
    measured = {power: log_factors(streams, inputs, power) for power in POWERS}
    if not options.learn:
        for power, logs in measured.items():
            yield f"measured, to the power {power:g}", logs, {}
        return
    student = Student(graph, inputs, measured[POWERS[0]])
    how = Descent(options.iterations, options.batch, checks=1, seed=options.seed)
    yield "learned", *learn_factors(student, samples, judge, how, options.rate)


def _list_sites(graph: ModelGraph, aim: Aim) -> tuple[Site, ...]:
    menu = {name: (choice,) for name, choice in aim.choices.items()}
    return sites_in_use(find_sites(graph, aim.target), menu)


def _measure_stats(graph: ModelGraph, batches: Open, roots: set[str]) -> dict[str, TensorStats]:
    merged: dict[str, TensorStats] = {}

    def visit(node: fx.Node, value: object) -> None:
        if node.name in roots and isinstance(value, Tensor):
            here = TensorStats.of(value)
            old = merged.get(node.name)
            merged[node.name] = here if old is None else old.merge(here)

    for flat in batches():
        run(graph, flat, visit)
    return {name: stats for name, stats in merged.items() if not stats.nonfinite}


def _quantise(graph: ModelGraph, batches: Open, aim: Aim) -> fx.GraphModule:
    """The network with quantised inputs, its weights rounded about as well as they will be."""
    sites = _list_sites(graph, aim)
    stats = _measure_stats(graph, batches, {site.root for site in sites})
    stats = share_stats(graph, aim.target, stats)
    edges = input_grids(sites, stats, aim.choices, aim.target, aim.rule, graph.grids)
    module = shallow_copy(graph.module)
    for unit in graph.units:
        bits = aim.choices[unit.name].w_bits
        if not bits:
            continue
        weight = graph.tensor(unit.weight).float()
        grid = aim.target.weight_grid(min(8, bits + BITS_OF_SOLVER * aim.solved))
        axes = [axis for axis in range(weight.dim()) if axis != unit.channel_axis]
        low, high = weight.amin(axes, keepdim=True), weight.amax(axes, keepdim=True)
        if not aim.target.weight_per_channel:
            low, high = low.min(), high.max()
        qparams = exact_range(low, high, grid, aim.target.weight_symmetric)
        put(module, unit.weight, dequantize(quantize(weight, qparams), qparams))
    return stitch(replace(graph, module=module), Assignment({}, {}, edges))
