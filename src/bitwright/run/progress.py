"""What happens during a run, as events: the command shows them, the run directory logs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from bitwright.run.memory import peak_rss_mb, reset_peak, trim_heap

# Work of one kind leaves holes that work of the next kind does not fit into; a tick stands between.
TRIM_SECONDS = 1.0


@dataclass(frozen=True)
class Event:
    """One thing that happened: `kind` is start, tick, end or note."""

    kind: str
    stage: str
    done: int = 0
    total: int | None = None
    seconds: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class StageRecord:
    """A finished stage: its wall time, the process's peak memory while it ran, what it reached."""

    name: str
    seconds: float
    peak_rss_mb: float
    figures: Mapping[str, float] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """One flat line of metrics.json."""
        plain = {"name": self.name, "seconds": self.seconds, "peak_rss_mb": self.peak_rss_mb}
        return {**plain, **self.figures}


@dataclass
class Progress:
    """Passes events to its listeners and keeps the record of finished stages."""

    listeners: list[Callable[[Event], None]] = field(default_factory=list)
    stages: list[StageRecord] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Time a stage; the value given is called with the amount done so far."""
        started = trimmed = time.perf_counter()
        trim_heap()
        reset_peak()
        self._tell(Event("start", name, 0, total))

        def tick(done: int) -> None:
            nonlocal trimmed
            if time.perf_counter() - trimmed > TRIM_SECONDS:
                trim_heap()
                trimmed = time.perf_counter()
            self._tell(Event("tick", name, done, total, time.perf_counter() - started))

        yield tick
        seconds = time.perf_counter() - started
        self.stages.append(StageRecord(name, seconds, peak_rss_mb()))
        self._tell(Event("end", name, total or 0, total, seconds))

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
