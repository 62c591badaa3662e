"""The commands as they are typed: each is checked, called and printed. Nothing is computed here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import bitwright
from bitwright.cli import checks
from bitwright.cli import options as of
from bitwright.cli.bench_parser import bench
from bitwright.cli.console import Console, doctor_lines, format_listing, listings
from bitwright.cli.file_parser import compare, mend
from bitwright.cli.options import (
    BITS,
    FOR,
    HOW,
    WHAT,
    WHERE,
    Budgets,
    CostTables,
    DataOption,
    Evaluation,
    Json,
    MetricOption,
    Minimize,
    ModelArgument,
    Quiet,
    RunArgument,
    Solver,
    TextOption,
    Trust,
    complete_from,
    option,
)
from bitwright.cli.outcomes import Diagnosis, RunOutcome, outcome_lines
from bitwright.cli.run_parser import check, diagnose
from bitwright.cli.words import Picturing, read_numbers, read_pictures
from bitwright.recipe import names
from bitwright.recipe.names import DEFAULT, RANGES
from bitwright.report.summary import comparison

app = typer.Typer(
    name="bitwright",
    help="Makes trained PyTorch networks small and fast with a few unlabelled samples.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_NOT_OF_RECIPE = ("recipe", "out", "store", "workers", "quiet", "force", "as_json")


def _later(module: str) -> Any:
    """A module of the command that takes its time to load, after what was typed is checked."""
    return importlib.import_module(f"bitwright.cli.{module}")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"bitwright {bitwright.__version__}")
        raise typer.Exit


@app.callback()
def bitwright_(
    version: Annotated[
        bool, typer.Option("--version", help="the version, and nothing else", callback=_version,
                           is_eager=True),
    ] = False,
) -> None:  # fmt: skip
    """Makes trained PyTorch networks small and fast with a few unlabelled samples."""


def _set(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _of_recipe(given: Mapping[str, Any]) -> dict[str, object]:
    """The options of `quantize` that were given and are keys of the recipe, in its words."""
    own = {key: value for key, value in given.items() if key not in _NOT_OF_RECIPE}
    joined = {"budget": " and ".join(own["budget"] or ()), "ties": ",".join(own.pop("tie") or ())}
    joined["latencies"] = ",".join(own["latencies"] or ())
    own |= {key: text or None for key, text in joined.items()}
    own |= {"model": own["model"] or None, "labels": own["labels"] or None}
    own |= {key: read_numbers(own[key], f"--{key}") for key in ("mean", "std")}
    return _set(**own)


@app.command(cls=Picturing)
def quantize(
    model: Annotated[str, typer.Argument(help="MODEL; may stand in the recipe instead")] = "",
    data: DataOption = None,
    recipe: of.RecipeOption = DEFAULT,
    weights: Annotated[str | None, option("file of weights for timm:, hf: ...", WHAT)] = None,
    method: of.MethodOption = None,
    mode: of.Mode = None,
    scheme: Annotated[str | None, option("bits of all units, such as w4a8", BITS)] = None,
    keep: Annotated[str | None, option("'first,last=w8a8', 'PATTERN=SCHEME'", BITS)] = None,
    allocation: of.GivenBits = None,
    menu: Annotated[str | None, option("'w8a8,w4a4', 'w{2..8}a{4,8}'", BITS)] = None,
    budget: Budgets = None,
    minimize: Annotated[str | None, option("the cost to make small", BITS)] = None,
    latencies: of.Latencies = None,
    solver: of.SolvingOption = None,
    lossless: of.Lossless = None,
    promise: of.PromiseOption = None,
    labels: of.Labels = False,
    tie: Annotated[list[str] | None, option("units of one choice: 'layer1.*'", BITS)] = None,
    pairwise: Annotated[int | None, option("pairs of units measured together", BITS)] = None,
    table: of.TableOption = None,
    table_samples: Annotated[int | None, option("samples of the table", BITS)] = None,
    prepare: of.Prepare = None,
    tune: of.Tune = None,
    target: of.TargetName = None,
    eval: of.Labelled = None,
    metric: of.MeasuredOption = None,
    answer: of.AnswerOption = None,
    loss: of.LossOption = None,
    calib: Annotated[int | None, option("calibration samples; 0 for all", WHAT)] = None,
    size: of.Size = None,
    mean: of.Channels = None,
    std: of.Channels = None,
    crop: of.Crop = None,
    batch: Annotated[int | None, option("samples in a forward pass", WHAT)] = None,
    activation_range: of.InputRange = None,
    weight_range: Annotated[str | None, option("minmax, mse, ...", HOW, known=RANGES)] = None,
    onnx: Annotated[str | None, option("your own export, to be quantised in place", FOR)] = None,
    opset: Annotated[int | None, option("of model.onnx, 13 to 25; 0: as needed", FOR)] = None,
    dynamic: of.Dynamic = None,
    portable: of.Portable = None,
    time: of.Time = None,
    device: Annotated[str | None, option("cpu, cuda, cuda:1 or mps", WHERE)] = None,
    seed: Annotated[int | None, option("of everything random", WHERE)] = None,
    out: Annotated[Path, option("the run directory to write", WHERE)] = Path("run"),
    force: of.Force = False,
    store: Annotated[Path | None, option("where solved units are kept", WHERE)] = None,
    workers: of.Workers = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Quantise a network, verify it in ONNX Runtime, and write a run directory."""
    options = _of_recipe(locals())
    with Console(quiet, as_json) as console:
        checks.quantize(recipe, options, workers)
        asked = recipe, options, out, console.progress, store, workers, force
        outcome: RunOutcome = _later("commands").run_quantize(*asked)
        console.result(outcome, lambda: outcome_lines(outcome))
    raise typer.Exit(0 if outcome.promised else 1)


@app.command(cls=Picturing)
def doctor(
    model: ModelArgument,
    data: DataOption = None,
    weights: TextOption = None,
    size: of.Size = None,
    mean: of.Channels = None,
    std: of.Channels = None,
    crop: of.Crop = None,
    time: of.Time = None,
    answer: of.AnswerOption = None,
    speed: Annotated[bool, option("time a file of each target beside float", FOR)] = True,
    as_json: Json = False,
) -> None:
    """Say what will be quantised, what stays float and why, and what a run will need."""
    pictures = read_pictures(size, mean, std, crop)
    with Console(False, as_json) as console:
        checks.sources(model, data, weights)
        options = _set(data=data, weights=weights, time=time, answer=answer, **pictures)
        found: Diagnosis = _later("commands").run_doctor(model, options, speed, console.progress)
        console.result(found, lambda: doctor_lines(found))


@app.command()
def evaluate(
    run: RunArgument,
    eval: Evaluation = "",
    metric: MetricOption = "",
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Float and quantised side by side on any data."""
    with Console(quiet, as_json) as console:
        checks.run(run, eval, metric)
        found = _later("commands").run_evaluate(run, eval, metric, console.progress, trust)
        console.result(found, lambda: comparison(found, warnings=found.warnings))


@app.command()
def export(
    run: RunArgument,
    trust: Trust = False,
    hub: Annotated[
        Path | None, typer.Option(help="a new folder that sentence-transformers and optimum load")
    ] = None,
) -> None:
    """Write model.onnx again, or with --hub a folder that other libraries load."""
    with Console(False) as console:
        checks.run(run)
        console.show([f"wrote {_later('commands').run_export(run, trust, hub)}"])


@app.command()
def verify(
    run: RunArgument,
    data: DataOption = None,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run model.onnx in ONNX Runtime against the simulation, unit by unit and end to end."""
    with Console(quiet, as_json) as console:
        checks.run(run, data or "")
        found = _later("commands").run_verify(run, data or "", console.progress, trust)
        console.result(found, lambda: comparison(None, verified=found))
    raise typer.Exit(0 if found.passed else 1)


@app.command()
def report(run: RunArgument) -> None:
    """Write report.html again."""
    with Console(False) as console:
        checks.run(run)
        console.show([f"wrote {_later('commands').run_report(run)}"])


app.command()(check)
app.command()(diagnose)


@app.command()
def allocate(
    run: RunArgument,
    budget: Budgets = None,
    minimize: Minimize = "",
    solver: Solver = "",
    cost_table: CostTables = None,
    latencies: of.Latencies = None,
    seconds: Annotated[float, typer.Option(help="time limit")] = 60.0,
    out: Annotated[Path | None, typer.Option(help="instead of RUN/allocation.json")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Solve the bit allocation again from a run's table; no network is run."""
    with Console(quiet, as_json) as console:
        checks.budgets(budget or (), solver)
        tables, words = _later("table_commands"), _later("console_table")
        costs = tuple(cost_table or ())
        devices = ",".join(latencies or ())
        asked = tuple(budget or ())
        request = tables.Request(asked, minimize, solver, costs, seconds, devices)
        found, path = tables.run_allocate(run, request, out)
        record = _later("records").allocation_record(found, path)
        console.result(record, lambda: words.allocation_lines(found, path))


@app.command()
def frontier(
    run: RunArgument,
    cost: Annotated[str, typer.Option(help="size, bops, latency, energy or a table's")] = "size",
    cost_table: CostTables = None,
    budgets: Annotated[int, typer.Option(help="evenly spaced ones, of a long frontier")] = 100,
    eval: Annotated[str, typer.Option("--eval", help="run the knees on these labelled data")] = "",
    metric: MetricOption = "",
    beside: Annotated[
        bool, typer.Option("--beside", help="run greedy and uniform bits beside the knees too")
    ] = False,
    store: Annotated[Path | None, typer.Option(help="where solved units were kept")] = None,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The whole frontier of loss against a cost, as CSV and SVG; measured at its knees."""
    with Console(quiet, as_json) as console:
        checks.run(run, eval, metric)
        tables, words = _later("table_commands"), _later("console_table")
        costs = tuple(cost_table or ())
        asked = tables.FrontierRequest(cost, costs, budgets, eval, metric, beside, store)
        if eval:
            found = _later("commands").run_frontier_at_knees(run, asked, console.progress, trust)
        else:
            found = tables.run_frontier(run, asked)
        record = _later("records").frontier_record(*found)
        console.result(record, lambda: words.frontier_lines(*found))


@app.command()
def explain(
    run: RunArgument,
    unit: Annotated[
        str, typer.Argument(help="module path of a unit, or of a part of the network: its units")
    ],
    budget: Budgets = None,
    minimize: Minimize = "",
    cost_table: CostTables = None,
    as_json: Json = False,
) -> None:
    """Why a unit got its bits, and what one step up or down would cost."""
    with Console(False, as_json) as console:
        checks.budgets(budget or ())
        tables, words = _later("table_commands"), _later("console_table")
        below = tables.units_below(run, unit)
        if below:
            console.result(below, lambda: format_listing(below))
            return
        costs = tuple(cost_table or ())
        found = tables.run_explain(
            run, unit, tables.Request(tuple(budget or ()), minimize, "", costs)
        )
        record = _later("records").explanation_record(*found)
        console.result(record, lambda: words.explanation_lines(*found))


@app.command(cls=Picturing)
def measure(
    model: ModelArgument,
    data: DataOption = None,
    weights: TextOption = None,
    size: of.Size = None,
    mean: of.Channels = None,
    std: of.Channels = None,
    crop: of.Crop = None,
    menu: Annotated[str, typer.Option(help="such as w8a8,w4a8 or w{4,8}a8,float")] = "w8a8,w4a8",
    target: Annotated[
        str, option("paper, ort-cpu, weights-only, X.toml", known=names.TARGETS)
    ] = "ort-cpu",
    out: Annotated[Path, typer.Option(help="the table to write")] = Path("latency.csv"),
    batch: Annotated[int, typer.Option(help="samples in a run")] = 1,
    threads: Annotated[int, typer.Option(help="of ONNX Runtime")] = 1,
    repetitions: Annotated[int, typer.Option(help="of every network, by turns")] = 25,
    checked: Annotated[
        int, typer.Option("--checks", help="random mixtures to check predictions on")
    ] = 2,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Latency of every unit at every choice in ONNX Runtime on this machine, as a table."""
    options: dict[str, object] = {
        "data": data,
        "weights": weights,
        "menu": menu,
        "target": target,
    }
    options |= read_pictures(size, mean, std, crop)
    with Console(quiet, as_json) as console:
        checks.sources(model, data, weights)
        checks.bits(target, menu)
        commands = _later("commands")
        settings = commands.TimingSettings(batch, threads, repetitions, checked)
        found = commands.run_measure(model, options, settings, out, console.progress)
        record = _later("records").latency_record(found, out)
        console.result(record, lambda: _later("console_table").latency_lines(found, out))


app.command()(bench)
app.command(cls=Picturing)(compare)
app.command(cls=Picturing)(mend)


@app.command(name="list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="methods, recipes, targets or metrics; all of them without a word",
            autocompletion=complete_from(names.LISTS),
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """List what can be named."""
    with Console(False, as_json) as console:
        if what:
            names.check_name("list", what, names.LISTS)
        catalogue = importlib.import_module("bitwright.cli.catalogue").catalogue
        lists = {name: catalogue(name) for name in ([what] if what else names.LISTS)}
        if what:
            console.result(lists[what], lambda: format_listing(lists[what]))
        else:
            console.result(lists, lambda: listings(lists))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="the run directory to write")] = Path("runs/demo"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """A real pretrained network, end to end, in a few minutes."""
    with Console(quiet, as_json) as console:
        outcome: RunOutcome = _later("commands").run_demo(out, console.progress)
        console.result(outcome, lambda: outcome_lines(outcome))
    raise typer.Exit(0 if outcome.promised else 1)
