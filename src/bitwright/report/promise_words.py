"""A promise in words: what was tried for it, and what became of it."""

from __future__ import annotations

import math

from bitwright.evaluation.promised import LookRecord, Promised, RungRecord
from bitwright.export.verified import Rejection
from bitwright.report.rates import say_count
from bitwright.report.texts import percent

# SampleFigures that are no shares.
_PLAIN = ("kl", "perplexity", "spearman")


def word_figure(name: str, value: float) -> str:
    """A promise's figure as it is read."""
    if math.isnan(value):
        return "unknown"
    return f"{value:.4g}" if name in _PLAIN or abs(value) > 1 else percent(value, 2)


def word_rung(rung: RungRecord, name: str) -> str:
    """What one thing brought on the samples that choose, and in the file."""
    figure = f"{name} {word_figure(name, rung.figure)}, KL {rung.kl:.2g} on held-out samples"
    if not rung.kept:
        return f"{rung.name}: {figure}: worse, not kept"
    if rung.look is None:
        return f"{rung.name}: {figure}"
    return f"{rung.name}: {figure}; {word_look(rung.look, name)}"


def word_look(look: LookRecord, name: str) -> str:
    """What a file showed."""
    if math.isnan(look.bound):
        return f"its file shows nothing ({look.by})"
    shown = "holds" if look.holds else "is not shown"
    return (
        f"in the file it {shown}: {word_figure(name, look.estimate)} of "
        f"{say_count(look.samples, 'sample')}, bound {word_figure(name, look.bound)}"
    )


def word_promise(look: LookRecord, asked: str, name: str, falls: bool, runtime: str) -> str:
    """What became of a promise, in a sentence; what holds instead where it was not shown."""
    if math.isnan(look.bound):
        return f"{asked} is NOT SHOWN: {look.by}."
    side = "at most" if falls else "at least"
    seen = (
        f"{word_figure(name, look.estimate)} on {say_count(look.samples, 'sample')}, model.onnx in "
        f"{runtime}; {look.by}"
    )
    bound = f"{side} {word_figure(name, look.bound)} with 95 % confidence"
    if look.holds:
        return f"{asked} HOLDS: {bound} ({seen})."
    enough = "" if look.needed is None else f" {look.needed} samples like these would show it."
    return f"{asked} is NOT SHOWN: what holds is {bound} ({seen}).{enough}"


def promise_lines(found: Promised) -> list[str]:
    """The promise, then what was tried for it, then the remedy."""
    name = name_of(found)
    lines = [found.told]
    if len(found.rungs) > 1 or not found.holds:
        lines += [word_rung(rung, name) for rung in found.rungs]
    if found.finer:
        shown = ", ".join(found.finer[:4]) + (" ..." if len(found.finer) > 4 else "")
        lines.append(f"finer than the scheme: {say_count(len(found.finer), 'unit')} ({shown})")
    if found.remedy:
        lines.append(f"remedy: {found.remedy}")
    return lines


def word_rejection(found: Rejection) -> str:
    """That a file answers at random, and where it is."""
    where = "it was not written (--force writes it as model.rejected.onnx)"
    if found.written:
        where = "it is written as model.rejected.onnx"
    return (
        f"model.onnx answers at random: {percent(found.agreement)} of "
        f"{say_count(found.samples, 'sample')} have float's answer, and a lot would hit "
        f"{percent(found.chance)}; {where}."
    )


def name_of(found: Promised) -> str:
    """What a promise is of: `agreement` of `agreement>=99%`."""
    return found.asked.replace("≥", ">").replace("≤", "<").replace("<", ">").split(">")[0].strip()
