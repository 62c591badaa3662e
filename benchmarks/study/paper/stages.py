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
from typing import Any

import torch

import bitwright as bw
from benchmarks.data import batches_of, network_of, parts_of
from benchmarks.study.paper.networks import KEEP, NETWORKS, Scale, test_data
from bitwright.allocation.table import Table
from bitwright.engine.progress import Progress
from bitwright.graph.choice import Choice
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.job import Job, capture_job, prepare, store_at
from bitwright.pipeline.plan import Plan as Meaning
from bitwright.pipeline.plan import choices_of, menu_of
from bitwright.pipeline.tabulate import solve_and_measure
from bitwright.sensitivity.table import Base
from bitwright.sources.data import as_dataset

Choices = Mapping[str, Choice]
IP, UNIFORM = "ip", "uniform"
SOLVERS = (IP, "greedy-accuracy", "greedy-compression")


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
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = _Study.of(root, plan, scale, Path(folder), store)
        return [row for budget in plan.budgets for row in work.rows(budget)]


@dataclass(frozen=True, eq=False)
class _Study:
    plan: Plan
    samples: Any
    base: Base
    table: Table
    test: Any
    float_answers: list[torch.Tensor]

    @classmethod
    def of(cls, root: Path, plan: Plan, scale: Scale, folder: Path, store: Path | None) -> _Study:
        network = NETWORKS[plan.network]
        options = {
            "target": "paper",
            "menu": plan.menu, "budget": plan.budgets[0], "keep": KEEP, "calib": scale.calib,
            "table_samples": scale.table_samples, "seed": plan.seed,
            "tune": ",".join(max(plan.trails, key=len)),
            "refine_method": plan.refine_method if "refine" in plan.steps else "",
        }  # fmt: skip
        meant = Meaning.of(make_recipe("light", options))
        torch.manual_seed(plan.seed)
        model = network_of(root, plan.network)
        data = as_dataset(batches_of(root, network.calibration))
        place, _, function = test_data(root, network, scale, folder).rpartition(":")
        test = batches_of(Path(place).parent, function, Path(place).stem)
        kept = store_at(store)
        job, graph = capture_job(Job(model, data, meant, model.example_inputs, store=kept))
        menu, base = menu_of(graph, meant), choices_of(graph, meant)
        seen = {name: tuple(dict.fromkeys((base[name], *menu[name]))) for name in menu}
        prepared = replace(prepare(job, graph, seen, Progress()), menu=menu)
        return cls(plan, prepared.samples, *solve_and_measure(job, prepared, Progress()), test, [])

    def rows(self, budget: str) -> Iterator[dict[str, object]]:
        """All ways to choose the bits, then the steps after the integer program."""
        for stage, choices in self._chosen(budget).items():
            start = self._stitched(choices)
            figures: dict[tuple[str, ...], Mapping[str, float]] = {(): self._figures(start)}
            yield self._row(budget, stage, choices, figures[()])
            if stage != IP:
                continue
            for trail in self.plan.trails:
                tuned = bw.tune(start, self.samples, trail)
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
            allocation = bw.allocate(self.table, budget, solver=solver)
            if allocation.rows is not None:
                found[solver] = dict(allocation.choices)
            if solver == IP and allocation.uniform is not None and UNIFORM in self.plan.beside:
                wanted = allocation.uniform.choice
                found[UNIFORM] = {
                    unit: wanted if wanted in self.base.menu[unit] else choice
                    for unit, choice in allocation.choices.items()
                }
        return found

    def _stitched(self, choices: Choices) -> bw.Configuration:
        solutions = self.base.solutions
        return bw.Configuration.of(solutions.work, solutions.solved, choices, solutions.edges)

    def _row(
        self, budget: str, stage: str, choices: Choices, figures: Mapping[str, float]
    ) -> dict[str, object]:
        name = budget.split("<=")[0]
        rows = [r for u in self.table.units for r in self.table.of(u) if r.choice == choices[u]]
        cost = sum(r.weight_bits if name == "size" else r.bops for r in rows)
        weights = sum(32 * r.params for r in rows)
        whole = weights if name == "size" else sum(1024 * r.macs for r in rows)
        return {"budget": budget, "stage": stage, "cost": cost / whole, **figures}

    def _figures(self, found: bw.Configuration) -> dict[str, float]:
        if not self.float_answers:
            self.float_answers.append(self._answers(self.base.graph.module))
        reference, scores = self.float_answers[0], self._answers(found.module())
        labels = torch.cat([labels for _, labels in self.test])
        answers = reference.argmax(-1)
        apart = torch.nn.functional.kl_div(
            scores.log_softmax(-1),
            reference.log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )
        return {
            "top1": float((scores.argmax(-1) == labels).double().mean()),
            "float_top1": float((answers == labels).double().mean()),
            "agreement": float((scores.argmax(-1) == answers).double().mean()),
            "kl": float(apart),
            "samples": len(labels),
        }

    def _answers(self, module: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([module(images) for images, _ in parts_of(self.test, 50)])


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
