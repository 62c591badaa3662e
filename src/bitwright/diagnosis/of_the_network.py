"""Causes before any quantisation: the float network, and the data that it is given; pure."""

from __future__ import annotations

import math

from bitwright.diagnosis.finding import Cause
from bitwright.diagnosis.symptoms import NORMALISED, REVERSED, Symptoms
from bitwright.graph.observe import MISMATCH

# Right preprocessing gives 0.18 to 0.4 on five networks and a wrong one 1.5 and more; of the
# channels' means it gives 0.06 to 0.12, and the wrong order at least 1.7 times that
# (tests/diagnosis/test_real_networks.py).
FOREIGN, MENDED = 0.5, 0.5
SHIFTED, TURNED = 0.1, 0.75
_NORMALISED = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}


def saturated_weights(found: Symptoms) -> Cause | None:
    """Numbers at the end of half precision: the network was stored in it, and did not fit."""
    if not found.saturated:
        return None
    name, count = max(found.saturated.items(), key=lambda item: item[1])
    return Cause(
        cause="half-overflow",
        place=name,
        text="the weights were stored in half precision and did not fit: what was larger ended at "
        "its limit. Store the float network in 32 bits, or in bfloat16, and quantise that",
        figure=f"{count} numbers of {name} are 65504 or infinite",
        severity=1.0,
    )


def batch_norms(found: Symptoms) -> Cause | None:
    """Batch-norms whose memory does not match the data, though the network's input does."""
    if not found.norms:
        return None
    worst = max(found.norms, key=lambda norm: norm.mismatch)
    untouched = [norm for norm in found.norms if norm.untouched]
    certain = bool(untouched) or found.in_training
    asked = MISMATCH
    if not certain:
        # Data that were wrong from the start put all of them off; see `preprocessing`.
        asked = math.inf if found.norms[0].mismatch >= MISMATCH else 2 * MISMATCH
    if worst.mismatch < asked:
        return None
    told = (
        f"{len(untouched)} of {len(found.norms)} batch-norms still remember mean 0 and variance 1"
        if untouched
        else f"{worst.name} is off by {worst.mismatch:.2f} standard deviations "
        f"(up to {MISMATCH} is usual)"
    )
    return Cause(
        cause="batch-norm",
        place=worst.name if not untouched else untouched[0].name,
        text="batch-norms were left in training mode, or their statistics are not those of these "
        "data: in use they compute something else than in training. Run data through the float "
        "network in training mode (with momentum=None), call .eval(), and quantise that",
        figure=told,
        severity=1.0 if certain else worst.mismatch / (1 + worst.mismatch),
    )


def channel_order(found: Symptoms) -> Cause | None:
    """The means of the first batch-norm's channels fit with the image's channels turned round."""
    if not _is_first_norm_a_witness(found) or _mending(found) not in ("", REVERSED):
        return None
    if found.shift < SHIFTED or found.shift_reversed > TURNED * found.shift:
        return None
    return Cause(
        cause="channel-order",
        place=found.norms[0].name,
        text=f"the data fit what the network was trained on with {REVERSED}: change that where the "
        "data are read",
        figure="at the first batch-norm the channels' means are off by "
        f"{found.shift:.2f} standard deviations, and by {found.shift_reversed:.2f} with {REVERSED}",
        severity=1.0,
    )


def preprocessing(found: Symptoms) -> Cause | None:
    """What the first batch-norm is given is not what it was trained on."""
    if not _is_first_norm_a_witness(found) or channel_order(found) is not None:
        return None
    off, mending = found.norms[0].mismatch, _mending(found)
    if off < (MISMATCH if mending else FOREIGN):
        return None
    hint = (
        f"they do with {mending}: change that where the data are read"
        if mending
        else "check mean and standard deviation, the range (0..255 or 0..1) and the channels' order"
    )
    told = f"; with {mending} {found.repaired[mending]:.2f}" if mending else ""
    return Cause(
        cause="preprocessing",
        place=found.norms[0].name,
        text=f"the data do not look like those that the network was trained on; {hint}",
        figure=f"at the first batch-norm the channels are off by {off:.2f} standard deviations "
        f"(up to {MISMATCH} is usual){told}",
        severity=1.0,
        sets=_NORMALISED if mending == NORMALISED else {},
    )


def _is_first_norm_a_witness(found: Symptoms) -> bool:
    """Whether there is a batch-norm that remembers its training."""
    return bool(found.norms) and not found.in_training and not found.norms[0].untouched


def _mending(found: Symptoms) -> str:
    """The change of the images that brings the first batch-norm nearest, where it halves it."""
    best = min(found.repaired, key=found.repaired.__getitem__, default="")
    mends = bool(best) and found.repaired[best] < MENDED * found.norms[0].mismatch
    return best if mends else ""
