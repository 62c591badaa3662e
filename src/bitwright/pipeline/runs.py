"""Working on an existing run directory: load it, measure it, export and verify it again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from bitwright.diagnosis.finding import Findings
from bitwright.engine.manifest import seal
from bitwright.engine.progress import Progress
from bitwright.engine.random_state import own_random
from bitwright.engine.store import NullStore, Store
from bitwright.errors import RunDirectoryError
from bitwright.evaluation.compare import compare
from bitwright.evaluation.figures import Evaluated, Metrics
from bitwright.evaluation.forward import outcome_of
from bitwright.evaluation.metrics import metric
from bitwright.export import rundir
from bitwright.export.generation import change, update_run
from bitwright.export.judged import judge_file
from bitwright.export.packed import Packed, load_packed
from bitwright.export.rundir import RunDirectory
from bitwright.export.samples import flat_example, verification_batches
from bitwright.export.verified import Verification
from bitwright.graph.capture import ExampleInputs, capture
from bitwright.graph.free_sizes import takes_free_images
from bitwright.graph.model_graph import ModelGraph, name_tensors, set_tensor, shallow_copy
from bitwright.graph.simulate import Assignment, stitch
from bitwright.graph.unread import unread_notes
from bitwright.pipeline.diagnose import find_causes, read_file
from bitwright.pipeline.distilled import data_of
from bitwright.pipeline.job import Job
from bitwright.pipeline.own_export import with_own_export
from bitwright.pipeline.own_file import write_model
from bitwright.pipeline.page import render_run
from bitwright.pipeline.plan import Plan, rewrite
from bitwright.prepare.fold_streams import with_factors
from bitwright.prepare.smooth import with_places
from bitwright.recipe.promises import CLIMBED
from bitwright.recipe.values import Recipe, load_recipe, update
from bitwright.report.promise_words import word_rejection
from bitwright.sources.batches import Dataset, take
from bitwright.sources.data import load_data
from bitwright.sources.images import ImageOptions
from bitwright.sources.lengths import batch_by_length, take_off_padding
from bitwright.sources.models import LoadedModel, example_inputs_of, load_model
from bitwright.sources.trial import try_data
from bitwright.sources.trust import Gate, names_code

VERIFY_SAMPLES = 1000
# Sizes to stand for a free batch and a free length.
_FREE = (2, 16)


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run read back: the captured network with the run's float tensors, and the solutions."""

    directory: RunDirectory
    recipe: Recipe
    source: LoadedModel
    graph: ModelGraph
    assignment: Assignment
    example: ExampleInputs
    gate: Gate


@own_random()
def load(run: str | Path, model: nn.Module | None = None, trust: bool = False) -> nn.Module:
    """The quantised network of a run directory as an ordinary nn.Module.

    Args:
        run: the folder that `bitwright quantize` or `Result.save` wrote.
        model: the float network, where the run was made from Python and names no MODEL. Only its
            structure is used: every number comes from the run. Nothing that the run's recipe
            names is then imported.
        trust: import what the run's recipe names, wherever the run comes from; without it only
            where `bitwright quantize` made the run here (docs/trust.md).

    Raises:
        TrustError: the recipe names code that is not to be run.
    """
    loaded = load_run(Path(run), model, trust)
    return stitch(loaded.graph, loaded.assignment)


def load_run(path: Path, model: nn.Module | None = None, trust: bool = False) -> LoadedRun:
    """Read a run directory and capture its network again.

    Raises:
        TrustError: its recipe names code that is not to be run.
        RunDirectoryError: not a run, of another version, damaged, or of another network.
    """
    directory = rundir.open_existing(path)
    recipe, gate = recipe_of(directory), Gate(path, trust)
    packed = load_packed(directory.checked(rundir.MODEL))
    source = _source(recipe, model, gate)
    example = _example(source, _without_code(recipe) if model is not None else recipe, packed, gate)
    free = takes_free_images(packed.inputs)
    graph = capture(source.module, example, free, recipe.answer)
    graph = with_own_export(graph, example, Path(recipe.onnx)) if recipe.onnx else graph
    graph = rewrite(graph, Plan.to_read(recipe)) if recipe.prepare else graph
    graph = with_factors(graph, packed.rest)
    graph = with_places(graph, packed.rest)
    _check_same_network(graph, packed.assignment, path)
    module = shallow_copy(graph.module)
    known = name_tensors(module)
    for target, tensor in packed.rest.items():
        if target in known:
            set_tensor(module, target, tensor)
    return LoadedRun(
        directory, recipe, source, replace(graph, module=module), packed.assignment, example, gate
    )


def recipe_of(directory: RunDirectory) -> Recipe:
    """The recipe of a run directory.

    Raises:
        RunDirectoryError: written by another version, or not the run's own.
    """
    path = directory.checked(rundir.RECIPE)
    values = load_recipe(str(path))
    version = values.get("version", Recipe.version)
    if version != Recipe.version:
        raise RunDirectoryError(
            f"{path} has version {version}; this bitwright reads {Recipe.version}. Quantise again "
            "with this version, or use the one that wrote it."
        )
    recipe = update(Recipe(), values, str(path))
    return _as_climbed(directory, recipe) if recipe.promise else recipe


def _as_climbed(directory: RunDirectory, recipe: Recipe) -> Recipe:
    """The recipe with what the ladder of its promise changed: how the network was made."""
    if not directory.has(rundir.METRICS):
        return recipe
    found = directory.read(rundir.METRICS, Metrics).promise
    # Nothing else: a run from elsewhere names no code in a second place.
    settings = {k: v for k, v in found.settings.items() if k in CLIMBED} if found else {}
    return update(recipe, settings, rundir.METRICS)


def job_of(
    directory: RunDirectory,
    evaluation: str,
    metric_name: str,
    store: Path | None,
    progress: Progress,
    trust: bool = False,
) -> Job:
    """The job of a run again, from its recipe, with what its store still holds.

    Raises:
        TrustError: its recipe names code that is not to be run.
        RunDirectoryError: made from Python, so that its network is not known; or another version.
    """
    recipe, gate = recipe_of(directory), Gate(directory.path, trust)
    chosen = metric_name or gate.allow("metric", recipe.metric)
    loss = gate.allow("loss", recipe.loss)
    recipe = replace(recipe, metric=chosen, eval=evaluation, loss=loss)
    plan = Plan.of(recipe)
    source = _source(recipe, None, gate)
    kept = directory[rundir.STORE]
    own = store or (kept if kept.is_dir() and not kept.is_symlink() else None)
    return Job(
        source.module,
        _open(gate.allow("data", recipe.data), recipe, source),
        plan,
        source.example_inputs,
        _open(evaluation, recipe, source) if evaluation else None,
        NullStore() if own is None else Store(own, lambda text: progress.note("solve", text)),
    )


def evaluate(loaded: LoadedRun, data: str, metric_name: str, progress: Progress) -> Evaluated:
    """Float and quantised side by side on any data."""
    recipe, gate = loaded.recipe, loaded.gate
    own = gate.allow("eval", recipe.eval) or gate.allow("data", recipe.data) if not data else ""
    chosen = metric(metric_name or gate.allow("metric", recipe.metric))
    dataset = _open(data or own, recipe, loaded.source)
    free = takes_free_images(loaded.graph.inputs)
    graph = capture(loaded.source.module, loaded.example, free, recipe.answer)
    if dataset.is_none:
        dataset = data_of(graph, Plan.to_read(recipe))
    dataset = take_off_padding(dataset, graph.inputs)
    for note in try_data(graph, dataset, loaded.recipe.batch):
        progress.note("evaluate", f"{note.place}: {note.text}")
    with progress.stage("evaluate") as tick:
        found = compare(
            outcome_of(graph, graph.module),
            outcome_of(graph, stitch(loaded.graph, loaded.assignment)),
            batch_by_length(dataset, loaded.recipe.batch),
            chosen,
            tick,
            graph.answer.kind,
        )
    return Evaluated(**vars(found), warnings=unread_notes(graph))


def export(loaded: LoadedRun) -> Path:
    """Write model.onnx again; another file than before is not verified any more.

    Raises:
        RunDirectoryError: the file answers at random.
    """
    directory = loaded.directory
    _refuse_rejected(directory)
    marked = stitch(loaded.graph, loaded.assignment, marks=True)
    example = flat_example(loaded.graph, loaded.example)
    target = Plan.to_read(loaded.recipe).target
    with change(directory) as new:
        path, opset = new[rundir.ONNX], loaded.recipe.opset
        write_model(loaded.graph, marked, example, path, target, opset)
        if directory.manifest is not None:
            before, written = directory.manifest.files.get(rundir.ONNX), seal(path)
            there = directory[rundir.ONNX]
            if before == written and there.is_file() and seal(there) == written:
                # Never pending, so that what was verified stays so wherever this process ends.
                path.unlink()
            elif stale := [n for n in _told_of_file(before == written) if directory.has(n)]:
                for name in stale:
                    new.remove(name)
                new.write(rundir.REPORT, render_run(new).encode())
    return directory[rundir.ONNX]


def _told_of_file(restored: bool) -> tuple[str, ...]:
    """What is told of model.onnx as it lay there; a verification is of the file once written."""
    return (rundir.DIAGNOSIS,) if restored else (rundir.VERIFY, rundir.DIAGNOSIS)


def verify(loaded: LoadedRun, data: str, progress: Progress) -> Verification:
    """Verify model.onnx against the simulation; verify.json, and the page that shows it."""
    directory = loaded.directory
    _refuse_rejected(directory)
    # Known before minutes of work: whether the page can be written.
    onnx = [directory.checked(name) for name in (rundir.METRICS, rundir.CENSUS, rundir.ONNX)][-1]
    own = loaded.gate.allow("data", loaded.recipe.data) if not data else ""
    dataset = _open(data or own, loaded.recipe, loaded.source)
    if dataset.is_none:
        dataset = data_of(loaded.graph, Plan.to_read(loaded.recipe))
    marked = stitch(loaded.graph, loaded.assignment, marks=True)
    with progress.stage("verify") as tick:
        found = judge_file(
            Plan.to_read(loaded.recipe).target,
            onnx,
            loaded.graph,
            marked,
            verification_batches(take_off_padding(dataset, loaded.graph.inputs), VERIFY_SAMPLES),
            tick,
            loaded.recipe.portable,
        )
    with change(directory) as new:
        new.write_json(rundir.VERIFY, found)
        new.write(rundir.REPORT, render_run(new).encode())
    return found


def _refuse_rejected(directory: RunDirectory) -> None:
    # A run that has its file was not rejected; its verification may be half written or damaged,
    # and is what is written anew.
    if directory.has(rundir.ONNX) or not directory.has(rundir.VERIFY):
        return
    found = directory.read(rundir.VERIFY, Verification)
    if found.rejected is not None:
        raise RunDirectoryError(
            f"{directory.path}: {word_rejection(found.rejected)} Quantise again with more "
            "bits, such as --scheme w8a8."
        )


def diagnose(loaded: LoadedRun, data: str, progress: Progress) -> Findings:
    """Named causes of lost accuracy; diagnosis.json, and the page that shows it."""
    directory, recipe = loaded.directory, loaded.recipe
    own = loaded.gate.allow("data", recipe.data) if not data else ""
    dataset = _open(data or own, recipe, loaded.source)
    if dataset.is_none:
        dataset = data_of(loaded.graph, Plan.to_read(recipe))
    dataset = take_off_padding(dataset, loaded.graph.inputs)
    network = loaded.graph, loaded.assignment
    file = read_file(directory, network, dataset, recipe, progress)
    found = find_causes(network, dataset, recipe, progress, directory.path, file)
    with change(directory) as new:
        new.write_json(rundir.DIAGNOSIS, found)
        new.write(rundir.REPORT, render_run(new).encode())
    return found


def report(path: Path) -> Path:
    """Write report.html again from the files of the run."""
    with update_run(path) as directory:
        recipe_of(directory)
        with change(directory) as new:
            new.write(rundir.REPORT, render_run(new).encode())
    return directory[rundir.REPORT]


def open_data(spec: str, recipe: Recipe, source: LoadedModel) -> Dataset:
    """Open D with the network's own preprocessing, or the recipe's where it states one."""
    return _open(spec, recipe, source)


def _open(spec: str, recipe: Recipe, source: LoadedModel) -> Dataset:
    options = ImageOptions.stated(recipe.size, recipe.mean, recipe.std, recipe.crop)
    return load_data(
        spec, preprocess=source.preprocess, image=options, takes=source.takes, file=source.file
    )


def _without_code(recipe: Recipe) -> Recipe:
    """The recipe with no code as its data: a caller who brings the network needs none of it."""
    return replace(recipe, data="") if names_code("data", recipe.data) else recipe


def _example(source: LoadedModel, recipe: Recipe, packed: Packed, gate: Gate) -> ExampleInputs:
    """Inputs to capture with: the network's own, the data's, or of the shapes in the run."""
    if source.example_inputs is not None:
        return source.example_inputs
    if recipe.data not in ("", "none"):
        dataset = _open(gate.allow("data", recipe.data), recipe, source)
        return next(batch.inputs for batch in take(dataset, 2))
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for spec in packed.inputs:
        sizes = [_FREE[min(i, 1)] if size is None else size for i, size in enumerate(spec.shape)]
        noise = torch.randn(sizes, generator=generator)
        # One is a word of every vocabulary, and what an attention mask lets pass.
        tensors[spec.name] = noise if spec.dtype.is_floating_point else torch.ones(sizes)
        tensors[spec.name] = tensors[spec.name].to(spec.dtype)
    return tensors if packed.keywords else tuple(tensors.values())


def _source(recipe: Recipe, model: nn.Module | None, gate: Gate) -> LoadedModel:
    if model is not None:
        return LoadedModel(model, type(model).__name__, example_inputs_of(model))
    if not recipe.model:
        raise RunDirectoryError(
            f"the run {str(gate.run)!r} was made from Python and names no MODEL. Pass the network: "
            "bitwright.load(RUN, model=net)."
        )
    spec = gate.allow("model", recipe.model)
    return load_model(spec, Path(recipe.weights) if recipe.weights else None)


def _check_same_network(graph: ModelGraph, assignment: Assignment, path: Path) -> None:
    shapes = {u.name: u.shape for u in graph.units}
    for name, solved in assignment.weights.items():
        if shapes.get(name) != tuple(solved.q.shape):
            raise RunDirectoryError(
                f"the run {str(path)!r} belongs to another network: its unit {name!r} has shape "
                f"{tuple(solved.q.shape)}, the network's {shapes.get(name)}. Was MODEL changed?"
            )
    nodes = graph.nodes()
    for edge in assignment.edges:
        if not all(name in nodes for name in edge):
            raise RunDirectoryError(
                f"the run {str(path)!r} belongs to another network: it quantises the edge "
                f"{' -> '.join(edge)}, which the network has not. Was MODEL changed?"
            )
