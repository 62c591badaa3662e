"""What the commands on a table say: allocations, frontiers, explanations, latencies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.allocation.advice import Number, Relaxation
from bitwright.allocation.allocate import Allocation, Spent
from bitwright.allocation.explain import Alternative, Exchange, Explanation
from bitwright.allocation.frontier import Frontier
from bitwright.allocation.question import Question
from bitwright.allocation.ran import Ran
from bitwright.allocation.table import Table

if TYPE_CHECKING:
    from bitwright.latency.measure import Check, MeasuredLatency

# Units that a person thinks in.
_LARGER = {"bit": (8e6, "MB"), "BOP": (1e9, "GBOP"), "pJ": (1e6, "uJ")}


def allocation_lines(found: Allocation, path: Path) -> list[str]:
    """The allocation with its certificate."""
    counts = Counter(str(choice) for choice in found.choices.values())
    lines = [
        f"status      {found.status}{_certificate(found)}",
        f"loss        {found.loss:.6g}{_error(found.loss_stderr)} predicted change",
    ]
    if found.minimizes not in ("loss", *(spent.name for spent in found.budgets)):
        lines.append(f"{found.minimizes:<12}{found.objective} minimised")
    lines += [_format_spent(spent) for spent in found.budgets]
    lines.append(
        "bits        " + ", ".join(f"{n} x {choice}" for choice, n in sorted(counts.items()))
    )
    uniform = found.uniform
    if uniform is not None:
        lines.append(f"uniform     {uniform.choice} would have a loss of {uniform.loss:.6g}")
    else:
        lines.append("uniform     no uniform choice holds the budgets")
    lines += [_format_relaxed(relaxation, found.minimizes) for relaxation in found.relaxations[:1]]
    if found.note:
        lines.append(f"note        {found.note}")
    return [*lines, "", f"wrote {path}"]


def _certificate(found: Allocation) -> str:
    if found.bound is None:
        return f", by {found.solver}"
    return f", by {found.solver}: {found.minimizes} {found.objective:.6g}, gap {found.gap:.2g}"


def _error(stderr: float | None) -> str:
    return "" if stderr is None else f" +- {stderr:.2g}"


def _format_spent(spent: Spent) -> str:
    share = f" ({(spent.used or 0) / spent.whole:.4f} of float)" if spent.whole else ""
    state = ", binding" if spent.binding else ""
    amount = f"{_number(spent.used)} of {_number(spent.limit)} {spent.unit}".rstrip()
    return f"{spent.name:<12}{amount}{share}{state}"


def _number(value: Number | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _format_relaxed(found: Relaxation, goal: str) -> str:
    sure = "" if found.proven else "at most "
    return (
        f"next        {sure}{_number(found.raised)} more of {found.name} (to "
        f"{_number(found.limit)}) lowers {goal} by {_number(found.gain)}"
    )


def frontier_lines(found: Frontier, files: Sequence[Path], ran: Sequence[Ran] = ()) -> list[str]:
    """How long the frontier is, its knees, and what was run."""
    kind = "all of them" if found.complete else "the hull's breakpoints and evenly spaced budgets"
    lines = [
        f"{len(found.points)} points of loss against {found.cost.name}, {kind}; "
        f"{'each proven optimal' if found.proven else 'some not proven optimal'}",
        f"{'knee':>24} {'of float':>9} {'loss':>12}",
    ]
    for point in found.knees:
        share = "" if point.share is None else f"{point.share:.4f}"
        used = f"{_number(point.used)} {found.cost.unit}".strip()
        lines.append(f"{used:>24} {share:>9} {point.loss:>12.6g}")
    lines += _ran_lines(ran) + _format_note(found.menu.table)
    return [*lines, "", *(f"wrote {path}" for path in files)]


def _format_note(table: Table) -> list[str]:
    return [f"note        {table.note}"] if table.note else []


def _ran_lines(ran: Sequence[Ran]) -> list[str]:
    """What was predicted of configurations, and what came of them."""
    if not ran:
        return []
    figures = list(dict.fromkeys(name for one in ran for name in one.evaluated))
    heading = f"{'run':>18} {'of float':>9} {'predicted':>12} {'measured':>12} {'+-':>9}"
    lines = ["", heading + "".join(f" {name:>{_wide(name)}}" for name in figures)]
    for one in ran:
        share = "" if one.share is None else f"{one.share:.4f}"
        error = "" if one.stderr is None else f"{one.stderr:.1g}"
        start = f"{one.method:>18} {share:>9} {one.predicted:>12.5g} {one.measured:>12.5g}"
        shown = (f" {one.evaluated[name]:>{_wide(name)}.5g}" for name in figures)
        lines.append(f"{start} {error:>9}" + "".join(shown))
    return lines


def _wide(name: str) -> int:
    return max(len(name), 9)


def explanation_lines(question: Question, found: Explanation) -> list[str]:
    """One unit: its choices, what each would mean, and when it would change."""
    taken = next((a for a in found.alternatives if a.taken), None)
    budgets = " and ".join(cap.text for cap in question.caps)
    goal = question.goal.name
    chosen = taken.row.choice if taken else "nothing holds the budgets"
    lines = [f"{found.unit}: {chosen} under {budgets}"]
    if found.tied:
        lines.append(f"takes the same choice as {', '.join(found.tied)}")
    units = {cap.name: cap.measure.unit for cap in question.caps}
    lines += [_price(price, units[name] or name, goal) for name, price in found.prices.items()]
    names = [cap.name for cap in question.caps]
    lines.append(
        f"{'':2}{'choice':<12}{'loss':>12}{'+-':>9}"
        + "".join(f"{name:>16}" for name in names)
        + f"{'priced':>12}{'forced':>12}"
    )
    lines += [_alternative(alternative) for alternative in found.alternatives]
    lines += _changes(found.below, "below") + _changes(found.above, "above")
    return lines + _format_note(question.table)


def _price(price: float, unit: str, goal: str) -> str:
    factor, shown = _LARGER.get(unit, (1, unit))
    return f"price       one {shown} more would lower {goal} by {price * factor:.4g}"


def _alternative(found: Alternative) -> str:
    row = found.row
    loss = "" if row.loss_delta is None else f"{row.loss_delta:.4g}"
    error = "" if row.loss_stderr is None else f"{row.loss_stderr:.1g}"
    forced = "-" if found.forced is None else f"{found.forced:+.4g}"
    return (
        f"{'*' if found.taken else ' '} {row.choice!s:<12}{loss:>12}{error:>9}"
        + "".join(f"{_number(used):>16}" for used in found.used)
        + f"{found.priced:>+12.4g}{forced:>12}"
    )


def _changes(found: Exchange | None, side: str) -> list[str]:
    if found is None:
        return []
    return [f"{side:<12}{found.row.choice} at {found.cost} {_number(found.at)}"]


def latency_lines(found: MeasuredLatency, path: Path) -> list[str]:
    """Milliseconds of units, whole networks, and how well these are predicted."""
    table = found.table
    columns = list(dict.fromkeys(c for own in table.choices.values() for c in own))
    about = table.conditions
    lines = [
        f"{about.processor}, onnxruntime {about.onnxruntime}, {about.threads} thread"
        f"{'s' if about.threads > 1 else ''}, batch {about.batch}, target {about.target}",
        "",
        f"{'ms':40}" + "".join(f"{choice!s:>12}" for choice in columns),
    ]
    for unit in table.units:
        cells = [table.cells.get((unit, choice)) for choice in columns]
        lines.append(f"{unit:40}" + "".join(_ms(c.ms if c else None) for c in cells))
    lines.append(f"{'the rest':40}" + "".join(_ms(table.rest.get(choice)) for choice in columns))
    lines += ["", f"{'whole networks':40}{'predicted':>12}{'measured':>12}{'error':>9}"]
    lines += [_format_check(check) for check in (*found.uniform, *found.checks)]
    return [*lines, "", f"wrote {path}"]


def _ms(value: float | None) -> str:
    return f"{'':>12}" if value is None else f"{value:>12.4f}"


def _format_check(check: Check) -> str:
    return f"{check.label:40}{_ms(check.predicted)}{_ms(check.measured)}{check.error:>+9.1%}"
