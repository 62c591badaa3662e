"""What the values of one edge, or the inputs of one join, look like where they do harm."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bitwright.diagnosis.symptoms import EdgeSymptoms, JoinSymptoms, UnitSymptoms, outstanding

# Causes that are places in the network; what they do is measured by leaving them in float.
MASK, CLIPPED, CONSTANT = "mask-in-range", "clipped-range", "dead-channel"
SAMPLES, CHANNEL = "outlier-samples", "outlier-channel"
JOIN, DEPTHWISE, JUMP = "unlike-ranges", "depthwise", "first-jump"

# A value this far out takes three of eight bits from all the others.
FAR = 8.0
# A mask is this far beyond everything else, and a channel that stands still moves this little.
BEYOND, STILL = 50.0, 1e-4
MASK_VALUE = -1e3
# Rare values outside a range are what range rules mean to leave there.
OFTEN, EVERYWHERE, MOSTLY = 0.01, 0.5, 0.5
RARE = 0.1
# Two inputs of a join share a grid's steps: the narrow one then has fewer than 5 of 8 bits.
UNLIKE = 10.0
JUMPS, HEARD = 4.0, 0.01


def is_masked(edge: EdgeSymptoms) -> bool:
    """Whether numbers that stand for minus infinity are in the range."""
    return edge.masked > 0 and -edge.least > BEYOND * max(edge.rest, 1e-12)


def is_clipped(edge: EdgeSymptoms) -> bool:
    """Whether the range cuts off many values, in many channels, and most of the error is that."""
    return edge.clipped > OFTEN and edge.clipped_channels > EVERYWHERE and edge.clip_share > MOSTLY


def has_constant_channel(edge: EdgeSymptoms) -> bool:
    """Whether a channel that stands still at a large value takes the range."""
    channel = widest(edge)
    return channel is not None and edge.spreads[channel] <= STILL * edge.channels[channel]


def has_outlier_samples(edge: EdgeSymptoms) -> bool:
    """Whether a few samples take the range."""
    far = outlying(edge)
    return bool(far) and len(far) <= max(1, RARE * len(edge.samples))


def has_outlier_channel(edge: EdgeSymptoms) -> bool:
    """Whether one channel, or few, take the range in all samples."""
    return widest(edge) is not None


def widest(edge: EdgeSymptoms) -> int | None:
    """The channel that is far wider than the others, if there is one."""
    if outstanding(edge.channels) < FAR:
        return None
    return max(range(len(edge.channels)), key=edge.channels.__getitem__)


def outlying(edge: EdgeSymptoms) -> list[int]:
    """The samples whose largest magnitude is far beyond the usual one."""
    if outstanding(edge.samples) < FAR:
        return []
    usual = sorted(edge.samples)[len(edge.samples) // 2]
    return [i for i, value in enumerate(edge.samples) if value > FAR / 2 * usual]


# In this order: an edge is counted under the first that it shows.
OF_EDGES: Mapping[str, Callable[[EdgeSymptoms], bool]] = {
    MASK: is_masked,
    CLIPPED: is_clipped,
    CONSTANT: has_constant_channel,
    SAMPLES: has_outlier_samples,
    CHANNEL: has_outlier_channel,
}


def signature(edge: EdgeSymptoms) -> str | None:
    """The first thing that is wrong with an edge, by its cause's name."""
    return next((name for name, shows in OF_EDGES.items() if shows(edge)), None)


def is_unlike(join: JoinSymptoms, edges: tuple[EdgeSymptoms, ...]) -> bool:
    """Whether a join's inputs differ in range, and no single channel or sample is to blame."""
    plain = {edge.name for edge in edges if signature(edge) is None}
    return join.ratio > UNLIKE and all(edge in plain for edge in join.edges)


def find_jump(units: tuple[UnitSymptoms, ...]) -> UnitSymptoms | None:
    """The first unit whose result is clearly noisier than all before it."""
    before = 0.0
    for unit in units:
        if unit.noise > HEARD and unit.noise > JUMPS * before:
            return unit
        before = max(before, unit.noise)
    return None
