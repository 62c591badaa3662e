"""Bias correction without data: what rounded weights shift on average is taken from the biases."""

from __future__ import annotations

from dataclasses import replace

from bitwright.graph.model_graph import ModelGraph
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import dequantize
from bitwright.prepare.expectation import expected_inputs, gathered
from bitwright.tuners.judge import Judge
from bitwright.tuners.network import Deploy, Solved, simulate, tunable, with_biases
from bitwright.tuners.report import TuneReport, attempted
from bitwright.tuners.samples import Samples, in_memory

STAGE = "bias-analytic"


def correct_biases(
    graph: ModelGraph, solved: Solved, deploy: Deploy, samples: Samples
) -> tuple[Solved, TuneReport]:
    """Take the expected shift of every unit's output out of its bias.

    Equation: b' = b - (Wq - W) E[x], E[x] of each input channel from the batch-norms before it
    (`prepare.expectation`); units whose input they do not tell keep their bias. The samples only
    judge: where they find the network worse, it is left as it was.
    Reference: Nagel et al., arXiv 1906.04721, section 4.2.1.

    Args:
        graph: the captured float network.
        solved: solutions by unit; units that are not there stay in float.
        deploy: how solutions become what is deployed (`stages.assemble`, bound).
        samples: calibration samples, of which the held-out ones are used.

    Returns:
        All solutions, those of changed units new; and what happened.
    """
    samples = in_memory(samples)
    judge = Judge.of(graph, samples.held_out)
    before = judge(simulate(graph, solved, deploy).module)
    made = corrected(graph, solved)
    after = judge(simulate(graph, {**solved, **made}, deploy).module) if made else before
    kept = bool(made) and after.no_worse(before)
    note = "" if made else "no folded batch-norm tells the mean of any unit's input"
    report = attempted(STAGE, (before, after), tuple(made), kept, judge, samples, note)
    return ({**solved, **made} if kept else solved), report


def corrected(graph: ModelGraph, solved: Solved) -> dict[str, UnitSolution]:
    """The solutions of all units whose input's mean is known, with corrected biases."""
    means = expected_inputs(graph)
    start = with_biases(graph, solved)
    made = {}
    for unit in tunable(graph, solved):
        if unit.name not in means:
            continue
        old = start[unit.name]
        change = dequantize(old.q, old.weight).double() - graph.tensor(unit.weight).double()
        shift = gathered(change, unit, means[unit.name])
        assert old.bias is not None
        made[unit.name] = replace(old, bias=(old.bias.double() - shift).float())
    return made
