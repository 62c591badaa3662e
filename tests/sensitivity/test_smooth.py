"""Losses told from noise: nearer to the truth than the measurement, and exact where that is."""

from __future__ import annotations

import numpy as np
import pytest

from bitwright.sensitivity.smooth import Seen, smooth_losses


def drawn(units=40, seed=0, noise=0.02, misfit=0.2):
    """Units whose true changes follow their errors roughly, measured with noise."""
    rng = np.random.default_rng(seed)
    truth, seen = {}, {}
    for unit in range(units):
        curvature = float(np.exp(rng.normal(0, 1)))
        errors = [4.0**-bits for bits in (1, 2, 3, 4, 5)]
        true = [curvature * e * float(np.exp(rng.normal(0, misfit))) for e in errors]
        errs = [noise * (0.3 + np.sqrt(t)) for t in true]
        truth[str(unit)] = true
        seen[str(unit)] = [
            Seen(t + float(rng.normal(0, s)), s, e)
            for t, s, e in zip(true, errs, errors, strict=True)
        ]
    return truth, seen


@pytest.mark.parametrize("seed", range(5))
def test_nearer_to_the_truth_than_the_measurement(seed):
    truth, seen = drawn(seed=seed)
    fitted = smooth_losses(seen)

    def error(values):
        return np.mean([np.abs(np.log(np.maximum(values[u], 1e-6) / np.array(truth[u]))).mean()
                        for u in truth])  # fmt: skip

    assert error(fitted) < 0.5 * error({u: [s.delta for s in seen[u]] for u in seen})


def test_fine_choices_no_longer_seem_to_gain():
    _, seen = drawn(noise=0.1)
    assert any(s.delta < 0 for found in seen.values() for s in found)
    assert all(value > 0 for values in smooth_losses(seen).values() for value in values)


def test_what_was_measured_exactly_stays():
    units = {"a": [Seen(0.3, 0.0, 0.1), Seen(-0.2, 0.0, 0.2)], "b": [Seen(1.0, 0.1, 1.0)]}
    assert smooth_losses(units)["a"] == [0.3, -0.2]


def test_without_errors_measurements_stand():
    assert smooth_losses({"a": [Seen(-0.5, 0.1, None), Seen(0.5, 0.1, None)]}) == {"a": [-0.5, 0.5]}


def test_nothing_at_all():
    assert smooth_losses({}) == {}
    assert smooth_losses({"a": [Seen(-1.0, 0.5, 1.0)]}) == {"a": [-1.0]}


def test_clear_measurements_hardly_move():
    units = {"a": [Seen(1.0, 1e-4, 1.0), Seen(0.9, 1e-4, 0.25)]}
    assert smooth_losses(units)["a"] == pytest.approx([1.0, 0.9], abs=1e-3)
