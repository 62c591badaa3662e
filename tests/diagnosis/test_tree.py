"""The tree alone: what is named, and what is not, on symptoms written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitwright.diagnosis import signatures
from bitwright.diagnosis.symptoms import (
    NORMALISED,
    REVERSED,
    EdgeSymptoms,
    FileSymptoms,
    JoinSymptoms,
    NormSymptoms,
    Symptoms,
    UnitSymptoms,
    outstanding,
)
from bitwright.diagnosis.tree import CAUSES, SHOWN, judge

SETTINGS = {"method": "nearest", "scheme": "w8a8", "keep": "first=w8a8"}
PLAIN = EdgeSymptoms(
    "q", "relu", "the input of b", "b", -1.0, 1.0, -1.0, 1.0,
    channels=(1.0, 1.1, 0.9, 1.0), spreads=(0.3,) * 4, samples=(1.0,) * 20, rest=1.0,
)  # fmt: skip
MASKED = replace(PLAIN, least=-1e4, masked=0.2)
CLIPPED = replace(PLAIN, clipped=0.2, clipped_channels=0.9, clip_share=0.8)
CONSTANT = replace(PLAIN, channels=(1, 1, 90, 1), spreads=(0.3, 0.3, 0.0, 0.3))
WIDE = replace(PLAIN, channels=(1, 1, 90, 1))
FAR = replace(PLAIN, samples=(1.0,) * 19 + (90.0,))
SOUND = FileSymptoms(plain=1.0, optimized=1.0)
UNITS = (UnitSymptoms("a", "conv2d", False, 0.001), UnitSymptoms("b", "conv2d", True, 0.2))


def of_edge(edge, cause):
    return Symptoms(noise=0.1, edges=(edge,), shares={cause: 0.8}, settings=SETTINGS)


def of_norms(*norms, **more):
    return Symptoms(norms=norms, settings=SETTINGS, **more)


def join(ratio):
    return JoinSymptoms("add", "add", ("x", "y"), (ratio, 1.0), ("q",), ("b",))


# What shows each cause, and the nearest that does not.
SHOWN_BY = {
    "half-overflow": (Symptoms(saturated={"w": 3}), Symptoms()),
    "damaged-file": (
        Symptoms(file=replace(SOUND, first_failure="b", difference=0.1)),
        Symptoms(file=replace(SOUND, altered="another size")),
    ),
    "kernels": (
        Symptoms(file=replace(SOUND, optimized=0.6, kernels="pairs overflow")),
        Symptoms(file=SOUND),
    ),
    "batch-norm": (
        of_norms(NormSymptoms("bn", 1.0, True)),
        of_norms(NormSymptoms("bn", 0.1, True)),
    ),
    "channel-order": (
        of_norms(NormSymptoms("bn", 0.3, False), shift=0.2, shift_reversed=0.1),
        of_norms(NormSymptoms("bn", 0.3, False), shift=0.2, shift_reversed=0.17),
    ),
    "preprocessing": (
        of_norms(NormSymptoms("bn", 0.6, False)),
        of_norms(NormSymptoms("bn", 0.45, False)),
    ),
    "mask-in-range": (of_edge(MASKED, signatures.MASK), of_edge(PLAIN, signatures.MASK)),
    "clipped-range": (
        of_edge(CLIPPED, signatures.CLIPPED),
        of_edge(replace(CLIPPED, clipped_channels=0.25), signatures.CLIPPED),
    ),
    "dead-channel": (
        of_edge(CONSTANT, signatures.CONSTANT),
        replace(of_edge(CONSTANT, signatures.CONSTANT), noise=1e-4),
    ),
    "outlier-samples": (
        of_edge(FAR, signatures.SAMPLES),
        of_edge(replace(FAR, samples=(1.0,) * 15 + (90.0,) * 5), signatures.SAMPLES),
    ),
    "outlier-channel": (
        of_edge(WIDE, signatures.CHANNEL),
        replace(of_edge(WIDE, signatures.CHANNEL), shares={signatures.CHANNEL: 0.1}),
    ),
    "unlike-ranges": (
        replace(of_edge(PLAIN, signatures.JOIN), joins=(join(40.0),)),
        replace(of_edge(PLAIN, signatures.JOIN), joins=(join(4.0),)),
    ),
    "depthwise": (
        Symptoms(noise=0.1, units=UNITS, shares={signatures.DEPTHWISE: 0.6}),
        Symptoms(noise=0.1, units=UNITS, shares={signatures.DEPTHWISE: 0.2}),
    ),
    "first-jump": (
        Symptoms(noise=0.1, units=UNITS, shares={signatures.JUMP: 0.6}),
        Symptoms(noise=0.1, units=UNITS[:1], shares={signatures.JUMP: 0.6}),
    ),
    "weights-alone": (
        Symptoms(noise=0.1, noise_of_weights=0.09, noise_of_inputs=0.01, settings=SETTINGS),
        Symptoms(noise=0.1, noise_of_weights=0.05, noise_of_inputs=0.05, settings=SETTINGS),
    ),
}


@pytest.mark.parametrize("cause", SHOWN_BY)
def test_a_cause_is_named_where_it_shows_and_nowhere_else(cause):
    shown, hidden = SHOWN_BY[cause]
    assert [one.cause for one in judge(shown)] == [cause]
    assert judge(hidden) == ()
    (one,) = judge(shown)
    assert one.figure and one.text and 0 < one.severity <= 1


def test_every_branch_of_the_tree_has_such_a_case():
    reached = {cause.__name__ for cause in CAUSES if any(cause(s) for s, _ in SHOWN_BY.values())}
    assert reached == {cause.__name__ for cause in CAUSES}


def test_at_most_three_and_the_best_founded_first():
    every = replace(
        of_edge(WIDE, signatures.CHANNEL),
        saturated={"w": 1},
        units=UNITS,
        shares={signatures.CHANNEL: 0.5, signatures.DEPTHWISE: 0.7, signatures.JUMP: 0.9},
        noise_of_weights=0.1,
    )
    found = judge(every)
    assert [one.cause for one in found] == ["half-overflow", "depthwise", "outlier-channel"]
    assert len(found) == SHOWN


def test_options_go_behind_those_that_the_run_has():
    (one,) = judge(replace(SHOWN_BY["first-jump"][0], settings=SETTINGS))
    assert one.sets == {"keep": "first=w8a8, b=float"}
    (one,) = judge(SHOWN_BY["weights-alone"][0])
    assert one.sets == {"method": "quadratic"}
    clipped = of_edge(CLIPPED, signatures.CLIPPED)
    (one,) = judge(replace(clipped, settings={"activation_range": "minmax"}))
    assert one.sets == {"calib": "0"}


def test_another_scale_that_fits_is_named_before_the_order_of_channels():
    off = of_norms(
        NormSymptoms("bn", 1.5, False),
        shift=1.4, shift_reversed=0.9, repaired={NORMALISED: 0.1, REVERSED: 1.2},
    )  # fmt: skip
    (one,) = judge(off)
    assert one.cause == "preprocessing" and one.sets["mean"] == "0.485,0.456,0.406"
    assert NORMALISED in one.text


def test_later_batch_norms_are_to_blame_only_where_the_first_fits():
    first, later = NormSymptoms("bn1", 0.1, False), NormSymptoms("bn2", 0.9, False)
    assert [one.place for one in judge(of_norms(first, later))] == ["bn2"]
    wrong = replace(first, mismatch=0.9)
    assert [one.cause for one in judge(of_norms(wrong, later))] == ["preprocessing"]


def test_a_network_that_came_in_training_mode_is_blamed_only_where_it_is_off():
    off, fits = NormSymptoms("bn", 0.5, False), NormSymptoms("bn", 0.2, False)
    assert [one.cause for one in judge(of_norms(off, in_training=True))] == ["batch-norm"]
    assert judge(of_norms(fits, in_training=True)) == ()


def test_channels_that_quantisation_silenced():
    unit = UnitSymptoms("b", "conv2d", False, 0.005, silenced=3, channels=4)
    (one,) = judge(Symptoms(noise=0.1, units=(unit,), settings=SETTINGS))
    assert one.cause == "dead-channel" and "3 of 4" in one.figure


def test_outstanding_needs_others_to_compare_with():
    assert outstanding((5.0,)) == outstanding((0.0, 0.0, 7.0)) == 1.0
    assert outstanding((1.0, 2.0, 3.0, 20.0)) == 20.0 / 2.5
