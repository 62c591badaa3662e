"""What a run leaves: the quantised network, the figures, and how to write them down."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnxruntime
import torch
from torch import nn

from bitwright.allocation.chosen import ChosenBits
from bitwright.allocation.devices import format_devices
from bitwright.allocation.given import write_given
from bitwright.allocation.latencies import LATENCY
from bitwright.allocation.latency_csv import write_latencies
from bitwright.allocation.latency_table import LatencyTable
from bitwright.allocation.table import Row, Table, write_table
from bitwright.diagnosis.finding import Findings
from bitwright.engine.files import write_atomically
from bitwright.engine.progress import Event, Progress
from bitwright.engine.random_state import own_random
from bitwright.errors import RecipeError
from bitwright.evaluation.figures import Environment, Figures, Metrics, Sizes
from bitwright.export import rundir
from bitwright.export.generation import Staged, change, claim_run
from bitwright.export.judged import judge_file
from bitwright.export.packed import save_packed
from bitwright.export.rundir import RunDirectory
from bitwright.export.samples import flat_example, verification_batches
from bitwright.export.verified import Verification
from bitwright.graph.census_record import Census
from bitwright.graph.model_graph import ModelGraph, name_tensors
from bitwright.graph.simulate import Assignment, stitch
from bitwright.graph.target import Target
from bitwright.graph.unread import unread_notes
from bitwright.numerics.stats import TensorStats
from bitwright.pipeline.diagnose import find_causes
from bitwright.pipeline.finished import compare_with_proven, find_rejection, put_aside
from bitwright.pipeline.latency_check import check_finished, predict_time, say_times
from bitwright.pipeline.own_file import write_model
from bitwright.pipeline.page import render, title_of
from bitwright.recipe.values import Recipe, give_bits, to_toml
from bitwright.report.summary import as_html, comparison, short
from bitwright.report.warnings import note_lines, size_warnings
from bitwright.sensitivity.prices import Prices
from bitwright.sources.batches import Dataset, take

VERIFY_SAMPLES = 256
NO_FILES: Mapping[str, int] = {}


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """A quantised network with everything that is known about it.

    Attributes:
        model: an ordinary nn.Module with the inputs and outputs of the user's network.
        graph: the captured float network.
        assignment: the solved parameters.
        recipe: what was asked for, every default resolved.
        target: what the runtime can do.
        metrics, census, table, allocation: as in the run directory; their attributes are typed,
            and `result.metrics["agreement"]` reads them by the keys of the files.
        stats: statistics of the quantised edges.
        errors: squared weight error of each unit relative to its weight's energy.
        data: the calibration data, for the verification.
        progress: receives what happens; keeps the stages' times.
        latency: of every unit at every choice, where a budget asked for it.
        devices: the same by measure, those of other devices among them.
        again: the same job under another recipe.
    """

    model: nn.Module
    graph: ModelGraph
    assignment: Assignment
    recipe: Recipe
    target: Target
    metrics: Figures
    census: Census
    table: Table
    allocation: ChosenBits
    stats: Mapping[str, TensorStats]
    errors: Mapping[str, float]
    data: Dataset
    progress: Progress
    latency: LatencyTable | None = None
    devices: Mapping[str, LatencyTable] = field(default_factory=dict)
    again: Callable[[Recipe], Result] | None = None

    def with_bits(self, bits: Mapping[str, object]) -> Result:
        """This network with other bits in some units, all else as it was.

        Args:
            bits: by unit, such as {"layer1.0.conv1": "w8a8"}; schemes, choices or the records of
                allocation.json.

        Returns:
            A result of its own. What the run's store holds is not solved again.

        Raises:
            RecipeError: a unit that the network has not, or bits that its target does not hold.
        """
        if self.again is None:
            raise RecipeError("this result does not know its network: quantise it again.")
        every = {**self.allocation.choices, **bits}
        return self.again(give_bits(self.recipe, write_given(every)))

    def __repr__(self) -> str:
        """The run in one line."""
        return short(title_of(self.recipe, self.census), self.measured())

    def _repr_html_(self) -> str:
        """The run as notebooks show it at the end of a cell."""
        return as_html(
            title_of(self.recipe, self.census), self.measured(), note_lines(self.census.notes)
        )

    def summary(self) -> str:
        """What the command prints at the end: accuracy, sizes, notes."""
        found = self.measured()
        lines = comparison(found, found.size, found.warnings, lossless=self.allocation.lossless)
        told = [f"note: {note}" for note in note_lines(self.census.notes)]
        return "\n".join([title_of(self.recipe, self.census), *lines, *told])

    @own_random()
    def save(self, out: str | Path, verify: bool = True, force: bool = False) -> RunDirectory:
        """Write the whole run directory; verification included unless told otherwise.

        With `force` another run that is there is replaced, and a file that answers at random is
        written as model.rejected.onnx.
        """
        recipe = to_toml(self.recipe)
        with claim_run(Path(out), recipe, force) as run, log_events(self.progress, run):
            return write_run(self, run, verify, force)

    @own_random()
    def export(self, path: str | Path) -> Path:
        """Write standard ONNX."""
        first = next(iter(take(self.data, 2)))
        marked = stitch(self.graph, self.assignment, marks=True)
        example = flat_example(self.graph, first.inputs)
        write_model(
            self.graph, marked, example, Path(path), self.target, self.recipe.opset, self.progress
        )
        return Path(path)

    @own_random()
    def verify(
        self, path: str | Path | None = None, dataset: Dataset | None = None
    ) -> Verification:
        """Run a file in its runtime against the simulation; without a path, one made for it."""
        if path is None:
            with tempfile.TemporaryDirectory() as folder:
                return self.verify(self.export(Path(folder) / rundir.ONNX), dataset)
        marked = stitch(self.graph, self.assignment, marks=True)
        with self.progress.stage("verify") as tick:
            batches = verification_batches(dataset or self.data, VERIFY_SAMPLES)
            asked = self.recipe.portable
            return judge_file(self.target, Path(path), self.graph, marked, batches, tick, asked)

    def report(self, path: str | Path, run: Staged | None = None) -> Path:
        """Write the self-contained report page."""
        sizes = run.sizes() if run is not None else {}
        page = render(
            recipe_of=self.recipe,
            metrics=self.measured(sizes),
            census=self.census,
            verified=run.read(rundir.VERIFY, Verification) if run is not None else None,
            new=run,
        )
        write_atomically(Path(path), page.encode())
        return Path(path)

    @own_random()
    def diagnose(self, dataset: Dataset | None = None) -> Findings:
        """At most three named causes of lost accuracy, each with its figure and what mends it.

        Args:
            dataset: samples to look at; the calibration data without.
        """
        network = self.graph, self.assignment
        return find_causes(network, dataset or self.data, self.recipe, self.progress)

    def measured(self, sizes: Mapping[str, int] = NO_FILES) -> Metrics:
        """metrics.json: accuracy, stages, sizes on disk, environment."""
        rows = self.table.chosen(self.allocation.choices)
        size = size_figures(Prices(self.graph, self.target), rows, sizes)
        return Metrics(
            **vars(self.metrics),
            stages=tuple(self.progress.stages),
            size=size,
            warnings=(*unread_notes(self.graph), *size_warnings(size, self.census.float_weights)),
            bops_ratio=_ratio(rows),
            environment=environment(),
        )


def write_run(
    result: Result, run: RunDirectory, verify: bool = True, force: bool = False
) -> RunDirectory:
    """Write all files of a run that this process has claimed; they appear together.

    A file that answers at random is written by `force` alone, as model.rejected.onnx.
    """
    with change(run, whole=True) as new:
        with result.progress.stage("save"):
            new.write(rundir.RECIPE, to_toml(result.recipe).encode())
            new.write_json(rundir.CENSUS, result.census)
            write_table(new[rundir.TABLE], result.table)
            if result.latency is not None:
                write_latencies(new[rundir.LATENCY], result.latency)
            others = {name: t for name, t in result.devices.items() if name != LATENCY}
            if others:
                new.write(rundir.DEVICES, format_devices(others).encode())
            new.write_json(rundir.ALLOCATION, result.allocation)
            save_packed(new[rundir.MODEL], result.graph, result.assignment)
        with result.progress.stage("export"):
            result.export(new[rundir.ONNX])
        result = time_finished(result, new[rundir.ONNX])
        result = replace(result, metrics=compare_with_proven(result.metrics, new[rundir.ONNX]))
        if verify:
            found = result.verify(new[rundir.ONNX])
            data, runtime = (result.data, VERIFY_SAMPLES), result.target.runtime
            found = find_rejection(found, new[rundir.ONNX], result.graph, data, runtime)
            found = put_aside(new, found, force, result.progress)
            new.write_json(rundir.VERIFY, found)
        new.write_json(rundir.METRICS, result.measured(new.sizes()))
        result.report(new[rundir.REPORT], new)
    return rundir.open_existing(run.path)


def time_finished(result: Result, path: Path) -> Result:
    """A result with what its finished file takes, where a budget bounds it."""
    before = result.metrics.latency
    if result.latency is None or before is None:
        return result
    example = flat_example(result.graph, next(iter(take(result.data, 2))).inputs)
    network = (result.graph, result.target, example)
    rows = result.table.chosen(result.allocation.choices)
    told = predict_time(result.latency, {row.unit: row.choice for row in rows})
    with result.progress.stage("time the file"):
        found = check_finished(path, network, result.recipe, told, before.rounds)
    if found is None:
        return result
    if not found.held:
        result.progress.note("time", f"{say_times(found)}: the budget is NOT HELD.")
    return replace(result, metrics=replace(result.metrics, latency=found))


@contextmanager
def log_events(progress: Progress, run: RunDirectory) -> Iterator[None]:
    """Log what happens inside to log.jsonl; first what happened before there was a folder."""
    listener = rundir.log_listener(run)
    if not run[rundir.LOG].exists():
        for stage in progress.stages:
            listener(Event("end", stage.name, seconds=stage.seconds))
    progress.listeners.append(listener)
    try:
        yield
    finally:
        progress.listeners.remove(listener)


def size_figures(prices: Prices, rows: list[Row], files: Mapping[str, int]) -> Sizes:
    """Sizes in bytes: the float tensors, the weights at their bits, the files on disk.

    The table's sizes hold a share of the rest of the file, which is no weight.
    """
    tensors = name_tensors(prices.graph.module)
    float_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
    weight_bytes = sum(-(-prices.weight_bits(row.unit, row.choice) // 8) for row in rows)
    packed = files.get(rundir.MODEL)
    return Sizes(
        float_bytes=float_bytes,
        weight_bytes=weight_bytes,
        file_bytes=packed,
        onnx_bytes=files.get(rundir.ONNX),
        ratio=None if packed is None else packed / float_bytes,
        weight_ratio=weight_bytes / max(sum(4 * row.params for row in rows), 1),
    )


def _ratio(rows: list[Row]) -> float:
    used = sum(row.bops for row in rows)
    return used / max(sum(row.macs * 32 * 32 for row in rows), 1)


def environment() -> Environment:
    """What a figure was measured with."""
    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        onnxruntime=onnxruntime.__version__,
        machine=platform.machine(),
        threads=torch.get_num_threads(),
        created=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    )
