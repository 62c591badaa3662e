"""The paired test of mended files: gains that are there are found, and luck is not one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.special import log_softmax

from bitwright.diagnosis.file_graph import FileGraph
from bitwright.diagnosis.file_match import match_files
from bitwright.errors import InputError
from bitwright.numerics.head_losses import SpreadSums
from bitwright.pipeline.file_data import FileData
from bitwright.pipeline.mend_judge import (
    ALPHA,
    CHOOSE,
    LEARN,
    FileAgreement,
    FileJudge,
    JudgedFile,
    _rows,
    lose_samples,
    split_data,
)
from two_files import SIZE, network

FIGURES = FileAgreement(samples=1, agreement=1.0, difference=0.0, divergence=0.0)


def judged(losses) -> JudgedFile:
    return JudgedFile(FIGURES, np.asarray(losses, float))


def test_luck_is_kept_about_as_seldom_as_promised():
    """Differences without a mean pass in a tenth of cases, and ones with a mean nearly always."""
    draw = np.random.default_rng(0)
    base = judged(np.ones(64))
    passed = [judged(1 + draw.standard_normal(64)).surely_beats(base) for _ in range(200)]
    assert 0.03 <= np.mean(passed) <= ALPHA + 0.07
    gains = [judged(0.4 + draw.standard_normal(64)).surely_beats(base) for _ in range(20)]
    assert np.mean(gains) > 0.9


def test_what_all_samples_share_cancels():
    """Samples differ a thousandfold, the gain is 1 % of each: found, as pairs are compared."""
    losses = 10.0 ** np.random.default_rng(1).uniform(-3, 0, 64)
    assert judged(0.99 * losses).surely_beats(judged(losses))
    assert not judged(losses).surely_beats(judged(0.99 * losses))


@pytest.mark.parametrize("losses", [[1.0] * 64, [0.0] * 4, [np.nan] * 64, [0.5] * 63 + [np.inf]])
def test_nothing_few_or_broken_is_no_gain(losses):
    assert not judged(losses).surely_beats(judged(np.ones(len(losses))))


def test_the_same_gain_on_every_sample_is_one():
    assert judged(np.full(64, 0.5)).surely_beats(judged(np.ones(64)))


def feeds(*counts: int) -> FileData:
    batches = tuple({"x": np.zeros((count, 2), np.float32)} for count in counts)
    return FileData(batches, tuple(str(i) for i in range(sum(counts))))


@pytest.mark.parametrize("batches", [3, 4, 5, 8, 33, 64, 200])
def test_samples_are_parted_without_overlap(batches):
    given = feeds(*[8] * batches)
    parts = split_data(given)
    ids = [id(batch) for part in parts for batch in part.batches]
    assert sorted(ids) == sorted(id(batch) for batch in given.batches)
    sizes = [sum(part.counts) for part in parts]
    assert all(sizes) and sizes[0] <= LEARN and sizes[1] <= CHOOSE
    assert [len(part.names) for part in parts] == sizes
    if batches >= 64:  # what there is beyond judges
        assert sizes[2] == 8 * batches - LEARN - CHOOSE


def test_two_batches_are_too_few():
    with pytest.raises(InputError, match="24 or more"):
        split_data(feeds(8, 8))


def test_losses_are_those_of_a_float64_formula():
    draw = np.random.default_rng(2)
    a = draw.standard_normal((7, 5)).astype(np.float32)
    b = (a + 0.1 * draw.standard_normal((7, 5))).astype(np.float32)
    sums = SpreadSums()
    sums.add(_rows(a, 7))
    spread = sums.spread()
    within = a.astype(float).std(1).mean()
    t = max(1.0, 3 * within)
    p, q = (log_softmax(v.astype(float) / t, axis=1) for v in (a, b))
    wanted = (np.exp(p) * (p - q)).sum(1) * 2 * t**2 / within**2
    assert np.allclose(lose_samples(a, b, spread, 7), wanted, rtol=1e-6)
    images = draw.standard_normal((4, 3, 5, 5)).astype(np.float32)
    moved = images + 0.1
    sums = SpreadSums()
    sums.add(_rows(images, 4))
    variance = images.astype(float).var((0, 2, 3))
    wanted = np.full(4, (0.01 / variance).mean())
    assert np.allclose(lose_samples(images, moved, sums.spread(), 4), wanted, rtol=1e-4)


def test_the_judge_tells_a_worse_file_sample_by_sample():
    """Float beside itself loses nothing; a disturbed weight does on every sample."""
    model = network()
    images = np.random.default_rng(3).standard_normal((24, 3, SIZE, SIZE)).astype(np.float32)
    data = FileData(tuple({"image": images[i : i + 8]} for i in (0, 8, 16)), ("",) * 24)
    graph = FileGraph(model)
    judge = FileJudge(graph, match_files(graph, FileGraph(model)), data)
    exact = judge.judge(model)
    assert exact.losses.shape == (24,) and np.allclose(exact.losses, 0, atol=1e-9)
    assert (exact.figures.samples, exact.figures.agreement, exact.figures.difference) == (24, 1, 0)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.name == "wf":
            values = 1.3 * numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), "wf"))
    worse = judge.judge(other)
    assert (worse.losses > 0).all() and exact.surely_beats(worse)
    assert worse.figures.is_worse(exact.figures) and not exact.figures.is_worse(worse.figures)
    assert worse.figures.divergence == pytest.approx(worse.losses.mean())
