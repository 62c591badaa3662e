"""How progress and results look: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import progress as bars
from rich.console import Console as RichConsole
from rich.text import Text

from bitwright.cli.outcomes import Diagnosis, Estimate, SpeedTrials
from bitwright.engine.progress import Event, Progress
from bitwright.errors import InterruptedRun
from bitwright.export.rundir import finite
from bitwright.recipe.durations import word_duration
from bitwright.report.rates import say_count
from bitwright.report.speed_words import say_study
from bitwright.report.texts import show_count
from bitwright.report.warnings import CLEARLY, about_float, note_lines

if TYPE_CHECKING:
    from bitwright.pipeline.integrity import Checked

_PLAIN_SECONDS = 10.0


class _Count(bars.ProgressColumn):
    """What is done of how much; nothing for a stage that counts nothing."""

    def render(self, task: bars.Task) -> Text:
        """As `25/160`, or `25` where the end is not known."""
        counted = task.fields.get("counted", 0)
        if not counted:
            return Text("")
        known = task.total is not None and not task.finished
        return Text(f"{counted}/{int(task.total or 0)}" if known else f"{counted}")


class _Times(bars.ProgressColumn):
    """How long a stage has taken, and while it runs what it and the whole run still take."""

    def render(self, task: bars.Task) -> Text:
        """As `12 s, 30 s left; 2 min in all`."""
        text = duration(task.finished_time if task.finished else task.elapsed)
        if task.finished:
            return Text(text)
        if task.time_remaining is not None:
            text += f", {duration(task.time_remaining)} left"
        whole = task.fields.get("whole")
        return Text(text if whole is None else f"{text}; {duration(whole)} in all")


class Console:
    """Shows events as they come; `show` prints result lines."""

    def __init__(self, quiet: bool, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json
        # Standard output is the JSON's alone where it is asked for.
        self.rich = RichConsole(highlight=False, soft_wrap=True, stderr=as_json)
        self.live = self.rich.is_terminal and not quiet
        self.progress = Progress([self._hear])
        self._bar: bars.Progress | None = None
        self._task: bars.TaskID | None = None
        self._said = 0.0

    def __enter__(self) -> Console:
        """Start the live display where there is a terminal."""
        if self.live:
            self._bar = bars.Progress(
                bars.TextColumn("{task.description:<9}"),
                bars.BarColumn(),
                _Count(),
                _Times(),
                console=self.rich,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Leave the terminal in order."""
        self._stop()
        if isinstance(error, KeyboardInterrupt):
            # An error of ours before typer sees the interrupt, which it would end without a word.
            raise InterruptedRun("interrupted") from error

    def show(self, lines: Iterable[str]) -> None:
        """Print result lines."""
        self._stop()
        if self.quiet:
            return
        for line in lines:
            self.rich.print(Text(line))

    def result(self, record: Any, lines: Callable[[], Iterable[str]]) -> None:
        """Print what a command found: as JSON where that is asked for, else as lines."""
        if not self.as_json:
            self.show(lines())
            return
        self._stop()
        text = json.dumps(finite(record), indent=1, ensure_ascii=False, default=str)
        sys.stdout.write(text + "\n")

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _hear(self, event: Event) -> None:
        if self.quiet and event.kind != "note":
            return
        if event.kind == "note":
            self.rich.print(Text(f"note: {event.text}", style="yellow"))
        elif self._bar is not None:
            self._move_bar(event)
        else:
            self._say_line(event)

    def _move_bar(self, event: Event) -> None:
        assert self._bar is not None
        if event.kind == "start":
            self._task = self._bar.add_task(event.stage, total=event.total or None, counted=0)
        elif self._task is not None and event.kind == "tick":
            self._bar.update(self._task, completed=event.done, counted=event.done, whole=event.left)
        elif self._task is not None:
            self._bar.update(self._task, completed=1, total=1, whole=None)

    def _say_line(self, event: Event) -> None:
        now = time.monotonic()
        if event.kind == "end":
            self.rich.print(Text(f"{event.stage:<9} {event.seconds:7.1f} s"))
        elif event.kind == "tick" and now - self._said > _PLAIN_SECONDS:
            self._said = now
            left = ""
            if event.total and 0 < event.done <= event.total:
                rest = event.seconds / event.done * (event.total - event.done)
                left = f" of {event.total}, about {duration(rest)} left"
            if event.left is not None:
                left += f"; {duration(event.left)} in all"
            self.rich.print(Text(f"{event.stage:<9} {event.done}{left}"))
            sys.stdout.flush()


def duration(seconds: float | None) -> str:
    """Seconds as people say them.

    >>> duration(7.4), duration(200), duration(9000)
    ('7 s', '3 min', '2.5 h')
    """
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _samples(plan: Estimate) -> str:
    """How many samples a run would calibrate on, as far as that is known."""
    count = plan.calibration_samples
    return say_count(count, "sample") if plan.samples_counted else f"at most {count} samples"


def doctor_lines(found: Diagnosis) -> list[str]:
    """The census and the plan as a person reads them."""
    rows = found.census.units
    lines = say_study(found.census.target)
    lines += [f"{found.model} takes {'; '.join(found.inputs)}", ""]
    lines.append(f"{'unit':40} {'kind':18} {'parameters':>11} {'MACs':>13}  activation")
    for row in rows:
        extra = "  (fewer calibration equations than unknowns)" if row.over_parameterised else ""
        extra += "  (also the table of embeddings: one tensor for both)" if row.tied else ""
        lines.append(
            f"{row.name:40} {row.kind:18} {row.params:>11,} {row.macs:>13,}  "
            f"{row.activation or '-'}{extra}"
        )
    plan, weights = found.plan, found.census.float_weights
    if found.census.outputs:
        lines += ["", "What the outputs mean (--answer 'NAME=KIND' says otherwise):"]
        lines += [f"  {name}: {told}" for name, told in found.census.outputs.items()]
    lines += ["", f"{say_count(len(rows), 'unit is', 'units are')} quantised. What stays in float:"]
    lines += [f"  {o.count:4} x {o.op}: {o.reason}" for o in found.census.float_ops]
    if weights is not None and weights.size > CLEARLY:
        told = "a file will not be clearly smaller than the float network."
        lines.append(f"  warning: size: {told} {about_float(weights)}")
    lines += [f"  note: {line}" for line in note_lines(found.census.notes)]
    lines += [
        "",
        f"{_work(plan)}, {plan.float_mb:.2f} MB of float weights.",
        *_forecast_lines(plan),
        f"Shown for --target {found.target}.",
    ]
    return lines + _speed_lines(found.speed)


def _forecast_lines(plan: Estimate) -> list[str]:
    """What a run of the default takes, in all and by stage, and what fits into a time."""
    lines = [
        f"A run of the default on {_samples(plan)} takes about "
        f"{word_duration(plan.estimated_seconds)} here and {plan.estimated_memory_mb} MB:",
        *(
            f"  {stage.name:16} {stage.seconds:8.1f} s {stage.peak_mb:8.0f} MB"
            for stage in plan.stages
        ),
    ]
    return [*lines, plan.within] if plan.within else lines


def _speed_lines(speed: SpeedTrials | None) -> list[str]:
    """How fast a file of each target is in each runtime, and whether that is a gain."""
    if not speed:
        return []
    about = f"a file of each target, {speed.scheme} rounded to nearest, beside float"
    lines = ["", f"Speed, measured here ({about}; one thread, one sample):"] if speed.trials else []
    for trial in speed.trials:
        name = f"  {trial.target:<12} {trial.runtime:<12}"
        if trial.times is None:
            lines.append(f"{name} does not run: {trial.error[:100]}")
            continue
        times, low, high = trial.times
        verdict = "" if trial.gains else "  will not gain: keep it for its size, or run float"
        part = trial.in_float
        stays = "" if part is None else f", {part:.0%} of its time in float operators"
        lines.append(f"{name} x {times:.2f} of float ({low:.2f} to {high:.2f}){stays}{verdict}")
    if speed.trials and not any(trial.gains for trial in speed.trials):
        lines.append("  No file of this network is faster than float here.")
    return lines + [f"  note: {note}" for note in speed.notes]


def _work(plan: Estimate) -> str:
    """The multiply-accumulates of a sample: of the units, of the rest, and what is not counted."""
    parts = [f"{show_count(plan.macs_per_sample)} MACs a sample in units"]
    parts += [f"{show_count(n)} in {name} (float)" for name, n in plan.float_macs.items()]
    if plan.uncounted:
        parts.append(f"those of {', '.join(plan.uncounted)} are not counted")
    return ", ".join(parts)


def check_lines(found: Checked) -> list[str]:
    """What `check` found, faults first."""
    lines = [f"fault: {text}" for text in found.faults]
    lines += [f"note: {text}" for text in found.notes]
    state = "sound" if found.sound else "NOT SOUND"
    stored = f", {found.entries} entries of its store are whole" if found.entries else ""
    wrote = found.versions.bitwright or "an earlier version"
    return [
        *lines,
        f"{found.run} is {state}: {found.files} files are what its manifest says{stored}; "
        f"written by bitwright {wrote}, this is {found.versions.installed}",
    ]


def format_listing(rows: list[dict[str, str]]) -> list[str]:
    """Rows as aligned columns."""
    if not rows:
        return ["nothing"]
    keys = list(rows[0])
    widths = {k: max(len(k), *(len(r[k]) for r in rows)) for k in keys}
    lines = ["  ".join(k.ljust(widths[k]) for k in keys)]
    return lines + ["  ".join(r[k].ljust(widths[k]) for k in keys).rstrip() for r in rows]


def listings(lists: Mapping[str, list[dict[str, str]]]) -> list[str]:
    """Several lists, each under its name."""
    lines: list[str] = []
    for name, rows in lists.items():
        lines += [
            *([""] if lines else []),
            f"{name}:",
            *(f"  {line}" for line in format_listing(rows)),
        ]
    return lines
