"""Latency on this machine: networks of a menu's choices exported, timed, and put into a table."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from bitwright.allocation.latency_table import LatencyTable, predict
from bitwright.engine.progress import Progress
from bitwright.errors import RecipeError
from bitwright.export.onnx_file import export_onnx, unit_values
from bitwright.graph.choice import Choice, Menus
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.observe import observe
from bitwright.graph.simulate import stitch
from bitwright.graph.sites import find_sites
from bitwright.graph.target import Target
from bitwright.latency.attribution import owners_of
from bitwright.latency.designs import Design, mixtures, plan, tabulate
from bitwright.latency.time_here import Timing
from bitwright.latency.timing import ExportedFile, conditions_here, time_files
from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import UnitSolution, store_in_points
from bitwright.numerics.ranges import range_rule
from bitwright.solving.assembly import assemble
from bitwright.solving.grids import active_sites, input_grids
from bitwright.solving.work import problem

# Speed does not depend on the numbers: the cheapest ranges and rounding do.
_RANGE = "minmax"
_MOST = {"batch": 1_000_000, "threads": 1_024, "repetitions": 100_000, "checks": 1_000}


@dataclass(frozen=True)
class TimingSettings:
    """How latency is measured.

    Attributes:
        batch: samples in a run; where the network fixes its batch, that is taken.
        threads: of ONNX Runtime.
        repetitions: of every network, by turns.
        checks: random mixtures of the menu that are timed too, to check predictions on.
    """

    batch: int = 1
    threads: int = 1
    repetitions: int = 25
    checks: int = 2

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("batch", "threads", "repetitions"):
            if getattr(self, name) < 1:
                raise RecipeError(f"--{name} {getattr(self, name)} makes no sense. Give 1 or more.")
        if self.checks < 0:
            raise RecipeError(f"--checks {self.checks} makes no sense. Give 0 or more.")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise RecipeError(
                    f"--{name} {getattr(self, name)} is too many. Give at most {most}."
                )


@dataclass(frozen=True)
class Check:
    """A whole network, as the table predicts it and as it was timed, in milliseconds."""

    design: Design
    predicted: float
    measured: float

    @property
    def label(self) -> str:
        """What the network is called."""
        return self.design.label

    @property
    def error(self) -> float:
        """Relative to what was measured."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, eq=False)
class MeasuredLatency:
    """A table of latencies, and how well it predicts whole networks.

    `uniform` are the networks of one choice each, which the table was made from; `checks` are
    mixtures that it was not made from.
    """

    table: LatencyTable
    uniform: tuple[Check, ...]
    checks: tuple[Check, ...]


def menu_for(graph: ModelGraph, target: Target, choices: Sequence[Choice]) -> Menus:
    """The same choices for every unit; without input bits where inputs stay float."""
    weights = tuple(dict.fromkeys(replace(c, a_bits=0) for c in choices))
    return {
        unit.name: tuple(choices) if target.inputs and not unit.weight_only else weights
        for unit in graph.units
    }


def latencies(
    graph: ModelGraph,
    target: Target,
    menu: Menus,
    example: tuple[Tensor, ...],
    settings: TimingSettings | None = None,
    progress: Progress | None = None,
) -> MeasuredLatency:
    """Time every unit at every choice in ONNX Runtime on this machine.

    Args:
        graph: the captured network.
        target: what is quantised, and how.
        menu: the choices of every unit.
        example: a few samples, as `export.samples.flat_example` gives them; their values matter
            only where the network's work depends on them.
        settings: batch, threads, repetitions.
        progress: told of the stages.

    Returns:
        The table; `predict(table, choices)` is for a network.

    Raises:
        CaptureError: a network cannot be exported.
        InputError: ONNX Runtime refuses one.
    """
    asked = settings or TimingSettings()
    made = plan(menu)
    extra = mixtures(menu, asked.checks)
    networks = {design: design.choices for design in (*made.designs, *extra)}
    timings = time_networks(graph, target, example, networks, asked, progress)
    conditions = conditions_here(target.name, asked.batch, asked.threads)
    table = tabulate(made, timings, conditions)

    def check(design: Design) -> Check:
        return Check(design, predict(table, design.choices), timings[design].ms)

    return MeasuredLatency(table, tuple(map(check, made.designs)), tuple(map(check, extra)))


def time_networks(
    graph: ModelGraph,
    target: Target,
    example: tuple[Tensor, ...],
    networks: Mapping[Any, Mapping[str, Choice]],
    settings: TimingSettings,
    progress: Progress | None = None,
) -> dict[Any, Timing]:
    """Time whole networks, each with the choice of every unit, in turns.

    A configuration that a search found can be timed by this as it will be deployed.
    """
    told = progress or Progress()
    with tempfile.TemporaryDirectory() as folder:
        files: dict[Any, ExportedFile] = {}
        with told.stage("export", len(networks)) as tick:
            write = file_writer(graph, target, example)
            for index, (key, choices) in enumerate(networks.items()):
                files[key] = write(choices, Path(folder) / f"{index}.onnx")
                tick(index + 1)
        feed = feed_of(graph, example, settings.batch)
        with told.stage("time", len(files) * settings.repetitions) as tick:
            return time_files(files, feed, settings.threads, settings.repetitions, tick)


def file_writer(
    graph: ModelGraph, target: Target, example: tuple[Tensor, ...]
) -> Callable[[Mapping[str, Choice], Path], ExportedFile]:
    """A function that exports the network at given choices, rounded to nearest."""
    every = find_sites(graph, target)
    stats = observe(graph, [example], {site.root for site in every}).stats if every else {}
    rule, rounding = range_rule(_RANGE), Nearest(_RANGE)

    def write(choices: Mapping[str, Choice], path: Path) -> ExportedFile:
        sites = active_sites(every, graph, choices)
        edges = input_grids(sites, stats, choices, target, rule)
        places = {(s.unit, s.call): (s.source, s.reader) for s in sites}
        solved: dict[str, UnitSolution] = {}
        for unit in graph.units:
            choice = choices[unit.name]
            if not choice.is_float:
                calls = range(len(unit.calls))
                grids = tuple(edges.get(places.get((unit.name, c), ("", ""))) for c in calls)
                made = problem(graph, unit, choice, target, grids, seed=0)
                solved[unit.name] = store_in_points(rounding.solve(made), made.choice)
        module = stitch(graph, assemble(graph, solved, edges, target), marks=True)
        export_onnx(graph, module, example, path, target)
        model = onnx.load(str(path))
        return ExportedFile(path, owners_of(model, unit_values(model), graph.units))

    return write


def feed_of(graph: ModelGraph, example: tuple[Tensor, ...], batch: int) -> dict[str, np.ndarray]:
    """The example as ONNX Runtime's inputs, its samples repeated to a batch where that is free."""
    found = {}
    for spec, tensor in zip(graph.inputs, example, strict=True):
        if spec.shape and spec.shape[0] is None:
            tensor = torch.cat([tensor] * -(-batch // tensor.shape[0]))[:batch]
        found[spec.label] = tensor.contiguous().numpy()
    return found
