"""What a run will take, stage by stage, told before any work: from a probe of this machine."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.engine.limits import LIMITS
from bitwright.engine.memory import resident_bytes
from bitwright.engine.record import Record
from bitwright.engine.threads import count_cores
from bitwright.export.verify import PLAIN_SAMPLES
from bitwright.graph.choice import Menus
from bitwright.graph.execute import Flat
from bitwright.graph.live_memory import activation_peak, value_sizes
from bitwright.graph.model_graph import ModelGraph, Unit, name_tensors
from bitwright.graph.rows import solvable
from bitwright.graph.sites import Site
from bitwright.methods.problem import Needs
from bitwright.methods.quadratic import WIDE
from bitwright.pipeline.pace import Pace
from bitwright.pipeline.plan import Plan, menu_of
from bitwright.recipe.names import QUICK
from bitwright.solving.collect import ROWS, ROWS_OF_GROUP, ROWS_PER_INPUT
from bitwright.solving.passes import count_walks
from bitwright.solving.work import MOST_THREADS, Work
from bitwright.tuning.catalogue import ABOUT

# Fitted to runs of `python -m benchmarks.guards.forecast` by processor time, one thread each.
# A unit's solving: once, by the group, by the weight, by C N^2 and by N^3; wide units, which rest
# sooner, take a part of the sweeps. And the same where no data are asked.
SOLVE_S, SOLVE_GROUP_S, SOLVE_WEIGHT_S = 0.018, 6e-5, 1.3e-6
SOLVE_SWEEP_S, SOLVE_FACTOR_S, WIDE_SHARE = 1.1e-9, 4e-11, 0.4
NEAREST_S, NEAREST_WEIGHT_S = 0.002, 4e-7
# A method of gradients: for each of a unit's weights and once a unit.
GRADIENT_WEIGHT_S, GRADIENT_S = 2.6e-5, 0.2
# Of a forward pass of the float network: ONNX Runtime with its optimisations, and without.
RUNTIME, PLAIN = 0.3, 4.0
# What a file takes to be written, by the node, and what its check takes beside the passes, by the
# unit.
EXPORT_S, EXPORT_NODE_S, VERIFY_S, VERIFY_UNIT_S = 1.5, 0.04, 1.0, 0.2
# Forward passes that a backward pass is worth, and what tuning does of either.
BACKWARD_PASSES, FORWARD_PASSES = 20.0, 5.0
VERIFIED = 1000
# What stages hold beside what is there when they begin: copies of the widest cut of a batch in the
# float network, and copies of all weights; the libraries of the solver and of the export.
OBSERVE_CUTS, SOLVE_CUTS, EVALUATE_CUTS, VERIFY_CUTS = 2.0, 1.5, 2.0, 3.0
SOLVED_WEIGHTS, EXPORTED_WEIGHTS, VERIFIED_WEIGHTS = 2.0, 5.0, 4.0
SOLVER_MB, EXPORT_MB = 60.0, 100.0
MB = 1e6


@dataclass(frozen=True, eq=False, kw_only=True)
class StageOutlook(Record):
    """A stage before it runs.

    Attributes:
        name: as the run calls it.
        processor_s: of one thread.
        seconds: of the clock, on the cores there are and with what else they do now.
        peak_mb: what the process holds at most.
    """

    name: str
    processor_s: float
    seconds: float
    peak_mb: float


@dataclass(frozen=True, eq=False)
class Outlook:
    """A run before it runs: its stages, and all of them together."""

    samples: int
    stages: tuple[StageOutlook, ...]

    @property
    def processor_s(self) -> float:
        """Processor seconds of all stages."""
        return sum(stage.processor_s for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Seconds of the clock of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def peak_mb(self) -> float:
        """The most that any stage holds."""
        return max((stage.peak_mb for stage in self.stages), default=0.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """What an outlook looks at.

    Attributes:
        graph: the captured network.
        sites: the edges that its target would quantise.
        flat: a batch of inputs, of as many samples as a run takes at once.
        pace: of this machine.
        read: processor seconds that reading a sample takes.
        labelled: how many samples --eval has; 0 without.
        workers: threads of the stages that can use them; None: as a run takes by itself.
    """

    graph: ModelGraph
    sites: tuple[Site, ...]
    flat: Flat
    pace: Pace
    read: float = 0.0
    labelled: int = 0
    workers: int | None = None

    @property
    def threads(self) -> int:
        """How many threads solve."""
        return self.workers or min(count_cores(), MOST_THREADS)


def foretell(scene: Scene, plan: Plan, samples: int) -> Outlook:
    """The stages of a run on so many samples."""
    spent = _processor_seconds(scene, plan, samples)
    peaks = _peaks(scene, plan, samples)
    backward = plan.method.needs.backward
    load = scene.pace.load
    stages = []
    for name, seconds in spent.items():
        shared = scene.threads if _uses_threads(name, plan, backward) else 1
        stages.append(
            StageOutlook(
                name=name, processor_s=seconds, seconds=load * seconds / shared, peak_mb=peaks[name]
            )
        )
    return Outlook(samples, tuple(stages))


def _uses_threads(stage: str, plan: Plan, backward: bool) -> bool:
    """Whether a stage's work is shared out: what runs whole passes is, by torch or by us."""
    if stage in ("solve", "solve the menu"):
        return plan.sequential or not backward
    return stage in ("observe", "evaluate") or stage.startswith("tune")


def _processor_seconds(scene: Scene, plan: Plan, samples: int) -> dict[str, float]:
    pace = scene.pace
    nodes = len(scene.graph.module.graph.nodes)
    found = {"observe": samples * (pace.observe + scene.read)}
    menu = menu_of(scene.graph, plan)
    if plan.menu:
        found |= _menu_seconds(scene, plan, samples, menu)
    one = {unit.name: menu[unit.name][:1] for unit in scene.graph.units}
    if not plan.menu or plan.sequential:
        found["solve"] = _solve_seconds(scene, plan, samples, one)
    for step in plan.tune:
        known = ABOUT.get(step) if isinstance(step, str) else None
        name = step if isinstance(step, str) else step.name
        passes = BACKWARD_PASSES if known and known.backward else FORWARD_PASSES
        found[f"tune {name}"] = passes * samples * pace.quantised
    judged = scene.labelled or samples
    found["evaluate"] = judged * (pace.forward + pace.quantised + scene.read)
    found["export"] = EXPORT_S + EXPORT_NODE_S * nodes
    verified, plain = min(samples, VERIFIED), min(samples, PLAIN_SAMPLES)
    each = pace.forward + pace.quantised + RUNTIME * pace.forward + scene.read
    found["verify"] = VERIFY_S + VERIFY_UNIT_S * len(scene.graph.units)
    found["verify"] += verified * each + plain * PLAIN * pace.forward
    return found


def _menu_seconds(scene: Scene, plan: Plan, samples: int, menu: Menus) -> dict[str, float]:
    recipe, choices = plan.recipe, sum(map(len, menu.values()))
    measured = min(samples, recipe.table_samples or samples)
    per = scene.pace.quantised + scene.read
    runs = len(scene.graph.units) + 4 if recipe.table == QUICK else choices
    return {
        "solve the menu": _solve_seconds(scene, plan, samples, menu, parallel=True),
        # A choice is measured on what lies behind its unit: half the network, on average.
        "table": measured * runs / 2 * per,
    }


def _solve_seconds(
    scene: Scene, plan: Plan, samples: int, menu: Menus, parallel: bool = False
) -> float:
    needs, pace = plan.method.needs, scene.pace
    units = scene.graph.units
    tasks = [(u, c) for u in units for c in menu[u.name] if not c.is_float]
    own = pace.solver * sum(_unit_seconds(u, needs) for u, _ in tasks)
    if not needs.data:
        return own
    if plan.sequential and not parallel:
        work = _as_work(scene, plan, samples, menu)
        both = {n: 2 * s + pace.quantisers.get(n, 0.0) for n, s in pace.nodes.items()}
        walked = count_walks(work, both)
        passes = walked.cost + walked.read * scene.read
    else:
        passes = samples * (pace.forward + scene.read)
    sums = 0.0
    for unit in {u.name: u for u, _ in tasks}.values():
        inputs = len({c.a_bits for c in menu[unit.name] if not c.is_float})
        per_sample, per_row = pace.sums.get(unit.name, (0.0, 0.0))
        sums += inputs * (samples * per_sample + _rows_of(unit, samples) * per_row)
    return own + passes + sums


def _rows_of(unit: Unit, samples: int) -> float:
    """Rows that enter a unit's sums: by need, of what the samples have."""
    inputs = unit.params // max(unit.shape[unit.channel_axis], 1)
    need = max(ROWS if unit.groups == 1 else ROWS_OF_GROUP, ROWS_PER_INPUT * inputs)
    return min(need, samples * max(1, unit.positions))


def _unit_seconds(unit: Unit, needs: Needs) -> float:
    """Solving one choice of one unit, where the pace was fitted."""
    channels = unit.shape[unit.channel_axis] // max(unit.groups, 1)
    inputs = unit.params // max(unit.shape[unit.channel_axis], 1)
    if not needs.data or not solvable(unit):
        return NEAREST_S + NEAREST_WEIGHT_S * unit.params
    if needs.backward:
        return GRADIENT_S + GRADIENT_WEIGHT_S * unit.params
    products = channels * inputs**2
    sweep = SOLVE_SWEEP_S * products * (WIDE_SHARE if products >= WIDE else 1.0)
    group = SOLVE_GROUP_S + sweep + SOLVE_FACTOR_S * inputs**3
    return SOLVE_S + SOLVE_WEIGHT_S * unit.params + unit.groups * group


def _as_work(scene: Scene, plan: Plan, samples: int, menu: Menus) -> Work:
    """A work as far as counting its passes asks for it."""
    return Work(
        graph=scene.graph, menu=menu, grids={}, target=plan.target, method=plan.method,
        sites=scene.sites, stats={}, batches=lambda: iter((scene.flat,)), samples=samples,
        batch=plan.recipe.batch, seed=0,
    )  # fmt: skip


def _peaks(scene: Scene, plan: Plan, samples: int) -> dict[str, float]:
    """MB that the process holds at most in each stage."""
    graph = scene.graph
    batch = min(plan.recipe.batch, samples)
    cut = activation_peak(graph, value_sizes(graph, scene.flat), {}).size * batch / MB
    weights = sum(t.numel() * t.element_size() for t in name_tensors(graph.module).values()) / MB
    here = resident_bytes() / MB
    solve = here + SOLVER_MB + SOLVED_WEIGHTS * weights
    needs, threads = plan.method.needs, scene.threads
    if needs.data:
        solve += _sums_mb(graph, needs) + SOLVE_CUTS * cut * (1 if needs.backward else threads)
    if plan.sequential:
        solve += min(LIMITS.sequential_cut / MB, 2 * cut * samples / batch)
    elif needs.data:
        solve += min(LIMITS.sums / MB, sum(_sum_bytes(u) for u in graph.units) / MB)
    others = {
        "observe": here + OBSERVE_CUTS * cut,
        "evaluate": here + EVALUATE_CUTS * cut + SOLVED_WEIGHTS * weights,
        "export": here + EXPORT_MB + EXPORTED_WEIGHTS * weights,
        "verify": here + EXPORT_MB + VERIFY_CUTS * cut + VERIFIED_WEIGHTS * weights,
        "table": here + 2 * EVALUATE_CUTS * cut + SOLVED_WEIGHTS * weights,
        "solve": solve,
        "solve the menu": solve,
    }
    tuned = {f"tune {s if isinstance(s, str) else s.name}": solve for s in plan.tune}
    return others | tuned


def _sums_mb(graph: ModelGraph, needs: Needs) -> float:
    """The sums of the widest unit: to fit, apart, and as the solver turns them; its rows."""
    widest = max((_sum_bytes(unit) for unit in graph.units), default=0)
    return 4 * widest / MB + (LIMITS.rows_of_a_unit / MB if needs.rows else 0.0)


def _sum_bytes(unit: Unit) -> int:
    inputs = unit.params // max(unit.shape[unit.channel_axis], 1)
    return 4 * unit.groups * inputs * inputs if solvable(unit) else 0
