"""Causes that lie in the range of a grid: what takes it up, and what it cuts off; pure."""

from __future__ import annotations

from bitwright.diagnosis import signatures as shows
from bitwright.diagnosis.finding import Cause
from bitwright.diagnosis.remedies import GENERAL, LOST, SHARE, add_option, leave_in_float, say_share
from bitwright.diagnosis.symptoms import EdgeSymptoms, Symptoms, outstanding


def mask_in_range(found: Symptoms) -> Cause | None:
    """Numbers that stand for minus infinity take up a grid."""
    edge = find_edge(found, shows.MASK)
    if edge is None:
        return None
    return name_place(
        found, shows.MASK, edge,
        "a mask's value is in the range, and leaves the real values a step or none. Leave what "
        "reads it in float",
        f"the least value is {edge.least:.3g}, the others reach {edge.rest:.3g}",
        leave_in_float(found, (edge.unit,) if edge.unit else ()),
    )  # fmt: skip


def clipped_range(found: Symptoms) -> Cause | None:
    """A range cuts off much of what passes."""
    edge = find_edge(found, shows.CLIPPED)
    if edge is None:
        return None
    mend = {"activation_range": "minmax"}
    if found.settings.get("activation_range") == "minmax":
        mend = {"calib": "0"}
    return name_place(
        found, shows.CLIPPED, edge,
        "the range cuts off values that are not rare. Take the range of all values",
        f"{edge.clipped:.1%} of the values lie outside {edge.lo:.3g} to {edge.hi:.3g}; they reach "
        f"from {edge.least:.3g} to {edge.most:.3g}",
        mend,
    )  # fmt: skip


def dead_channel(found: Symptoms) -> Cause | None:
    """A channel that says nothing, and takes the range; or one that quantisation silenced."""
    edge = find_edge(found, shows.CONSTANT)
    channel = shows.widest(edge) if edge is not None else None
    if edge is not None and channel is not None:
        return name_place(
            found, shows.CONSTANT, edge,
            f"channel {channel} stands still at a value that takes the range. Equalise the "
            "channels, or take the channel out of the network",
            f"channel {channel} is {edge.channels[channel]:.3g} throughout, "
            f"{outstanding(edge.channels):.0f} times the usual channel",
            {"prepare": add_option(found, "prepare", "equalize")},
        )  # fmt: skip
    silenced = sum(unit.silenced for unit in found.units)
    if not silenced or found.noise < LOST:
        return None
    worst = max(found.units, key=lambda unit: unit.silenced)
    return Cause(
        cause=shows.CONSTANT,
        place=worst.name,
        text="channels that vary in float stand still in the quantised network: their weights or "
        "inputs became zero",
        figure=f"{worst.silenced} of {worst.channels} channels of {worst.name}",
        severity=GENERAL * worst.silenced / worst.channels,
        sets={"keep": add_option(found, "keep", f"{worst.name}=float")},
    )


def outlier_samples(found: Symptoms) -> Cause | None:
    """A few samples take the range."""
    edge = find_edge(found, shows.SAMPLES)
    if edge is None:
        return None
    far = shows.outlying(edge)
    listed = ", ".join(map(str, far[:5]))
    return name_place(
        found, shows.SAMPLES, edge,
        f"a few samples are far outside what the others are (number {listed} of the data). Take "
        "them out, or let the range pass over them",
        f"they reach {max(edge.samples):.3g}, {outstanding(edge.samples):.0f} times the usual "
        "sample",
        {"activation_range": "percentile"},
    )  # fmt: skip


def outlier_channel(found: Symptoms) -> Cause | None:
    """One channel takes the range of all."""
    edge = find_edge(found, shows.CHANNEL)
    channel = shows.widest(edge) if edge is not None else None
    if edge is None or channel is None:
        return None
    return name_place(
        found, shows.CHANNEL, edge,
        f"channel {channel} is far wider than the others, which share what is left of the grid. "
        "Equalise the channels",
        f"channel {channel} reaches {edge.channels[channel]:.3g}, "
        f"{outstanding(edge.channels):.0f} times the usual channel",
        {"prepare": add_option(found, "prepare", "equalize")},
    )  # fmt: skip


def unlike_ranges(found: Symptoms) -> Cause | None:
    """An add or concat whose narrow input is lost in the steps of the wide one."""
    share = found.shares.get(shows.JOIN, 0.0)
    joins = [join for join in found.joins if shows.is_unlike(join, found.edges)]
    if not joins or share < SHARE or found.noise < LOST:
        return None
    join = max(joins, key=lambda one: one.ratio)
    told = ", ".join(f"{n} {s:.3g}" for n, s in zip(join.inputs, join.spreads, strict=True))
    return Cause(
        cause=shows.JOIN,
        place=join.place,
        text=f"the inputs of this {join.kind} differ in range, so that one grid is too coarse for "
        "the narrow one. Leave it and what reads it in float, which costs speed",
        figure=f"standard deviations {told}: {join.ratio:.0f} to 1; {say_share(share)}",
        severity=share,
        sets=leave_in_float(found, join.units),
    )


def find_edge(found: Symptoms, cause: str) -> EdgeSymptoms | None:
    """The first edge that shows it, where it matters to the output."""
    if found.shares.get(cause, 0.0) < SHARE or found.noise < LOST:
        return None
    return next((edge for edge in found.edges if shows.signature(edge) == cause), None)


def name_place(
    found: Symptoms, cause: str, edge: EdgeSymptoms, text: str, figure: str, sets: dict[str, str]
) -> Cause:
    """The finding of an edge, its share told and taken as its severity."""
    share = found.shares[cause]
    return Cause(
        cause=cause,
        place=edge.place,
        text=text,
        figure=f"{figure}; {say_share(share)}",
        severity=share,
        sets=sets,
    )
