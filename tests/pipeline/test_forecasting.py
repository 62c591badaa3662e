"""What a run says of itself while it works: as many samples as there are, and the time left."""

from __future__ import annotations

import time

import pytest

import bitwright as bw
from bitwright.engine.progress import Progress
from bitwright.pipeline.forecast import count_samples
from bitwright.sources.data import as_dataset
from networks import pictures, small_network


def test_counting_reads_no_more_than_it_must():
    read = []

    def batches():
        for size in (30, 30, 30):
            read.append(size)
            yield pictures(size)

    data = as_dataset(batches)
    assert count_samples(data) == 90 and count_samples(data, 1000) == 90
    read.clear()
    assert count_samples(data, 50) == 50 and len(read) == 2


def test_counting_is_given_up_where_reading_is_slow():
    def batches():
        for _ in range(20):
            time.sleep(0.05)
            yield pictures(2)

    assert count_samples(as_dataset(batches), patience=0.1) is None


@pytest.mark.parametrize(
    "options", [{}, {"method": "quadratic"}, {"menu": "w8a8,w4a8", "budget": "bops<=0.05"}]
)
def test_totals_are_the_samples_there_are(options):
    events = []
    progress = Progress([events.append])
    data = [pictures(40), pictures(24, seed=2)]
    bw.quantize(small_network(), data, progress=progress, **{"recipe": "fixed", **options})
    for stage in ("observe", "evaluate"):
        ticks = [e for e in events if e.kind == "tick" and e.stage == stage]
        assert {e.total for e in ticks} == {64} and ticks[-1].done == 64
    assert all(e.done <= e.total for e in events if e.kind == "tick" and e.total)
    told = [e.left for e in events if e.kind == "tick" and e.left is not None]
    assert told and all(0 <= left < 3600 for left in told)
    assert told[-1] <= max(told)
