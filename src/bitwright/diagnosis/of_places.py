"""Where the error is made, where nothing tells why: the last branches of the tree; pure."""

from __future__ import annotations

import math

from bitwright.diagnosis import signatures as shows
from bitwright.diagnosis.finding import Cause
from bitwright.diagnosis.remedies import GENERAL, LOST, SHARE, add_option, decibels, say_share
from bitwright.diagnosis.symptoms import Symptoms

ONE_SIDED = 0.8


def depthwise_layers(found: Symptoms) -> Cause | None:
    """Weights of depthwise convolutions: few in a channel, so that errors do not average out."""
    share = found.shares.get(shows.DEPTHWISE, 0.0)
    layers = [unit for unit in found.units if unit.depthwise]
    if not layers or share < SHARE or found.noise < LOST:
        return None
    worst = max(layers, key=lambda unit: unit.noise)
    finer = ", ".join(f"{unit.name}=w8a8" for unit in layers)
    if "w8" in found.settings.get("scheme", "") and not found.settings.get("menu"):
        finer = ", ".join(f"{unit.name}=float" for unit in layers)
    return Cause(
        cause=shows.DEPTHWISE,
        place=worst.name,
        text="depthwise convolutions have few weights in a channel, so that rounding errors do not "
        "average out. Keep them finer",
        figure=f"{len(layers)} of them; {say_share(share)}",
        severity=share,
        sets={"keep": add_option(found, "keep", finer)},
    )


def first_jump(found: Symptoms) -> Cause | None:
    """The unit at which the error first jumps."""
    unit, share = shows.find_jump(found.units), found.shares.get(shows.JUMP, 0.0)
    if unit is None or share < SHARE or found.noise < LOST:
        return None
    return Cause(
        cause=shows.JUMP,
        place=unit.name,
        text="the error first jumps at this unit. Keep it finer",
        figure=f"its result has {decibels(unit.noise)} dB of signal to noise; {say_share(share)}",
        severity=GENERAL * share,
        sets={"keep": add_option(found, "keep", f"{unit.name}=float")},
    )


def one_side(found: Symptoms) -> Cause | None:
    """Weights alone, or inputs alone, make the error."""
    both = found.noise_of_weights + found.noise_of_inputs
    if found.noise < LOST or not 0 < both < math.inf:
        return None
    weights = found.noise_of_weights / both
    share = max(weights, 1 - weights)
    if share < ONE_SIDED:
        return None
    what, mend = ("weights", _finer_weights(found)) if weights > 0.5 else (
        "inputs", {"activation_range": "output"}
    )  # fmt: skip
    return Cause(
        cause=f"{what}-alone",
        place="the network",
        text=f"the {what} make nearly all of the error",
        figure=f"signal to noise with weights alone quantised "
        f"{decibels(found.noise_of_weights)} dB, with inputs alone "
        f"{decibels(found.noise_of_inputs)} dB",
        severity=GENERAL * GENERAL * share,
        sets=mend,
    )


def _finer_weights(found: Symptoms) -> dict[str, str]:
    """Solved rounding where it was none, else more bits."""
    if found.settings.get("method") == "nearest":
        return {"method": "quadratic"}
    return {"scheme": "w8a8", "menu": ""} if found.settings.get("menu") else {"scheme": "w8a8"}
