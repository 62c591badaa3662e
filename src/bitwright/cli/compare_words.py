"""What `bitwright compare` and `mend` say."""

from __future__ import annotations

from pathlib import Path

from bitwright.cli.run_words import run_lines
from bitwright.diagnosis.file_difference import FileComparison
from bitwright.pipeline.compare_runs import RunComparison
from bitwright.pipeline.mend_file import Mended
from bitwright.pipeline.mend_judge import FileAgreement
from bitwright.report.compare_page import say_difference, say_times, verdict

_SHOWN = 40


def compare_lines(found: FileComparison | RunComparison, page: Path | None) -> list[str]:
    """A comparison as a person reads it."""
    if isinstance(found, RunComparison):
        return run_lines(found, page)
    lines = [verdict(found), ""]
    for one in found.outputs:
        worst = ", ".join(f"{s.name} ({say_difference(s.difference)})" for s in one.samples)
        lines.append(f"{one.name}: {say_difference(one.difference)}; worst samples: {worst}")
    if found.begins is None:
        lines += ["", "No value inside differs by more than rounding of floats."]
    else:
        lines += ["", f"The difference begins at {found.begins}."]
    if found.grows:
        lines.append(f"Most of it arises at {', '.join(found.grows)}.")
    lines += ["", *_table(found)]
    for word, names in zip(("first", "second"), found.alone, strict=True):
        if names:
            told = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            lines.append(f"in the {word} file alone: {len(names)} operators: {told}")
    if found.times is not None:
        lines += ["", say_times(found)]
    lines += [f"note: {note}" for note in found.notes]
    return lines + ([f"wrote {page}"] if page is not None else [])


def _table(found: FileComparison) -> list[str]:
    """The values of both files, the least telling left out where there are many."""
    rows = found.tensors
    if len(rows) > _SHOWN:
        bound = sorted((one.added for one in rows), reverse=True)[_SHOWN - 1]
        rows = tuple(one for one in rows if one.added >= bound)[:_SHOWN]
    wide = min(max((len(one.name) for one in rows), default=5), 48) + 2
    lines = [f"{'value':{wide}}{'made by':<20}{'difference':>11}{'enters':>11}{'rounding':>11}"]
    for one in rows:
        figures = (one.difference, one.enters, one.rounding)
        told = "".join(f"{say_difference(value):>11}" for value in figures)
        lines.append(f"{_short(one.name, wide - 2):{wide}}{one.kind[:18]:<20}{told}")
    rest = len(found.tensors) - len(rows)
    return lines + ([f"and {rest} values more, in which less arises"] if rest else [])


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"...{name[3 - most :]}"


def mend_lines(found: Mended) -> list[str]:
    """What became of a file, as a person reads it."""
    wide = min(max((len(one.name) for one in found.units), default=4), 48) + 2
    lines = [f"{'unit':{wide}}{'error before':>14}{'after':>11}"]
    for one in found.units:
        figures = one.left or f"{one.before:>14.3g}{one.after:>11.3g}"
        figures += "  put back" if one.undone and not one.left else ""
        lines.append(f"{_short(one.name, wide - 2):{wide}}{figures}")
    grids = f"; {found.grids} activations have another scale" if found.grids else ""
    lines += [
        "",
        f"on {found.before.samples} samples held out, beside the float network:",
        f"before  {_beside(found.before)}",
        f"after   {_beside(found.after)}{grids}",
        *(f"note: {note}" for note in found.notes),
        f"wrote {found.out}: the same nodes, types and names" if found.changed else
        f"wrote {found.out}: the original bytes",
    ]  # fmt: skip
    return lines


def _beside(one: FileAgreement) -> str:
    return f"{one.agreement:.2%} agreement, outputs off by {say_difference(one.difference)}"
