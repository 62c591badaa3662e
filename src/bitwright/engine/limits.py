"""What a run may hold in memory, all in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bytes that the stages of a run may hold at once, each for its own.

    None of them depends on the machine: how many rows and samples are seen together shapes the
    last bits of a result, and these are the same everywhere.

    Attributes:
        answers: the float network's answers to the held-out samples, in the judge of tuning.
        pool: samples and answers that steps of gradient descent draw from.
        gradients: values of one forward pass that wait for the backward pass.
        distilled_gradients: the same, while inputs are made from batch-norms.
        statistics_cut: values of all samples kept in front of a unit, in batch-norm tuning.
        blocks: what is kept in front of a block and behind it, of both networks.
        split: calibration samples kept in memory where they are parted.
        rows: rows that wait for methods that learn, in memory; beyond it on disk.
        rows_of_a_unit: rows of one unit.
        sequential_cut: values of both networks behind a unit, in the sequential mode.
        sums: second moments of units that are summed up in one pass.
    """

    answers: int = 128 << 20
    pool: int = 512 << 20
    gradients: int = 512 << 20
    distilled_gradients: int = 768 << 20
    statistics_cut: int = 224 << 20
    blocks: int = 512 << 20
    split: int = 192 << 20
    rows: int = 256 << 20
    rows_of_a_unit: int = 192 << 20
    sequential_cut: int = 400 << 20
    sums: int = 160 << 20


LIMITS = Limits()
