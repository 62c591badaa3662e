"""Commands that tell of a run directory: `check` and `diagnose`."""

from __future__ import annotations

import importlib
from typing import Any

import typer

from bitwright.cli import checks
from bitwright.cli.console import Console, check_lines
from bitwright.cli.options import DataOption, Json, Quiet, RunArgument, Trust
from bitwright.diagnosis.finding import Findings


def _later(module: str) -> Any:
    return importlib.import_module(f"bitwright.cli.{module}")


def check(run: RunArgument, as_json: Json = False) -> None:
    """Check a run's files against its manifest, the entries of its store, and versions."""
    with Console(False, as_json) as console:
        checks.run(run)
        found = importlib.import_module("bitwright.pipeline.integrity").check(run)
        console.result(found, lambda: check_lines(found))
    raise typer.Exit(0 if found.sound else 2)


def diagnose(
    run: RunArgument,
    data: DataOption = None,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Name what costs accuracy: at most three causes, their figures, and what mends each."""
    with Console(quiet, as_json) as console:
        checks.run(run, data or "")
        found: Findings = _later("commands").run_diagnose(run, data or "", console.progress, trust)
        console.result(found, lambda: finding_lines(found))


def finding_lines(found: Findings) -> list[str]:
    """The causes as a person reads them, the best-founded first."""
    if not found.findings:
        return [f"no cause of lost accuracy was found on {found.samples} samples"]
    lines = []
    for number, one in enumerate(found.findings, 1):
        lines += [
            f"{number}. {one.cause}, {one.place}: {one.text}.",
            f"   {one.figure}.",
            f"   {one.command}",
        ]
    return lines
