"""The tree: every cause there is, in the order in which they are looked for."""

from __future__ import annotations

from collections.abc import Callable

from bitwright.diagnosis import of_places, of_ranges, of_the_file, of_the_network
from bitwright.diagnosis.finding import Cause
from bitwright.diagnosis.symptoms import Symptoms

SHOWN = 3

# Each is a pure function from symptoms to a finding or None. What stands higher makes what stands
# below it doubtful.
CAUSES: tuple[Callable[[Symptoms], Cause | None], ...] = (
    of_the_network.saturated_weights,
    of_the_file.damaged_file,
    of_the_network.batch_norms,
    of_the_network.channel_order,
    of_the_network.preprocessing,
    of_the_file.integer_kernels,
    of_ranges.mask_in_range,
    of_ranges.clipped_range,
    of_ranges.dead_channel,
    of_ranges.outlier_samples,
    of_ranges.outlier_channel,
    of_ranges.unlike_ranges,
    of_places.depthwise_layers,
    of_places.first_jump,
    of_places.one_side,
)


def judge(found: Symptoms) -> tuple[Cause, ...]:
    """At most three causes, the best-founded first; of equal ones the order of the tree."""
    named = [finding for cause in CAUSES if (finding := cause(found)) is not None]
    return tuple(sorted(named, key=lambda finding: -finding.severity)[:SHOWN])
