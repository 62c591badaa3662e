"""One solved menu, many budgets, every stage of the pipelines: what each stage brings.

The menu of a network is solved once and its table measured once. At every budget the bits are
chosen in four ways, and what the integer program chose goes through the tuning of the pipelines,
one step after the other; after every step the network is run on the labelled data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.study.paper.networks import KEEP, NETWORKS, Scale, test_data
from bitwright.allocation.allocate import IP, SOLVERS, allocate
from bitwright.allocation.table import Table
from bitwright.engine.memory import keep_heap
from bitwright.engine.progress import Progress
from bitwright.evaluation.compare import compare
from bitwright.evaluation.forward import forward_of
from bitwright.evaluation.metrics import metric
from bitwright.graph.choice import Choice
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.job import Job, captured, prepare, store_at
from bitwright.pipeline.plan import Plan as Meaning
from bitwright.pipeline.plan import choices_of, menu_of
from bitwright.pipeline.run import tune_job
from bitwright.pipeline.tabulate import measured_menu
from bitwright.sensitivity.table import Base
from bitwright.solving import Configuration
from bitwright.sources.batches import Dataset, rebatch
from bitwright.sources.data import load_data
from bitwright.sources.models import load_model

Choices = Mapping[str, Choice]
UNIFORM = "uniform"


@dataclass(frozen=True)
class Plan:
    """What is measured: a network's menu, budgets, tuning steps, and the seed.

    `trails` are sequences of tuning steps, each run from what the integer program chose; `beside`
    are the ways to choose the bits that stand beside it.
    """

    network: str
    menu: str
    budgets: tuple[str, ...]
    seed: int = 0
    trails: tuple[tuple[str, ...], ...] = (("bn",), ("bn", "bias"))
    beside: tuple[str, ...] = (*SOLVERS[1:], UNIFORM)
    refine_method: str = "quadratic"

    @property
    def steps(self) -> str:
        """All trails in few words: those that others begin with are left out."""
        whole = [
            trail
            for trail in self.trails
            if not any(o != trail and o[: len(trail)] == trail for o in self.trails)
        ]
        return "|".join("+".join(trail) for trail in whole)


def measured(root: Path, plan: Plan, scale: Scale, store: Path | None) -> list[dict[str, object]]:
    """A row for every budget and stage."""
    keep_heap()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = _Study.of(root, plan, scale, Path(folder), store)
        return [row for budget in plan.budgets for row in work.rows(budget)]


@dataclass(frozen=True, eq=False)
class _Study:
    plan: Plan
    job: Job
    base: Base
    table: Table
    test: Dataset
    float_answers: list[torch.Tensor]

    @classmethod
    def of(cls, root: Path, plan: Plan, scale: Scale, folder: Path, store: Path | None) -> _Study:
        network = NETWORKS[plan.network]
        options = {
            "menu": plan.menu, "budget": plan.budgets[0], "keep": KEEP, "calib": scale.calib,
            "table_samples": scale.table_samples, "seed": plan.seed,
            "tune": ",".join(max(plan.trails, key=len)),
            "refine_method": plan.refine_method if "refine" in plan.steps else "",
        }  # fmt: skip
        meant = Meaning.of(make_recipe("light", options))
        torch.manual_seed(plan.seed)
        loaded = load_model(f"{root}/models.py:{plan.network}")
        data = load_data(f"{root}/loaders.py:{network.calibration}")
        test = load_data(test_data(root, network, scale, folder))
        kept = store_at(store)
        job, graph = captured(Job(loaded.module, data, meant, loaded.example_inputs, store=kept))
        menu, base = menu_of(graph, meant), choices_of(graph, meant)
        seen = {name: tuple(dict.fromkeys((base[name], *menu[name]))) for name in menu}
        prepared = replace(prepare(job, graph, seen, Progress()), menu=menu)
        return cls(plan, job, *measured_menu(job, prepared, Progress()), test, [])

    def rows(self, budget: str) -> Iterator[dict[str, object]]:
        """All ways to choose the bits, then the steps after the integer program."""
        for stage, choices in self._chosen(budget).items():
            start = self._stitched(choices)
            figures: dict[tuple[str, ...], Mapping[str, float]] = {(): self._figures(start)}
            yield self._row(budget, stage, choices, figures[()])
            if stage != IP:
                continue
            for trail in self.plan.trails:
                tuned_by = replace(self.job.recipe, tune=",".join(trail))
                job = replace(self.job, plan=self.job.plan.under(tuned_by))
                tuned = tune_job(job, self.base.prepared, start, Progress())
                # Steps that were undone leave the network as it was: it is not run again.
                kept = tuple(report.stage for report in tuned.reports if report.kept)
                if kept not in figures:
                    figures[kept] = self._figures(tuned.configuration)
                yield self._row(budget, " + ".join((IP, *trail)), choices, figures[kept])

    def _chosen(self, budget: str) -> dict[str, Choices]:
        found = {}
        for solver in SOLVERS:
            if solver not in (IP, *self.plan.beside):
                continue
            allocation = allocate(self.table, budget, solver=solver)
            if allocation.rows is not None:
                found[solver] = dict(allocation.choices)
            if solver == IP and allocation.uniform is not None and UNIFORM in self.plan.beside:
                wanted = allocation.uniform.choice
                found[UNIFORM] = {
                    unit: wanted if wanted in self.base.prepared.menu[unit] else choice
                    for unit, choice in allocation.choices.items()
                }
        return found

    def _stitched(self, choices: Choices) -> Configuration:
        solutions = self.base.solutions
        return Configuration.of(solutions.work, solutions.solved, choices, solutions.edges)

    def _row(
        self, budget: str, stage: str, choices: Choices, figures: Mapping[str, float]
    ) -> dict[str, object]:
        name = budget.split("<=")[0]
        rows = [r for u in self.table.units for r in self.table.of(u) if r.choice == choices[u]]
        cost = sum(r.weight_bits if name == "size" else r.bops for r in rows)
        weights = sum(32 * r.params for r in rows)
        whole = weights if name == "size" else sum(1024 * r.macs for r in rows)
        return {"budget": budget, "stage": stage, "cost": cost / whole, **figures}

    def _figures(self, found: Configuration) -> dict[str, float]:
        graph = self.base.prepared.graph
        quantized = forward_of(graph, found.module())
        if not self.float_answers:
            plain = forward_of(graph, graph.module)
            with torch.no_grad():
                self.float_answers.extend(plain(b.inputs) for b in rebatch(self.test, 50))
        known = iter(self.float_answers)
        batches = rebatch(self.test, 50)
        seen = compare(lambda _: next(known), quantized, batches, metric("top1"))
        return {
            "top1": seen["quantized"]["top1"],
            "float_top1": seen["float"]["top1"],
            "agreement": seen["agreement"],
            "kl": seen["kl"],
            "samples": seen["samples"],
        }


def identity(plan: Plan) -> dict[str, object]:
    """What tells one plan's rows from another's."""
    return {
        "network": plan.network,
        "menu": plan.menu,
        "seed": plan.seed,
        "steps": plan.steps,
        "budgets": ";".join(plan.budgets),
    }


IDENTITY: Sequence[str] = ("network", "menu", "seed", "steps", "budgets")
