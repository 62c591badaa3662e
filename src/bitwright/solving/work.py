"""What a solving run works on, and the problem of each of its units."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from bitwright.engine.device import is_host
from bitwright.engine.store import Entries, NullStore
from bitwright.engine.threads import count_cores
from bitwright.graph.activation import activation_of
from bitwright.graph.choice import Choice
from bitwright.graph.execute import Open, bind
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.placing import batches_on, graph_on
from bitwright.graph.simulate import sites_by_unit
from bitwright.graph.sites import Site
from bitwright.graph.target import Target
from bitwright.graph.units import bias_of
from bitwright.methods.problem import Method, UnitProblem, UnitSolution
from bitwright.numerics.affine import QParams
from bitwright.numerics.stats import TensorStats
from bitwright.solving.collect import Collector

# Unless more are asked for: each has a batch in memory.
MOST_THREADS = 8

Edges = dict[tuple[str, str], QParams]
Tick = Callable[[int], None]
Task = tuple[str, Choice]


@dataclass(frozen=True, eq=False)
class Work:
    """What a solving run works on.

    Attributes:
        graph: the captured network.
        menu: the choices to solve for each unit; float ones need no solving.
        grids: the input grids of each choice of a unit, one a call; None where it stays float.
        target, method, sites, stats: how, where and what was observed.
        batches: opens the calibration inputs, bound to the graph, in batches of `batch`.
        samples, batch, seed: of the calibration set and the run.
        count: how many batches there are; texts of many lengths make more, and smaller ones.
        by_output: choose input ranges at the units' own outputs.
        data: digest of the calibration data, for the store's keys.
        store: where solutions are kept.
        workers: processes for the parallel mode, threads for the sequential one; None: as many
            threads of this process as there are cores, in both, and eight at most.
        portable: solutions keep to what every processor's kernels can add up.
        device: where passes, sums and methods with data compute; `graph` stays on the host.
    """

    graph: ModelGraph
    menu: Mapping[str, tuple[Choice, ...]]
    grids: Mapping[Task, tuple[QParams | None, ...]]
    target: Target
    method: Method
    sites: tuple[Site, ...]
    stats: Mapping[str, TensorStats]
    batches: Open
    samples: int
    batch: int
    seed: int
    by_output: bool = False
    data: str = ""
    store: Entries = field(default_factory=NullStore)
    workers: int | str | None = None
    count: int = 0
    portable: bool = False
    device: str = "cpu"

    @cached_property
    def placed(self) -> ModelGraph:
        """The network where passes compute with it."""
        return graph_on(self.graph, self.device)

    @cached_property
    def placed_batches(self) -> Open:
        """The calibration inputs there."""
        return batches_on(self.placed, self.batches)

    @property
    def threads(self) -> int:
        """How many threads of this process there are for work that lets go of the lock."""
        return threads_of(self.workers, self.device)

    @property
    def processes(self) -> int | str:
        """Workers that jobs of the parallel mode are given to; 1: this process."""
        return 1 if self.workers is None or not is_host(self.device) else self.workers

    @property
    def passes(self) -> int:
        """How many batches a pass over the calibration set has."""
        return max(1, self.count or -(-self.samples // self.batch))

    @cached_property
    def sites_of(self) -> Mapping[str, list[Site]]:
        """The quantised edges into each unit."""
        return sites_by_unit(self.sites)

    def tasks(self) -> list[Task]:
        """Every (unit, choice) that must be solved, in the network's order."""
        return [
            (unit.name, choice)
            for unit in self.graph.units
            for choice in self.menu[unit.name]
            if not choice.is_float
        ]

    def shared_inputs(self, unit: Unit) -> bool:
        """Whether another operator reads the unit's input on the same grid, as chains do."""
        roots = {site.root for site in self.sites_of.get(unit.name, ())}
        return any(site.unit is None and site.root in roots for site in self.sites)

    def site(self, unit: Unit, call: int) -> Site | None:
        """The quantised edge into one call of a unit, if there is one."""
        found = (s for s in self.sites_of.get(unit.name, ()) if s.call == call)
        return next(found, None)


def threads_of(workers: int | str | None, device: str) -> int:
    """How many threads of this process compute, for workers as a run was given them."""
    if not is_host(device):
        return 1  # one queue of work
    if workers is None:
        return min(count_cores(), MOST_THREADS)
    return workers if isinstance(workers, int) else 1


def problem_of(
    work: Work,
    unit: Unit,
    choice: Choice,
    inputs: tuple[QParams | None, ...],
    rows: Collector | None,
    sample_count: int = 0,
) -> UnitProblem:
    """What the method sees of a unit, its rows included, and of how many samples they are."""
    made = problem(work.graph, unit, choice, work.target, inputs, work.seed, work.method.name)
    made = replace(
        made,
        activation=activation_of(work.graph, unit),
        free_inputs=len(unit.products) == 1 and not work.shared_inputs(unit),
        input_means=_input_means(work, unit),
        tied=unit.tied,
        portable=work.portable,
    )
    if rows is None or _biases_differ(work.graph, unit):
        return made
    sums = rows.sums[inputs_key(inputs)]
    fit, apart = rows.samples()
    return replace(
        made,
        gram=sums.fit or sums.apart,
        held_out=sums.apart,
        samples=fit or apart,
        samples_apart=apart,
        sample_count=sample_count,
    )


def _input_means(work: Work, unit: Unit) -> tuple[float | None, ...]:
    """The mean of what each call gets, from the statistics of its edge."""
    sites = [work.site(unit, call) for call in range(len(unit.calls))]
    stats = [None if site is None else work.stats.get(site.root) for site in sites]
    return tuple(None if s is None else s.moments.mean for s in stats)


def _biases_differ(graph: ModelGraph, unit: Unit) -> bool:
    """Whether calls of one weight add a bias each: there is no one bias to solve for."""
    nodes = graph.nodes()
    return unit.bias is None and any(bias_of(nodes[call]) is not None for call in unit.calls)


def inputs_key(inputs: tuple[QParams | None, ...]) -> tuple[tuple[float, ...] | None, ...]:
    """Input grids as a plain value: choices with equal ones share their sums."""
    return tuple(
        None
        if qp is None
        else (qp.grid.bits, float(qp.scale), int(qp.zero_point), *([qp.block] if qp.block else []))
        for qp in inputs
    )


def edges_into(work: Work, unit: Unit, solution: UnitSolution) -> Edges:
    """The grids that a solution asks for on the edges into its unit."""
    found: Edges = {}
    for site in work.sites_of.get(unit.name, ()):
        grid = solution.inputs[site.call] if site.call < len(solution.inputs) else None
        if grid is not None:
            found[site.source, site.reader] = replace(grid, dynamic=work.target.dynamic)
    return found


def bind_batches(graph: ModelGraph, batches: Callable[[], Iterator[Any]]) -> Open:
    """Batches of inputs as the graph's flat inputs."""

    def walk() -> Iterator[Any]:
        for inputs in batches():
            yield bind(graph, inputs)

    return walk


def problem(
    graph: ModelGraph,
    unit: Unit,
    choice: Choice,
    target: Target,
    inputs: tuple[QParams | None, ...],
    seed: int,
    method: str = "",
) -> UnitProblem:
    """What a method sees of one unit."""
    text = f"{seed}|{unit.name}|{choice}|{method}"
    own_seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return UnitProblem(
        unit=unit,
        name=unit.name,
        kind=unit.kind,
        weight=graph.tensor(unit.weight),
        bias=graph.tensor(unit.bias) if unit.bias else None,
        channel_axis=unit.channel_axis,
        groups=unit.groups,
        choice=choice,
        grid=target.weight_grid(choice.sum_bits),
        symmetric=target.weight_symmetric,
        per_channel=target.weight_per_channel,
        inputs=inputs,
        seed=own_seed,
    )
