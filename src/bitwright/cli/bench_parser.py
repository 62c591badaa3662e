"""The options of `bitwright bench`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from bitwright.cli.console import Console
from bitwright.cli.options import FOR, WHAT, WHERE, Json, Quiet, Trust, option
from bitwright.errors import RecipeError
from bitwright.recipe import names


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
    files: Annotated[
        list[str],
        typer.Argument(help="run directories and ONNX files; one RUN or MODEL with --bundle"),
    ],
    runtime: Annotated[
        str, option("onnxruntime, openvino; all that are installed without", FOR)
    ] = "",
    threads: Annotated[str, option("such as 1,2", FOR)] = "1",
    batch: Annotated[str, option("samples in a run, such as 1,8", FOR)] = "1",
    repetitions: Annotated[int, option("turns of every file", FOR)] = 25,
    beside: Annotated[
        bool, option("ONNX Runtime's own quantiser too, static and dynamic", FOR)
    ] = False,
    precise: Annotated[
        bool, option("floats of 32 bits where a runtime would narrow them", FOR)
    ] = False,
    data: Annotated[str, option("samples to run on, in place of made ones", WHAT)] = "",
    free: Annotated[
        list[str] | None, option("NAME=SIZE of an axis that a file leaves free", WHAT)
    ] = None,
    bundle: Annotated[
        Path | None, option("write a timing bundle for another machine here", WHERE)
    ] = None,
    menu: Annotated[str, option("of a bundle, such as w8a8,w4a8,float", FOR)] = "",
    target: Annotated[str, option("of a bundle", FOR, known=names.TARGETS)] = "",
    trust: Trust = False,
    out: Annotated[Path, option("the page to write", WHERE)] = Path("bench.html"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Latency, throughput, loading and operators of files, side by side in turns."""
    counts = _counts(threads, "--threads"), _counts(batch, "--batch")
    runtimes = tuple(runtime.replace(",", " ").split())
    with Console(quiet, as_json) as console:
        if bundle is not None:
            record = _bundle(files, bundle, (data, menu, target), counts, trust, console)
            console.result(record, lambda: _later("bench_words").bundle_lines(record))
            return
        commands = _later("bench_commands")
        asked = commands.BenchRequest(
            runtimes, *counts, repetitions, data, tuple(free or ()), beside, precise
        )
        record = commands.run_bench([Path(file) for file in files], asked, out, console.progress)
        console.result(record, lambda: _later("bench_words").bench_lines(record))


def _bundle(
    files: list[str],
    folder: Path,
    stated: tuple[str, str, str],
    counts: tuple[tuple[int, ...], tuple[int, ...]],
    trust: bool,
    console: Console,
) -> dict[str, Any]:
    """Write the timing bundle of one network.

    Raises:
        RecipeError: several networks, or several batch sizes.
    """
    if len(files) != 1 or len(counts[1]) != 1:
        raise RecipeError("--bundle is of one network at one batch size: name one RUN or MODEL.")
    data, menu, target = stated
    commands = _later("bundle_commands")
    asked = commands.BundleRequest(files[0], menu, target, data, counts[1][0])
    found: dict[str, Any] = commands.run_bundle(asked, folder, console.progress, trust)
    return found
