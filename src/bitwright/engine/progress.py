"""What happens during a run, as events: the command shows them, the run directory logs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from bitwright.engine.forecast import Forecast
from bitwright.engine.memory import peak_rss_mb, reset_peak, trim_heap
from bitwright.engine.record import FLAT, Record

# Work of one kind leaves holes that work of the next kind does not fit into; a tick stands between.
TRIM_SECONDS = 1.0


@dataclass(frozen=True)
class Event:
    """One thing that happened: `kind` is start, tick, end or note.

    `left`: seconds until all stages are done, where that can be told.
    """

    kind: str
    stage: str
    done: int = 0
    total: int | None = None
    seconds: float = 0.0
    text: str = ""
    left: float | None = None


@dataclass(frozen=True, eq=False)
class StageRecord(Record):
    """A finished stage: its wall time, the process's peak memory while it ran, what it reached."""

    name: str
    seconds: float
    peak_rss_mb: float
    figures: Mapping[str, float] = field(default_factory=dict, metadata=FLAT)


@dataclass
class Progress:
    """Passes events to its listeners and keeps the record of finished stages."""

    listeners: list[Callable[[Event], None]] = field(default_factory=list)
    stages: list[StageRecord] = field(default_factory=list)
    forecast: Forecast = field(default_factory=Forecast)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Time a stage; the value given is called with the amount done so far."""
        total = self.forecast.totals.get(name, total)
        started = trimmed = time.perf_counter()
        trim_heap()
        reset_peak()
        self._tell(Event("start", name, 0, total))

        def tick(done: int) -> None:
            nonlocal trimmed
            if time.perf_counter() - trimmed > TRIM_SECONDS:
                trim_heap()
                trimmed = time.perf_counter()
            seconds = time.perf_counter() - started
            left = self._left(name, done, total, seconds)
            self._tell(Event("tick", name, done, total, seconds, left=left))

        yield tick
        seconds = time.perf_counter() - started
        self.stages.append(StageRecord(name, seconds, peak_rss_mb()))
        self._tell(Event("end", name, total or 0, total, seconds))

    def _left(self, name: str, done: int, total: int | None, seconds: float) -> float | None:
        """Seconds until all stages are done."""
        if not total or done > total:
            return None
        spent = {record.name: record.seconds for record in self.stages}
        return self.forecast.left({**spent, name: seconds}, name, done / total)

    def figures(self, stage: str, **values: float) -> None:
        """What the newest stage of that name reached, such as its loss."""
        for index in reversed(range(len(self.stages))):
            if self.stages[index].name == stage:
                known = self.stages[index]
                self.stages[index] = replace(known, figures={**known.figures, **values})
                return

    def note(self, stage: str, text: str) -> None:
        """Something the user should read."""
        self._tell(Event("note", stage, text=text))

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)
