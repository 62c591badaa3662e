"""Bias correction without data: what rounded weights shift on average is taken from the biases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from bitwright.evaluation.judge import Judge
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import dequantize
from bitwright.prepare.expectation import expect_inputs, gather_means
from bitwright.solving.configuration import Configuration
from bitwright.solving.samples import Samples, in_memory
from bitwright.tuning.network import simulate, tunable, with_biases
from bitwright.tuning.report import TuneReport, report_attempt

STAGE = "bias-analytic"


@dataclass(frozen=True)
class BiasCorrection:
    """The step that takes expected shifts out of biases; it has no settings."""

    name: ClassVar[str] = STAGE

    def apply(self, start: Configuration, samples: Samples) -> tuple[Configuration, TuneReport]:
        """See `correct_biases`."""
        return correct_biases(start, samples)


def correct_biases(start: Configuration, samples: Samples) -> tuple[Configuration, TuneReport]:
    """Take the expected shift of every unit's output out of its bias.

    Equation: b' = b - (Wq - W) E[x], E[x] of each input channel from the batch-norms before it
    (`prepare.expectation`); units whose input they do not tell keep their bias. The samples only
    judge: where they find the network worse, it is left as it was.
    Reference: Nagel et al., arXiv 1906.04721, section 4.2.1.

    Args:
        start: the solved network; units without a solution stay in float.
        samples: calibration samples, of which the held-out ones are used.

    Returns:
        The network, changed units new; and what happened.
    """
    samples = in_memory(samples)
    judge = Judge.of(start.graph, samples.held_out)
    before = judge(simulate(start).module)
    made = correct_units(start)
    after = judge(simulate(start.changed(made)).module) if made else before
    kept = bool(made) and after.no_worse(before)
    note = "" if made else "no folded batch-norm tells the mean of any unit's input"
    report = report_attempt(STAGE, (before, after), tuple(made), kept, judge, samples, note)
    return (start.changed(made) if kept else start), report


def correct_units(start: Configuration) -> dict[str, UnitSolution]:
    """The solutions of all units whose input's mean is known, with corrected biases."""
    graph = start.graph
    means = expect_inputs(graph)
    biased = with_biases(start)
    made = {}
    for unit in tunable(graph, start.solved):
        if unit.name not in means:
            continue
        old = biased[unit.name]
        change = dequantize(old.q, old.weight).double() - graph.tensor(unit.weight).double()
        shift = gather_means(change, unit, means[unit.name])
        assert old.bias is not None
        made[unit.name] = replace(old, bias=(old.bias.double() - shift).float())
    return made
