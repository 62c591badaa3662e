"""Commands on ONNX files of any producer."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from bitwright.cli import options as of
from bitwright.cli.console import Console
from bitwright.cli.options import FOR, WHAT, WHERE, Json, Quiet, option
from bitwright.cli.words import read_pictures


def _later(module: str) -> Any:
    return importlib.import_module(f"bitwright.{module}")


def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(help="two ONNX files, the first of reference; or run directories"),
    ],
    data: Annotated[
        str, option("samples as of quantize; X.npz by input name; or 'random'", WHAT)
    ] = "",
    size: of.Size = None,
    mean: of.Channels = None,
    std: of.Channels = None,
    crop: of.Crop = None,
    free: Annotated[
        list[str] | None, option("NAME=SIZE of a free axis of made inputs", WHAT)
    ] = None,
    samples: Annotated[int, option("at most so many", WHAT)] = 32,
    tolerance: Annotated[
        float, option("relative difference of outputs that makes exit code 1; 0: none", FOR)
    ] = 0.0,
    repetitions: Annotated[int, option("turns of timing each file; 0: not timed", FOR)] = 25,
    page: Annotated[Path | None, option("the page to write", WHERE)] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Two ONNX files on the same samples, or runs by what they recorded: where they differ."""
    pictures = read_pictures(size, mean, std, crop)
    with Console(quiet, as_json) as console:
        commands = _later("cli.compare_commands")
        asked = commands.compare_settings(
            pictures, free or (), samples=samples, tolerance=tolerance, turns=repetitions
        )
        found = commands.run_compare(paths, data, asked, page, console.progress)
        console.result(found, lambda: _later("cli.compare_words").compare_lines(found, page))
    raise typer.Exit(0 if found.passed else 1)


def mend(
    file: Annotated[Path, typer.Argument(help="a quantised ONNX file of any producer")],
    data: Annotated[
        str, option("samples as of quantize; X.npz by input name; or 'random'", WHAT)
    ] = "",
    float_: Annotated[
        Path | None, typer.Option("--float", help="the float file it was made of")
    ] = None,
    size: of.Size = None,
    mean: of.Channels = None,
    std: of.Channels = None,
    crop: of.Crop = None,
    samples: Annotated[int, option("at most so many; half or more judge", WHAT)] = 512,
    out: Annotated[Path, option("the file to write", WHERE)] = Path("mended.onnx"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Solve a quantised file's rounding, scales, zero points and biases again, in place."""
    pictures = read_pictures(size, mean, std, crop)
    with Console(quiet, as_json) as console:
        commands = _later("cli.compare_commands")
        found = commands.run_mend((file, float_, out), data, samples, pictures, console.progress)
        console.result(found, lambda: _later("cli.compare_words").mend_lines(found))
