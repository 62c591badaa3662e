"""The command: parses, calls, prints. Nothing is computed here."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bitwright.commands import (
    catalogue,
    run_demo,
    run_doctor,
    run_evaluate,
    run_export,
    run_quantize,
    run_report,
    run_verify,
)
from bitwright.console import Console, comparison, doctor_lines, listing
from bitwright.errors import BitwrightError, InterruptedRun, RecipeError
from bitwright.run.memory import keep_heap

app = typer.Typer(
    name="bitwright",
    help="Makes trained PyTorch networks small and fast without their training data.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="FILE.py:FUNCTION, package.module:FUNCTION, timm:NAME, torchvision:NAME, hf:PATH or "
        "X.pt2",
    ),
]
RunArgument = Annotated[Path, typer.Argument(help="a run directory")]
Text = Annotated[str | None, typer.Option()]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="FILE.py:FUNCTION, a folder of images, X.npz, X.jsonl or none"),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="errors only")]


def _set(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _numbers(text: str | None, option: str) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise RecipeError(
            f"{option} {text!r} is not a list of numbers. Write one or three, such as 0.5,0.5,0.5."
        ) from error


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help="MODEL; may stand in the recipe instead")] = "",
    data: DataOption = None,
    recipe: Annotated[str, typer.Option(help="a built-in recipe or a TOML file")] = "fixed",
    weights: Annotated[str | None, typer.Option(help="file of weights for timm:, hf: ...")] = None,
    method: Annotated[str | None, typer.Option(help="see 'bitwright list methods'")] = None,
    mode: Annotated[str | None, typer.Option(help="parallel or sequential")] = None,
    scheme: Annotated[str | None, typer.Option(help="bits of all units, such as w4a8")] = None,
    keep: Annotated[str | None, typer.Option(help="'first,last=w8a8', 'PATTERN=SCHEME'")] = None,
    target: Annotated[str | None, typer.Option(help="paper, ort-cpu, weights-only, X.toml")] = None,
    eval: Annotated[str | None, typer.Option("--eval", help="labelled data")] = None,
    metric: Annotated[str | None, typer.Option(help="top1, agreement, FILE.py:FUNCTION")] = None,
    calib: Annotated[int | None, typer.Option(help="calibration samples; 0 for all")] = None,
    size: Annotated[int | None, typer.Option(help="image size of a folder")] = None,
    mean: Annotated[str | None, typer.Option(help="one or three numbers")] = None,
    std: Annotated[str | None, typer.Option(help="one or three numbers")] = None,
    crop: Annotated[float | None, typer.Option(help="share of the short side kept")] = None,
    batch: Annotated[int | None, typer.Option(help="samples in a forward pass")] = None,
    activation_range: Annotated[str | None, typer.Option(help="minmax, mse, ...")] = None,
    weight_range: Annotated[str | None, typer.Option(help="minmax, mse, ...")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda")] = None,
    seed: Annotated[int | None, typer.Option(help="of everything random")] = None,
    out: Annotated[Path, typer.Option(help="the run directory to write")] = Path("run"),
    quiet: Quiet = False,
) -> None:
    """Quantise a network, verify it in ONNX Runtime, and write a run directory."""
    options = _set(
        model=model or None, data=data, weights=weights, method=method, mode=mode, scheme=scheme,
        keep=keep,
        target=target, eval=eval, metric=metric, calib=calib, size=size,
        mean=_numbers(mean, "--mean"), std=_numbers(std, "--std"), crop=crop, batch=batch,
        activation_range=activation_range, weight_range=weight_range, device=device, seed=seed,
    )  # fmt: skip
    with Console(quiet) as console:
        outcome = run_quantize(recipe, options, out, console.progress)
        console.show(comparison(outcome))
    raise typer.Exit(0 if outcome["verify"]["passed"] else 1)


@app.command()
def doctor(model: ModelArgument, data: DataOption = None, weights: Text = None) -> None:
    """Say what will be quantised, what stays float and why, and what a run will need."""
    with Console(False) as console:
        console.show(doctor_lines(run_doctor(model, data, weights)))


@app.command()
def evaluate(
    run: RunArgument,
    eval: Annotated[str, typer.Option("--eval", help="labelled data")] = "",
    metric: Annotated[str, typer.Option(help="top1, agreement, FILE.py:FUNCTION")] = "",
    quiet: Quiet = False,
) -> None:
    """Float and quantised side by side on any data."""
    with Console(quiet) as console:
        console.show(comparison({"metrics": run_evaluate(run, eval, metric, console.progress)}))


@app.command()
def export(run: RunArgument) -> None:
    """Write model.onnx again."""
    with Console(False) as console:
        console.show([f"wrote {run_export(run)}"])


@app.command()
def verify(run: RunArgument, data: DataOption = None, quiet: Quiet = False) -> None:
    """Run model.onnx in ONNX Runtime against the simulation, unit by unit and end to end."""
    with Console(quiet) as console:
        found = run_verify(run, data or "", console.progress)
        console.show(comparison({"verify": found}))
    raise typer.Exit(0 if found["passed"] else 1)


@app.command()
def report(run: RunArgument) -> None:
    """Write report.html again."""
    with Console(False) as console:
        console.show([f"wrote {run_report(run)}"])


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, recipes, targets or metrics")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """List what can be named."""
    rows = catalogue(what)
    with Console(False) as console:
        console.show([json.dumps(rows, indent=1)] if as_json else listing(rows))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="the run directory to write")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """A real pretrained network, end to end, in a few minutes."""
    with Console(quiet) as console:
        outcome = run_demo(out, console.progress)
        console.show(comparison(outcome))
    raise typer.Exit(0 if outcome["verify"]["passed"] else 1)


def main() -> None:
    """Entry point: a wrong input is one message and exit code 2, never a traceback."""
    keep_heap()
    try:
        app(standalone_mode=True)
    except InterruptedRun as error:
        line = shlex.join(sys.argv[1:])
        print(f"\nbitwright: {error}. Resume with:  bitwright {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BitwrightError as error:
        print(f"bitwright: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
