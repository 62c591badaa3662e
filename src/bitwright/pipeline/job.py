"""What every run begins with: the network captured, its edges observed in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from bitwright.engine.code import code_version
from bitwright.engine.digest import digest, fingerprint_each
from bitwright.engine.note import Note
from bitwright.engine.progress import Progress
from bitwright.engine.random_state import seed_all
from bitwright.engine.store import Entries, NullStore, Store
from bitwright.engine.threads import use_threads
from bitwright.errors import DataError, RecipeError
from bitwright.export.free_images import capture_free
from bitwright.export.trial import try_opset
from bitwright.graph.capture import ExampleInputs, capture
from bitwright.graph.choice import Choice, Menus
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.observe import Observation, observe
from bitwright.graph.placing import graph_on
from bitwright.graph.sites import Site, find_sites
from bitwright.graph.target import Target
from bitwright.methods.on_device import solve_on
from bitwright.pipeline.own_export import with_own_export
from bitwright.pipeline.plan import Plan, menu_of, rewrite, stream
from bitwright.prepare.names import BALANCE, LEARNED, SMOOTH
from bitwright.prepare.smooth import apply_changes, find_changes
from bitwright.recipe.values import Recipe
from bitwright.solving import Edges, Work, bind_batches
from bitwright.solving.grids import input_grids, share_stats, sites_in_use, task_grids
from bitwright.solving.samples import HELD_OUT, LOSSLESS_SHARE, Samples, split_samples
from bitwright.solving.work import threads_of
from bitwright.sources.batches import Dataset, take
from bitwright.sources.lengths import take_off_padding
from bitwright.sources.models import check_weights
from bitwright.sources.trial import try_data
from bitwright.tuning.equalization import Equalization, equalize_by_data
from bitwright.tuning.widths import Aim


@dataclass(frozen=True)
class Job:
    """What a run works on: the network, its data, and how; where solutions are kept, and by whom.

    The store and the workers change no bit of the result, so they are not of the plan.
    """

    model: nn.Module
    data: Dataset
    plan: Plan
    example_inputs: ExampleInputs | None = None
    evaluation: Dataset | None = None
    store: Entries = field(default_factory=NullStore)
    workers: int | str | None = None

    @property
    def recipe(self) -> Recipe:
        """The words of the plan."""
        return self.plan.recipe


def store_at(path: str | Path | None) -> Entries:
    """A store in a directory, or none."""
    return NullStore() if path is None else Store(Path(path))


@dataclass(frozen=True, eq=False)
class Prepared:
    """The captured network and what one pass over the calibration data told.

    Attributes:
        menu: the choices of every unit, the base's own included.
        sites: the edges that are quantised under some choice.
        data: digest of the calibration data, and of how they are parted.
        samples: what is solved and tuned on, and what judges tuning; all is fit without tuning.
    """

    graph: ModelGraph
    target: Target
    menu: Menus
    sites: tuple[Site, ...]
    observation: Observation
    data: str
    samples: Samples


def capture_job(job: Job) -> tuple[Job, ModelGraph]:
    """The job's network; and the job, its texts without padding where any length is taken."""
    graph = capture_network(job)
    evaluation = job.evaluation and take_off_padding(job.evaluation, graph.inputs)
    job = replace(job, data=take_off_padding(job.data, graph.inputs), evaluation=evaluation)
    labelled = (job.evaluation, job.data if job.recipe.labels else None)
    for dataset in filter(None, labelled):
        notes = try_data(graph, dataset, job.recipe.batch)
        graph = replace(graph, notes=(*graph.notes, *notes))
    return job, graph


def tell(notes: Iterable[Note], stage: str, progress: Progress) -> None:
    """Say what a user should know as soon as it is known."""
    for note in notes:
        progress.note(stage, f"{note.place}: {note.text}")


def rewrite_network(job: Job, graph: ModelGraph, progress: Progress) -> ModelGraph:
    """The float network after the recipe's rewrites, those by its data last."""
    plan = job.plan
    if not plan.prepare:
        return graph
    with progress.stage("prepare"):
        known, graph = len(graph.notes), rewrite(graph, plan)
        tell(graph.notes[known:], "prepare", progress)
        for step in (BALANCE, LEARNED):
            if step in plan.prepare:
                graph = _equalize(job, graph, step == LEARNED, progress)
        return _smooth(job, graph, progress) if SMOOTH in plan.prepare else graph


def _hardest_of(graph: ModelGraph, plan: Plan) -> dict[str, Choice]:
    return {name: _hardest(choices) for name, choices in menu_of(graph, plan).items()}


def _equalize(job: Job, graph: ModelGraph, learn: bool, progress: Progress) -> ModelGraph:
    """Factors for all streams of channels, by the calibration data."""
    plan = job.plan
    aim = Aim(_hardest_of(graph, plan), plan.target, plan.rule, plan.method.needs.data)
    batches = bind_batches(graph, lambda: stream(job.data, job.recipe))
    samples = split_samples(graph, batches, HELD_OUT)
    options = Equalization(learn=learn, seed=job.recipe.seed)
    made, said = equalize_by_data(graph, samples, aim, options)
    note = Note(options.name, said)
    tell((note,), "prepare", progress)
    return replace(made, notes=(*graph.notes, note))


def _smooth(job: Job, graph: ModelGraph, progress: Progress) -> ModelGraph:
    plan = job.plan
    batches = bind_batches(graph, lambda: stream(job.data, job.recipe))
    choices = _hardest_of(graph, plan)
    changes = find_changes(graph, batches, choices, plan.target, plan.method.needs.data)
    for change in changes:
        where = "into its norm" if change.place.norm else "by two operators"
        progress.note(
            "prepare",
            f"{change.place.stem}: channels of the input evened out {where}, error at the outputs "
            f"{change.before:.3g} -> {change.after:.3g} of their energy",
        )
    return apply_changes(graph, changes)


def _hardest(choices: tuple[Choice, ...]) -> Choice:
    """Of a menu the choice that outlier channels harm most: fewest input bits, 4-bit weights."""
    return min(choices, key=lambda choice: (choice.a_bits, abs(choice.w_bits - 4)))


def prepare(job: Job, graph: ModelGraph, menu: Menus, progress: Progress) -> Prepared:
    """Observe every edge that some choice of the menu quantises."""
    recipe, target = job.recipe, job.plan.target
    sites = sites_in_use(find_sites(graph, target), menu)
    seen: list[str] = []
    with progress.stage("observe") as tick:
        inputs = fingerprint_each(stream(job.data, recipe), seen)
        placed = graph_on(graph, recipe.device)
        watched = {site.root for site in sites}
        with use_threads(threads_of(job.workers, recipe.device)):
            observation = observe(placed, inputs, watched, tick)
    said = [Note(job.data.spec, text) for text in job.data.notes]
    said = [note for note in said if note not in graph.notes]
    observation = replace(
        observation,
        stats=share_stats(graph, target, observation.stats),
        notes=(*observation.notes, *said),
    )
    tell(observation.notes, "observe", progress)
    batches = bind_batches(graph, lambda: stream(job.data, recipe))
    share = LOSSLESS_SHARE if recipe.lossless else HELD_OUT
    if not job.plan.tune and not recipe.lossless:
        whole = Samples(batches, lambda: iter(()), observation.samples, 0)
        return Prepared(graph, target, menu, sites, observation, digest(*seen), whole)
    parted = split_samples(graph, batches, share)
    # How samples are parted decides what is solved on.
    data = digest(*seen, share, code_version(split_samples))
    return Prepared(graph, target, menu, sites, observation, data, parted)


def work_on(job: Job, prepared: Prepared, menu: Menus) -> Work:
    """The solving of some choices of every unit."""
    plan, recipe, graph = job.plan, job.recipe, prepared.graph
    sites = sites_in_use(prepared.sites, menu)
    stats = prepared.observation.stats
    return Work(
        graph=graph,
        menu=menu,
        grids=task_grids(graph, menu, sites, stats, prepared.target, plan.rule),
        target=prepared.target,
        method=solve_on(plan.method, recipe.device),
        sites=sites,
        stats=stats,
        batches=prepared.samples.fit,
        samples=prepared.samples.fit_count,
        batch=recipe.batch,
        seed=recipe.seed,
        by_output=plan.by_output,
        data=prepared.data,
        store=job.store,
        workers=job.workers,
        count=prepared.observation.batches,
        portable=recipe.portable,
        device=recipe.device,
    )


def edges_of(job: Job, prepared: Prepared, choices: Mapping[str, Choice]) -> Edges:
    """The grids of all edges under one configuration, as observed."""
    sites = sites_in_use(prepared.sites, {name: (c,) for name, c in choices.items()})
    stats, learned = prepared.observation.stats, prepared.graph.grids
    return input_grids(sites, stats, choices, prepared.target, job.plan.rule, learned)


def capture_network(job: Job) -> ModelGraph:
    """Capture the job's network on its own example inputs, or on the first batch of the data."""
    check_weights(job.model, type(job.model).__name__)
    seed_all(job.recipe.seed, job.recipe.device)
    example = job.example_inputs
    if example is None:
        example = next((batch.inputs for batch in take(job.data, 2)), None)
    if example is None and job.data.is_none:
        raise DataError(
            f"--data none: the network {type(job.model).__name__} does not say what its inputs "
            "are like. Set example_inputs (a tuple of tensors) on it, or give samples with --data."
        )
    if example is None:
        raise DataError("the calibration data are empty, so the shape of the inputs is not known.")
    answer = job.recipe.answer
    if job.recipe.dynamic:
        graph = capture_free(job.model, example, answer)
    else:
        graph = capture(job.model, example, answer=answer)
    graph = replace(graph, loss=job.plan.loss)
    if job.recipe.onnx:
        graph = with_own_export(graph, example, Path(job.recipe.onnx))
    try_opset(graph, example, job.recipe.opset)
    if not graph.units:
        raise RecipeError(
            f"the network {type(job.model).__name__} has no convolution, linear layer or embedding "
            "with stored weights: there is nothing to quantise."
        )
    return graph
