"""What is kept of a unit's activations while they stream by: sums, and a sample of rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bitwright.engine.limits import LIMITS
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.rows import Geometry, geometry, input_rows, weight_rows
from bitwright.methods.problem import RowSamples
from bitwright.numerics.affine import QParams, fake_quantize
from bitwright.numerics.gram import Gram
from bitwright.solving.spool import ByteBudget, Spool

# Rows by need: by few rows a unit's error on other samples grows by some 0.4 unknowns a row, from
# 48 an unknown on by less than a hundredth (benchmarks/study/rows.py). Narrow units get more, which
# costs them little; those of many groups do not, since each group has rows of its own.
ROWS, ROWS_OF_GROUP = 1 << 15, 1 << 11
ROWS_PER_INPUT = 48
HELD_OUT = 8
SAMPLE_BYTES = LIMITS.rows
SAMPLE_UNIT_BYTES = LIMITS.rows_of_a_unit

Grids = tuple[QParams | None, ...]
GridsKey = tuple[tuple[float, ...] | None, ...]


@dataclass(frozen=True, eq=False)
class CollectPlan:
    """How one unit is collected: a plain value that a worker can take along.

    Attributes:
        forms: the geometry of each call.
        weight, bias: as rows, for the float target.
        grids: the input grids of each choice, one a call, by their plain value.
        limit: rows of a batch that enter the sums.
        kept: rows of a batch that are kept themselves; 0 for methods that need only sums.
        seed: of the run.
    """

    unit: Unit
    forms: tuple[Geometry | None, ...]
    weight: Tensor
    bias: Tensor | None
    grids: dict[GridsKey, Grids]
    limit: int
    kept: int
    seed: int


@dataclass
class Sums:
    """Second moments for one set of input grids: of the rows to fit, and of those kept apart."""

    fit: Gram | None = None
    apart: Gram | None = None

    def add(self, gram: Gram, held_out: bool) -> None:
        """Add the moments of one batch."""
        if held_out:
            self.apart = gram if self.apart is None else self.apart.add_(gram)
        else:
            self.fit = gram if self.fit is None else self.fit.add_(gram)

    def merge(self, other: Sums) -> None:
        """Add the moments of a later chunk of batches."""
        if other.fit is not None:
            self.add(other.fit, False)
        if other.apart is not None:
            self.add(other.apart, True)


@dataclass
class CollectedPart:
    """What one chunk of batches gave for one unit."""

    sums: dict[GridsKey, Sums]
    rows: list[tuple[bool, Tensor, Tensor]] = field(default_factory=list)


@dataclass
class Collector:
    """The sums and rows of one unit over all batches: every eighth batch is held out."""

    plan: CollectPlan
    budget: ByteBudget = field(default_factory=lambda: ByteBudget(SAMPLE_BYTES))
    sums: dict[GridsKey, Sums] = field(default_factory=dict)
    _spools: dict[bool, tuple[Spool, Spool]] = field(default_factory=dict)
    _read: dict[bool, RowSamples] = field(default_factory=dict)

    def absorb(self, part: CollectedPart) -> None:
        """Take in the next chunk; chunks come in the order of the data."""
        for key, sums in part.sums.items():
            if key in self.sums:
                self.sums[key].merge(sums)
            else:
                self.sums[key] = sums
        for apart, x, y in part.rows:
            if apart not in self._spools:
                self._spools[apart] = (Spool(self.budget), Spool(self.budget))
            for spool, rows in zip(self._spools[apart], (x, y), strict=True):
                spool.add(rows)

    def samples(self) -> tuple[RowSamples | None, RowSamples | None]:
        """The rows kept: to fit, and apart; read once for all choices of a menu."""
        for held_out, pair in self._spools.items():
            if held_out not in self._read:
                x, y = (torch.cat(spool.read(), 1) for spool in pair)
                self._read[held_out] = RowSamples(x, y)
        return self._read.get(False), self._read.get(True)

    def close(self) -> None:
        """Give the memory of the rows back."""
        for pair in self._spools.values():
            for spool in pair:
                spool.close()
        self._spools.clear()
        self._read.clear()


def plan_of(
    graph: ModelGraph, unit: Unit, grids: dict[GridsKey, Grids], batches: int, rows: int, seed: int
) -> CollectPlan:
    """How to collect a unit from so many batches; `rows` to keep, as far as memory allows."""
    nodes = graph.nodes()
    weight = weight_rows(graph.tensor(unit.weight).float(), unit)
    bias = graph.tensor(unit.bias).float() if unit.bias else None
    inputs, outputs = weight.shape[-1], weight.shape[-2]
    total = max(ROWS if unit.groups == 1 else ROWS_OF_GROUP, ROWS_PER_INPUT * inputs)
    width = 4 * unit.groups * (inputs + outputs)
    kept = -(-min(max(rows, 8 * inputs), SAMPLE_UNIT_BYTES // width) // batches) if rows else 0
    forms = tuple(geometry(unit, nodes[call]) for call in unit.calls)
    limit = max(-(-total // batches), kept)
    return CollectPlan(unit, forms, weight, bias, grids, limit, kept, seed)


def collect_batch(
    plan: CollectPlan, part: CollectedPart, index: int, call: int, x: Tensor, given: Tensor
) -> None:
    """Take in one batch of one call: the float input and the one that the unit is given."""
    seed = row_seed(plan.seed, plan.unit.name, index, call)
    held_out = index % HELD_OUT == HELD_OUT - 1
    rows = input_rows(x, plan.forms[call], plan.limit, seed)
    seen = rows if given is x else input_rows(given, plan.forms[call], plan.limit, seed)
    y = rows @ plan.weight.transpose(1, 2)
    if plan.bias is not None:
        y += plan.bias.reshape(plan.weight.shape[0], 1, -1)
    for key, grids in plan.grids.items():
        grid = grids[call]
        got = seen if grid is None else fake_quantize(seen, grid)
        part.sums.setdefault(key, Sums()).add(Gram.of(got, y), held_out)
    if plan.kept:
        # Evenly over the whole batch, its last images like its first; a copy, so that the rest of
        # the batch is let go.
        total = rows.shape[1]
        count = min(plan.kept, total)
        picked = torch.arange(count, device=seen.device) * total // max(count, 1)
        part.rows.append((held_out, seen[:, picked], y[:, picked]))


def row_seed(seed: int, name: str, index: int, call: int) -> int:
    """The seed of the rows picked from one batch of one call."""
    text = f"{seed}|{name}|{index}|{call}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
