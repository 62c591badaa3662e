"""The options of `bitwright bench`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from bitwright.cli.console import Console
from bitwright.cli.options import FOR, WHAT, WHERE, Json, Quiet, option
from bitwright.errors import RecipeError


def _later(module: str) -> Any:
    return importlib.import_module(f"bitwright.cli.{module}")


def _counts(text: str, name: str) -> tuple[int, ...]:
    """Whole numbers in a list, each once.

    Raises:
        RecipeError: something else.
    """
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() and len(word) < 8 for word in words):
        raise RecipeError(f"{name} {text!r} is no list of whole numbers, such as 1,2.")
    return tuple(dict.fromkeys(map(int, words)))


def bench(
    files: Annotated[list[Path], typer.Argument(help="run directories and ONNX files")],
    runtime: Annotated[
        str, option("onnxruntime, openvino; all that are installed without", FOR)
    ] = "",
    threads: Annotated[str, option("such as 1,2", FOR)] = "1",
    batch: Annotated[str, option("samples in a run, such as 1,8", FOR)] = "1",
    repetitions: Annotated[int, option("turns of every file", FOR)] = 25,
    beside: Annotated[
        bool, option("ONNX Runtime's own quantiser too, static and dynamic", FOR)
    ] = False,
    data: Annotated[str, option("samples to run on, in place of made ones", WHAT)] = "",
    free: Annotated[
        list[str] | None, option("NAME=SIZE of an axis that a file leaves free", WHAT)
    ] = None,
    out: Annotated[Path, option("the page to write", WHERE)] = Path("bench.html"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Latency, throughput, loading and operators of files, side by side in turns."""
    counts = _counts(threads, "--threads"), _counts(batch, "--batch")
    runtimes = tuple(runtime.replace(",", " ").split())
    with Console(quiet, as_json) as console:
        commands = _later("bench_commands")
        asked = commands.BenchRequest(
            runtimes, *counts, repetitions, data, tuple(free or ()), beside
        )
        record = commands.run_bench(files, asked, out, console.progress)
        console.result(record, lambda: _later("bench_words").bench_lines(record))
