"""The time left over all stages: right where the weights are, silent where little is known."""

from __future__ import annotations

import pytest

from bitwright.engine.forecast import Forecast
from bitwright.engine.progress import Progress


def test_stages_of_one_speed():
    cast = Forecast(works={"a": 10, "b": 30, "c": 60})
    # A second for each unit of work: 90 are left after the first, 75 in the middle of the second.
    assert cast.left({"a": 10.0}, "a", 1.0) == 90
    assert cast.left({"a": 10.0, "b": 15.0}, "b", 0.5) == 75
    assert cast.left({"a": 10.0, "b": 30.0, "c": 60.0}, "c", 1.0) == 0


def test_what_is_not_weighed_tells_nothing():
    cast = Forecast(works={"a": 10, "b": 90})
    assert cast.left({"export": 5.0}, "export", 0.5) is None
    assert cast.left({"a": 1.0}, "a", 0.1) is None  # a hundredth of the work
    assert Forecast().left({"a": 1.0}, "a", 0.5) is None


def test_events_carry_it_and_the_true_totals():
    events = []
    progress = Progress([events.append])
    progress.forecast = Forecast({"observe": 160}, {"observe": 1, "evaluate": 1})
    with progress.stage("observe", 1000) as tick:
        tick(80)
        tick(160)
    with progress.stage("export"):
        pass
    ticks = [event for event in events if event.kind == "tick"]
    assert {event.total for event in events if event.stage == "observe"} == {160}
    # Of two stages of one weight a quarter is done: three times as long is left, then as long.
    for event, times in zip(ticks, (3, 1), strict=True):
        assert event.left == pytest.approx(times * event.seconds)
    assert all(event.left is None and event.total is None for event in events[-2:])
