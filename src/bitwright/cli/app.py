"""The command: parses, calls, prints. Nothing is computed here."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bitwright.cli.console import Console, doctor_lines, listing
from bitwright.cli.console_table import (
    allocation_lines,
    explanation_lines,
    frontier_lines,
    latency_lines,
)
from bitwright.cli.table_commands import (
    FrontierRequest,
    Request,
    run_allocate,
    run_explain,
    run_frontier,
)
from bitwright.errors import BitwrightError, InterruptedRun, RecipeError
from bitwright.export.summary import comparison
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
Trust = Annotated[
    bool,
    typer.Option("--trust", help="run the code that the run's recipe names; see docs/trust.md"),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="errors only")]


Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", help="'size<=0.13 and bops<=2GBOP', 'loss<=0.05', 'drop<=1%'"),
]
CostTables = Annotated[
    list[str] | None,
    typer.Option("--cost-table", help="NAME=FILE.csv: unit, w_bits, a_bits, points, value"),
]
Minimize = Annotated[
    str, typer.Option(help="the cost to make small under a budget of the loss or the drop")
]


_NOT_OF_RECIPE = ("recipe", "out", "store", "workers", "quiet")


def _commands() -> Any:
    """The commands that work on networks; they load torch, which those on a table do without."""
    return importlib.import_module("bitwright.cli.commands")


def _set(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _of_recipe(given: dict[str, Any]) -> dict[str, Any]:
    """The options of `quantize` that were given and are keys of the recipe, in its words."""
    own = {key: value for key, value in given.items() if key not in _NOT_OF_RECIPE}
    joined = {"budget": " and ".join(own["budget"] or ()), "ties": ",".join(own.pop("tie") or ())}
    own |= {key: text or None for key, text in joined.items()}
    own |= {"model": own["model"] or None, "labels": own["labels"] or None}
    own |= {key: _numbers(own[key], f"--{key}") for key in ("mean", "std")}
    return _set(**own)


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
    menu: Annotated[str | None, typer.Option(help="'w8a8,w4a4', 'w{2..8}a{4,8}'")] = None,
    budget: Budgets = None,
    minimize: Annotated[str | None, typer.Option(help="the cost to make small")] = None,
    solver: Annotated[str | None, typer.Option(help="ip, greedy-accuracy, ...")] = None,
    lossless: Annotated[
        float | None, typer.Option(help="answers that may differ from float, such as 0.001")
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="the table's loss uses labels")] = False,
    tie: Annotated[list[str] | None, typer.Option(help="units of one choice: 'layer1.*'")] = None,
    pairwise: Annotated[int | None, typer.Option(help="pairs of units measured together")] = None,
    table_samples: Annotated[int | None, typer.Option(help="samples of the table")] = None,
    prepare: Annotated[str | None, typer.Option(help="equalize, absorb-bias, ocs")] = None,
    tune: Annotated[str | None, typer.Option(help="bn, bias, refine, brecq, lapq")] = None,
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
    store: Annotated[Path | None, typer.Option(help="where solved units are kept")] = None,
    workers: Annotated[str, typer.Option(help="N processes, ray, or a Ray ADDRESS")] = "1",
    quiet: Quiet = False,
) -> None:
    """Quantise a network, verify it in ONNX Runtime, and write a run directory."""
    options = _of_recipe(locals())
    with Console(quiet) as console:
        outcome = _commands().run_quantize(recipe, options, out, console.progress, store, workers)
        console.show(comparison(outcome))
    promised = outcome["verify"]["passed"] and outcome["lossless"].get("attained", True)
    raise typer.Exit(0 if promised else 1)


@app.command()
def doctor(model: ModelArgument, data: DataOption = None, weights: Text = None) -> None:
    """Say what will be quantised, what stays float and why, and what a run will need."""
    with Console(False) as console:
        console.show(doctor_lines(_commands().run_doctor(model, data, weights)))


@app.command()
def evaluate(
    run: RunArgument,
    eval: Annotated[str, typer.Option("--eval", help="labelled data")] = "",
    metric: Annotated[str, typer.Option(help="top1, agreement, FILE.py:FUNCTION")] = "",
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Float and quantised side by side on any data."""
    with Console(quiet) as console:
        found = _commands().run_evaluate(run, eval, metric, console.progress, trust)
        console.show(comparison({"metrics": found}))


@app.command()
def export(run: RunArgument, trust: Trust = False) -> None:
    """Write model.onnx again."""
    with Console(False) as console:
        console.show([f"wrote {_commands().run_export(run, trust)}"])


@app.command()
def verify(
    run: RunArgument, data: DataOption = None, trust: Trust = False, quiet: Quiet = False
) -> None:
    """Run model.onnx in ONNX Runtime against the simulation, unit by unit and end to end."""
    with Console(quiet) as console:
        found = _commands().run_verify(run, data or "", console.progress, trust)
        console.show(comparison({"verify": found}))
    raise typer.Exit(0 if found["passed"] else 1)


@app.command()
def report(run: RunArgument) -> None:
    """Write report.html again."""
    with Console(False) as console:
        console.show([f"wrote {_commands().run_report(run)}"])


@app.command()
def allocate(
    run: RunArgument,
    budget: Budgets = None,
    minimize: Minimize = "",
    solver: Annotated[str, typer.Option(help="ip, greedy-accuracy or greedy-compression")] = "",
    cost_table: CostTables = None,
    seconds: Annotated[float, typer.Option(help="time limit")] = 60.0,
    out: Annotated[Path | None, typer.Option(help="instead of RUN/allocation.json")] = None,
    quiet: Quiet = False,
) -> None:
    """Solve the bit allocation again from a run's table; no network is run."""
    request = Request(tuple(budget or ()), minimize, solver, tuple(cost_table or ()), seconds)
    with Console(quiet) as console:
        console.show(allocation_lines(*run_allocate(run, request, out)))


@app.command()
def frontier(
    run: RunArgument,
    cost: Annotated[str, typer.Option(help="size, bops, latency, energy or a table's")] = "size",
    cost_table: CostTables = None,
    budgets: Annotated[int, typer.Option(help="evenly spaced ones, of a long frontier")] = 100,
    eval: Annotated[str, typer.Option("--eval", help="run the knees on these labelled data")] = "",
    metric: Annotated[str, typer.Option(help="top1, agreement, FILE.py:FUNCTION")] = "",
    beside: Annotated[
        bool, typer.Option("--beside", help="run greedy and uniform bits beside the knees too")
    ] = False,
    store: Annotated[Path | None, typer.Option(help="where solved units were kept")] = None,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """The whole frontier of loss against a cost, as CSV and SVG; measured at its knees."""
    costs = tuple(cost_table or ())
    asked = FrontierRequest(cost, costs, budgets, eval, metric, beside, store)
    with Console(quiet) as console:
        if eval:
            found = _commands().run_frontier_at_knees(run, asked, console.progress, trust)
        else:
            found = run_frontier(run, asked)
        console.show(frontier_lines(*found))


@app.command()
def explain(
    run: RunArgument,
    unit: Annotated[str, typer.Argument(help="module path of a unit")],
    budget: Budgets = None,
    minimize: Minimize = "",
    cost_table: CostTables = None,
) -> None:
    """Why a unit got its bits, and what one step up or down would cost."""
    request = Request(tuple(budget or ()), minimize, costs=tuple(cost_table or ()))
    with Console(False) as console:
        console.show(explanation_lines(*run_explain(run, unit, request)))


@app.command()
def measure(
    model: ModelArgument,
    data: DataOption = None,
    weights: Text = None,
    menu: Annotated[str, typer.Option(help="such as w8a8,w4a8 or w{4,8}a8,float")] = "w8a8,w4a8",
    target: Annotated[str, typer.Option(help="paper, ort-cpu, weights-only, X.toml")] = "ort-cpu",
    out: Annotated[Path, typer.Option(help="the table to write")] = Path("latency.csv"),
    batch: Annotated[int, typer.Option(help="samples in a run")] = 1,
    threads: Annotated[int, typer.Option(help="of ONNX Runtime")] = 1,
    repetitions: Annotated[int, typer.Option(help="of every network, by turns")] = 25,
    checks: Annotated[int, typer.Option(help="random mixtures to check predictions on")] = 2,
    quiet: Quiet = False,
) -> None:
    """Latency of every unit at every choice in ONNX Runtime on this machine, as a table."""
    options = {"data": data, "weights": weights, "menu": menu, "target": target}
    with Console(quiet) as console:
        commands = _commands()
        settings = commands.Settings(batch, threads, repetitions, checks)
        found = commands.run_measure(model, options, settings, out, console.progress)
        console.show(latency_lines(found, out))


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, recipes, targets or metrics")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """List what can be named."""
    rows = importlib.import_module("bitwright.catalogue").catalogue(what)
    with Console(False) as console:
        console.show([json.dumps(rows, indent=1)] if as_json else listing(rows))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="the run directory to write")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """A real pretrained network, end to end, in a few minutes."""
    with Console(quiet) as console:
        outcome = _commands().run_demo(out, console.progress)
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
