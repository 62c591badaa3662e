"""Weights as sums of low-bit tensors: errors of units, agreement at the least BOPs, frontiers.

    python -m benchmarks.study.multipoint --data-root DIR [--only resnet20 ...]
                                    [--parts errors agreement frontiers] [--calib 512] [--test 2000]
                                    [--table-samples 256] [--blends 6] [--budgets 6]
                                    [--units NAME ...]

errors      Every unit at 2, 3 and 4 bits and 1 to 4 points: squared output error, relative to the
            output's energy, on calibration rows that were not solved on; inputs in float, so that
            the weights alone are judged. Beside it the sum rounded to nearest, and the literature's
            greedy points, each fitted to what is left with a scale of its own in closed form.
agreement   Nothing but 4-bit weight tensors, and nothing but 2-bit ones, inputs at 8 bits: the
            least BOPs found at which held-out calibration rows agree with float at least 99.9 %
            as often as those of w8a8; then both on the test set. Networks are sure of images like
            those that they were trained on, and nearly any rounding agrees there: means of two
            held-out images, of which networks are unsure, are rows as well. Counts of few answers
            that differ are noise: what is compared is the expected number, see `expected_same`.
frontiers   The menu of a device that has 2 and 4 bits, with and without points, at equal BOPs on
            the test set; and the picture.

Choices whose sums have the same bits (w2a8x2 and w4a8) have the same grid, so the same solution
and the same cost; each such sum is solved and measured once and stands in the table under all its
names. One tensor of 8 bits is solved apart in the errors: two points of 4 are compared with it.

Solutions are kept in --store and taken up again. Writes benchmarks/results/multipoint_*.csv,
docs/measured/multipoint_NETWORK.svg and the figures of docs/measured/multipoint.md.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from benchmarks.tables import MEASURED, RESULTS
from bitwright.allocation.allocate import allocate
from bitwright.allocation.budget import Budget
from bitwright.allocation.cost import bops
from bitwright.allocation.frontier import trace
from bitwright.allocation.table import Table, make_table, write_table
from bitwright.engine.memory import keep_heap
from bitwright.engine.progress import Progress
from bitwright.evaluation.forward import forward_of
from bitwright.graph.choice import Choice, parse_menu
from bitwright.graph.rows import weight_rows
from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import UnitProblem, UnitSolution
from bitwright.methods.quadratic import QuadraticSolver
from bitwright.numerics.affine import dequantize, quantize
from bitwright.numerics.gram import Gram
from bitwright.numerics.grid import Grid
from bitwright.numerics.losses import kl_divergence
from bitwright.numerics.ranges import range_rule, weight_qparams
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.job import Job, capture_network, prepare, store_at, work_on
from bitwright.pipeline.lossless import Agreement, Search
from bitwright.pipeline.plan import Plan, choices_of, menu_of
from bitwright.pipeline.tabulate import measured_menu
from bitwright.report.chart import draw
from bitwright.sensitivity.table import Base
from bitwright.solving import solve
from bitwright.sources.batches import rebatch, take
from bitwright.sources.data import load_data
from bitwright.sources.models import load_model

DATA = {
    "resnet20": ("cifar_calib", "cifar_test_jpeg"),
    "resnet56": ("cifar_calib", "cifar_test_jpeg"),
    "efficientnet_lite0": ("lite0_calib", "lite0_val"),
}
PARTS = ("errors", "agreement", "frontiers")
POINTS = "w2afloatx{1..4},w3afloatx{1..4},w4afloatx{1..4},w8afloat"
MENU = "w2a8x{1..4},w4a8x{1..3},w8a8"
SUMS = {2: Choice(2, 8), 4: Choice(4, 8), 6: Choice(2, 8, 3), 8: Choice(8, 8), 12: Choice(4, 8, 3)}
SHARE_OF_W8 = 0.999
PAGE = MEASURED / "multipoint.md"
START, END = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    root: Path
    store: Path
    calib: int
    test: int
    table_samples: int
    blends: int
    budgets: int
    units: frozenset[str]


def job_of(asked: Asked, network: str, menu: str) -> Job:
    """A job whose calibration rows are parted; `lossless` does that."""
    options = {
        "menu": menu,
        "lossless": 1 - SHARE_OF_W8,
        "method": "quadratic",
        "mode": "parallel",
        "calib": asked.calib,
        "table_samples": asked.table_samples,
    }
    plan = Plan.of(make_recipe("fixed", options))
    loaded = load_model(f"{asked.root}/models.py:{network}")
    data = load_data(f"{asked.root}/loaders.py:{DATA[network][0]}")
    return Job(loaded.module, data, plan, loaded.example_inputs, store=store_at(asked.store))


# ---- errors of units -------------------------------------------------------------------------


def residual_points(weight: Tensor, bits: int, points: int, axis: int) -> Tensor:
    """Greedy points with free scales: each rounds what is left, then all scales are fitted anew.

    Equation: q_i = nearest(W - sum_{j<i} s_j k_j), then min over s of ||W - sum_j s_j k_j||^2 for
    each channel.
    Reference: Liu et al., arXiv 2002.09049, section 3, with the scales in closed form.
    """
    rows = weight.movedim(axis, 0).reshape(weight.shape[axis], -1).double()
    left, found = rows, rows.new_zeros(rows.shape[0], 0, rows.shape[1])
    for _ in range(points):
        qp = weight_qparams(left.float(), Grid(bits), 0, range_rule("mse"), False)
        k = (quantize(left.float(), qp).to(torch.int32) - qp.zero_point).double()
        found = torch.cat([found, k[:, None]], 1)
        eye = 1e-9 * torch.eye(found.shape[1], dtype=found.dtype)
        scales = torch.linalg.solve(found @ found.mT + eye, found @ rows[..., None])
        left = rows - (found * scales).sum(1)
    back = (rows - left).float().reshape(weight.movedim(axis, 0).shape)
    return back.movedim(0, axis)


@dataclass(frozen=True)
class Audited:
    """The quadratic solver; notes the output error of every solution and of two others.

    A grid that was seen before under another number of points has the solution that is known.
    """

    rows: list[dict[str, object]]
    inner: QuadraticSolver
    only: frozenset[str]
    known: dict[tuple[str, int, bool], tuple[UnitSolution, UnitSolution]] = field(
        default_factory=dict
    )
    name: str = "quadratic"

    @property
    def needs(self):
        return self.inner.needs

    def configured(self, weight_range: str) -> Audited:
        return replace(self, inner=self.inner.configured(weight_range))

    def solve(self, problem: UnitProblem) -> UnitSolution:
        if self.only and problem.name not in self.only:
            return Nearest("minmax").solve(problem)
        bits, points = problem.choice.w_bits, problem.choice.points
        key = (problem.name, problem.grid.bits, bits == 8)
        if key not in self.known:
            self.known[key] = self.inner.solve(problem), Nearest().solve(problem)
        found, plain = self.known[key]
        free = residual_points(problem.weight.detach(), bits, points, problem.channel_axis)
        assert problem.gram is not None
        apart = problem.held_out or problem.gram
        self.rows.append(
            {
                "unit": problem.name,
                "w_bits": bits,
                "points": points,
                "joint": error_of(problem, dequantize(found.q, found.weight), apart),
                "nearest": error_of(problem, dequantize(plain.q, plain.weight), apart),
                "residual": error_of(problem, free, apart),
                "joint_fit": error_of(problem, dequantize(found.q, found.weight), problem.gram),
                "nearest_fit": error_of(problem, dequantize(plain.q, plain.weight), problem.gram),
            }
        )
        return found


def error_of(problem: UnitProblem, weight: Tensor, gram: Gram) -> float:
    """||(W - W') x||^2 / ||W x||^2 about the means, in float64: no difference of large numbers."""
    unit = problem.unit
    assert unit is not None
    true, own = (weight_rows(w.float(), unit).double() for w in (problem.weight.detach(), weight))
    mean = gram.x.double() / gram.count
    h = gram.xx.double() - gram.count * mean.unsqueeze(-1) * mean.unsqueeze(-2)

    def energy(w: Tensor) -> float:
        return float(((w @ h) * w).sum().clamp_min(0))

    return energy(true - own) / max(energy(true), 1e-30)


def errors(asked: Asked, network: str) -> list[dict[str, object]]:
    """One line for every unit, width and number of points."""
    job = replace(job_of(asked, network, POINTS), store=store_at(None))
    graph = capture_network(job)
    choices = parse_menu(POINTS)
    menu = {unit.name: choices for unit in graph.units}
    prepared = prepare(job, graph, menu, Progress())
    rows: list[dict[str, object]] = []
    work = replace(
        work_on(job, prepared, menu), method=Audited(rows, QuadraticSolver(), asked.units)
    )
    solve(work, "parallel", {}, lambda _: None)
    return [{"network": network, **row} for row in rows]


def told_errors(rows: list[dict[str, str]]) -> list[str]:
    """What the errors say, network by network and width by width."""
    lines = [
        "| network | bits | error of 1, 2, 3, 4 points (geometric mean) | units where every point "
        "lowers it | joint no worse than nearest | greedy with free scales, against joint |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for network, bits in dict.fromkeys((r["network"], r["w_bits"]) for r in rows):
        if bits == "8":
            continue
        own = [r for r in rows if (r["network"], r["w_bits"]) == (network, bits)]
        units = by_unit(own)
        means = [geometric(float(r["joint"]) for r in own if r["points"] == str(n)) for n in POINT]
        falling = sum(
            all(float(u[a]["joint"]) > float(u[b]["joint"]) for a, b in pairwise(POINT))
            for u in units.values()
        )
        better = sum(float(r["joint"]) <= float(r["nearest"]) * (1 + 1e-6) for r in own)
        free = [
            geometric(
                float(r["residual"]) / max(float(r["joint"]), 1e-12)
                for r in own
                if r["points"] == str(n)
            )
            for n in POINT
        ]
        lines.append(
            f"| {network} | {bits} | {', '.join(f'{m:.1e}' for m in means)} | {falling} of "
            f"{len(units)} | {better} of {len(own)} | {', '.join(f'{f:.3g}x' for f in free)} |"
        )
    return [*lines, "", *told_eight(rows)]


def told_eight(rows: list[dict[str, str]]) -> list[str]:
    """Two points of four bits against one tensor of eight."""
    lines = []
    for network in dict.fromkeys(r["network"] for r in rows):
        own = {(r["unit"], r["w_bits"], r["points"]): float(r["joint"]) for r in rows
               if r["network"] == network}  # fmt: skip
        ratios = [own[u, "4", "2"] / max(e, 1e-30) for (u, b, _), e in own.items() if b == "8"]
        near = sum(r <= 2 for r in ratios)
        lines.append(
            f"{network}: two points of 4 bits have at most {max(ratios):.4g} times the error of "
            f"one tensor of 8 bits; within a factor of 2 in {near} of {len(ratios)} units."
        )
    return lines


POINT = (1, 2, 3, 4)


def by_unit(rows: list[dict[str, str]]) -> dict[str, dict[int, dict[str, str]]]:
    found: dict[str, dict[int, dict[str, str]]] = {}
    for row in rows:
        found.setdefault(row["unit"], {})[int(row["points"])] = row
    return found


def geometric(values: Iterable[float]) -> float:
    logs = [math.log(max(v, 1e-30)) for v in values]
    return math.exp(sum(logs) / max(len(logs), 1))


# ---- whole networks --------------------------------------------------------------------------


def blended(batches: Iterable[tuple[Tensor, ...]], count: int) -> Iterator[tuple[Tensor, None]]:
    """Images, and the means of each with some others of its batch."""
    for (images,) in batches:
        yield (images,), None
        for shift in range(1, min(count + 1, images.shape[0])):
            yield ((images + images.roll(shift, 0)) / 2,), None


def margins(scores: Tensor, answers: Tensor) -> Tensor:
    """How far the score of an answer is above all others."""
    own = scores.gather(-1, answers[:, None])
    return (own - scores.scatter(-1, answers[:, None], -math.inf).amax(-1, keepdim=True))[:, 0]


def expected_same(reference: Tensor, scores: Tensor) -> float:
    """How many answers are expected to be the same.

    An answer changes where the change g of its margin is more than the margin m. Which g a row
    has, and its sign, is chance, and few rows have a margin that small.
    Equation: sum_i mean_j ([m_i + g_j > 0] + [m_i - g_j > 0]) / 2 over all rows j. The count is
    the same with j = i alone.
    """
    answers = reference.argmax(-1)
    m = margins(reference.double(), answers)
    g = margins(scores.double(), answers) - m
    return float(sum((m[:, None] + s * g > 0).double().mean(1).sum() for s in (1, -1)) / 2)


def standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values)))


@dataclass(frozen=True, eq=False)
class Judge:
    """Class scores of configurations on the same rows; each is run once."""

    base: Base
    batches: Callable[[], Iterable[tuple[Any, Tensor | None]]]
    known: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def __call__(self, choices: Mapping[str, Choice]) -> Tensor:
        key = tuple(choices[unit.name].sum_bits for unit in self.base.prepared.graph.units)
        if key not in self.known:
            solved = {unit: SUMS[choice.sum_bits] for unit, choice in choices.items()}
            self.known[key] = self.run(self.base.solutions.module(solved))
        return self.known[key]

    @cached_property
    def float_scores(self) -> Tensor:
        return self.run(self.base.prepared.graph.module)

    @cached_property
    def labels(self) -> Tensor:
        return torch.cat([labels for _, labels in self.batches() if labels is not None])

    def run(self, module: nn.Module) -> Tensor:
        forward = forward_of(self.base.prepared.graph, module)
        with torch.no_grad():
            return torch.cat([forward(inputs) for inputs, _ in self.batches()])


@dataclass(frozen=True)
class Study:
    """A solved menu with its table, and what tells how configurations do."""

    table: Table
    judges: tuple[Judge, Judge]
    asked: Asked
    network: str

    @classmethod
    def of(cls, asked: Asked, network: str) -> Study:
        job = job_of(asked, network, ",".join(map(str, SUMS.values())))
        graph = capture_network(job)
        base, wanted = choices_of(graph, job.plan), menu_of(graph, job.plan)
        seen = {name: tuple(dict.fromkeys((base[name], *wanted[name]))) for name in wanted}
        prepared = replace(prepare(job, graph, seen, Progress()), menu=wanted)
        solved, table = measured_menu(job, prepared, Progress())
        test = load_data(f"{asked.root}/loaders.py:{DATA[network][1]}")
        judges = (
            Judge(solved, lambda: blended(prepared.samples.held_out(), asked.blends)),
            Judge(
                solved, lambda: ((b.inputs, b.labels) for b in rebatch(take(test, asked.test), 50))
            ),
        )
        return cls(every_name(table), judges, asked, network)

    def held_out(self, choices: Mapping[str, Choice]) -> Agreement:
        """Expected agreement on rows that no solution has seen."""
        reference, found = self.judges[0].float_scores, self.judges[0](choices)
        return Agreement(expected_same(reference, found), len(found))

    def tested(
        self, choices: Mapping[str, Choice], other: Mapping[str, Choice]
    ) -> dict[str, float]:
        """On the test set, and what agrees more often than with another configuration there."""
        judge = self.judges[1]
        labels, reference = judge.labels, judge.float_scores
        scores = judge(choices)
        answers = reference.argmax(-1)
        same, against = ((s.argmax(-1) == answers).double() for s in (scores, judge(other)))
        return {
            "agreement": float(same.mean()),
            "stderr": standard_error(same),
            "more": float((same - against).mean()),
            "more_stderr": standard_error(same - against),
            "top1": float((scores.argmax(-1) == labels).double().mean()),
            "float_top1": float((answers == labels).double().mean()),
            "kl": float(kl_divergence(reference, scores)),
        }

    def among(self, choices: Iterable[Choice]) -> Table:
        """The table of some choices alone."""
        kept = set(choices)
        rows = [r for r in self.table.rows if r.choice in kept]
        return make_table([*rows, *self.table.references])

    def bops(self, choices: Mapping[str, Choice]) -> int:
        rows = (r for u in self.table.units for r in self.table.of(u) if r.choice == choices[u])
        return sum(r.bops for r in rows)


def every_name(table: Table) -> Table:
    """The table with a row for every choice of the menu; equal sums have equal figures."""
    rows = []
    for row in table.rows:
        same = [c for c in parse_menu(MENU) if c.sum_bits == row.choice.sum_bits]
        assert all(bops(row.macs, choice) == row.bops for choice in same)
        rows += [replace(row, choice=choice) for choice in same]
    return make_table([*rows, *table.references])


def agreement(study: Study) -> list[dict[str, object]]:
    """The least BOPs at which low-bit tensors alone do as w8a8 does."""
    whole = sum(32 * 32 * study.table.of(u)[0].macs for u in study.table.units)
    eight = dict.fromkeys(study.table.units, Choice(8, 8))
    limit = study.held_out(eight).share * SHARE_OF_W8
    found: list[tuple[str, Mapping[str, Choice]]] = [("w8a8", eight)]
    for bits in (4, 2):
        own = [c for c in parse_menu(MENU) if c.w_bits == bits]
        table = study.among(own)
        search = Search(table, trace(table, "bops"), 1 - limit, study.held_out)
        best, attained = search.cheapest()
        told = f"w{bits} alone" + ("" if attained else " (not attained)")
        found.append((told, best.choices))
        same = Choice(bits, 8, 8 // bits)
        found.append((f"{same} everywhere", dict.fromkeys(study.table.units, same)))
    return [
        {
            "network": study.network,
            "what": what,
            "bops": study.bops(choices) / whole,
            "held_out": study.held_out(choices).share,
            **study.tested(choices, eight),
        }
        for what, choices in found
    ]


def frontiers(study: Study) -> list[dict[str, object]]:
    """A device of 2 and 4 bits, with points and without, at equal BOPs."""
    whole = sum(32 * 32 * study.table.of(u)[0].macs for u in study.table.units)
    low = [c for c in parse_menu(MENU) if c.w_bits in (2, 4)]
    menus = {"one point": [c for c in low if c.points == 1], "points": low}
    tables = {name: study.among(choices) for name, choices in menus.items()}
    traced = {name: trace(table, "bops") for name, table in tables.items()}
    picture = replace(
        traced["points"],
        others={
            "uniform": traced["points"].others["uniform"],
            "one point": traced["one point"].points,
        },
    )
    (MEASURED / f"multipoint_{study.network}.svg").write_text(draw(picture))
    lo, hi = (study.bops(dict.fromkeys(study.table.units, c)) for c in (Choice(2, 8), Choice(8, 8)))
    rows: list[dict[str, object]] = []
    for step in range(1, study.asked.budgets + 1):
        limit = lo + (hi - lo) * step // study.asked.budgets
        budget = Budget("bops", Fraction(limit), False, f"bops<={limit}")
        found = {name: allocate(table, (budget,)) for name, table in tables.items()}
        for name, made in found.items():
            rows.append(
                {
                    "network": study.network,
                    "budget": limit / whole,
                    "menu": name,
                    "bops": study.bops(made.choices) / whole,
                    "predicted": made.loss,
                    **study.tested(made.choices, found["one point"].choices),
                }
            )
    return rows


def told_rows(rows: list[dict[str, str]], names: Mapping[str, str]) -> list[str]:
    """Some columns as a table."""
    lines = [f"| {' | '.join(names.values())} |", "|" + " --- |" * len(names)]
    for row in rows:
        cells = []
        for key in names:
            value = row[key]
            if key in ("held_out", "agreement", "stderr", "top1", "float_top1"):
                value = f"{float(value):.2%}"
            elif key == "more":
                value = f"{float(value):+.2%} ± {float(row['more_stderr']):.2%}"
            elif key in ("bops", "budget", "kl", "predicted"):
                value = f"{float(value):.3g}"
            cells.append(value)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


# ---- files -----------------------------------------------------------------------------------


def file_of(part: str) -> Path:
    return RESULTS / f"multipoint_{part}.csv"


def kept(part: str) -> list[dict[str, str]]:
    if not file_of(part).is_file():
        return []
    with file_of(part).open() as file:
        return list(csv.DictReader(file))


def keep(part: str, network: str, rows: list[dict[str, object]]) -> None:
    """Lines of a network, or of some of its units, in place of those that are there."""
    units = {r["unit"] for r in rows if "unit" in r}
    every = [r for r in kept(part) if r["network"] != network or (units and r["unit"] not in units)]
    every += [{k: str(v) for k, v in row.items()} for row in rows]
    file_of(part).parent.mkdir(exist_ok=True)
    with file_of(part).open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(every[0]))
        writer.writeheader()
        writer.writerows(every)


def write_page() -> None:
    """The figures of docs/measured/multipoint.md."""
    parts = []
    if kept("errors"):
        parts += ["### Errors of units", "", *told_errors(kept("errors")), ""]
    if kept("agreement"):
        names = {
            "network": "network", "what": "weights", "bops": "BOPs of float",
            "held_out": "expected agreement, held-out calibration rows",
            "agreement": "agreement, test", "stderr": "standard error", "more": "more than w8a8",
            "top1": "top-1", "float_top1": "float", "kl": "KL",
        }  # fmt: skip
        parts += ["### Low-bit tensors alone", "", *told_rows(kept("agreement"), names), ""]
    if kept("frontiers"):
        names = {
            "network": "network", "budget": "BOPs allowed", "menu": "menu", "bops": "BOPs used",
            "predicted": "predicted loss", "agreement": "agreement, test",
            "stderr": "standard error", "more": "more than one point", "top1": "top-1", "kl": "KL",
        }  # fmt: skip
        parts += ["### Frontiers", "", *told_rows(kept("frontiers"), names), ""]
    text = PAGE.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + START + "\n" + "\n".join(parts) + END + after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(DATA))
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--calib", type=int, default=512)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--table-samples", type=int, default=256)
    parser.add_argument("--blends", type=int, default=6)
    parser.add_argument("--budgets", type=int, default=6)
    parser.add_argument("--units", nargs="*", default=[], help="errors of these units alone")
    parser.add_argument("--store", type=Path)
    given = parser.parse_args()
    keep_heap()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        asked = Asked(
            given.data_root.absolute(),
            given.store or Path(folder),
            given.calib,
            given.test,
            given.table_samples,
            given.blends,
            given.budgets,
            frozenset(given.units),
        )
        for network in given.only:
            if "errors" in given.parts:
                keep("errors", network, errors(asked, network))
                print(f"{network}: errors", flush=True)
            if not {"agreement", "frontiers"} & set(given.parts):
                continue
            study = Study.of(asked, network)
            write_table(RESULTS / f"multipoint_table_{network}.csv", study.table)
            for part, make in (("agreement", agreement), ("frontiers", frontiers)):
                if part in given.parts:
                    keep(part, network, make(study))
                    print(f"{network}: {part}", flush=True)
    write_page()


if __name__ == "__main__":
    main()
