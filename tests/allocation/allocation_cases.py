"""Random tables, and the plain truth about them: every configuration gone through."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from decimal import Decimal, getcontext

from bitwright.allocation.cost import bops, weight_bits
from bitwright.allocation.table import Row, Table, make_table
from bitwright.graph.choice import Choice

# Sums of losses between 1e-9 and 1e3 are exact in so many digits.
getcontext().prec = 60

BITS = [(w, a) for w in (2, 3, 4, 8) for a in (2, 4, 8)]
SHARED = [(2, 4), (2, 8), (4, 4), (4, 8)]
LOSSES: list[Callable[[random.Random], float]] = [
    lambda r: r.random() * r.choice([1, 1, 1, -0.1]),
    lambda r: 10 ** r.uniform(-9, 1) * r.choice([1, 1, 1, -1]),
    lambda r: r.random() * 1e-9,
    lambda r: r.randint(-2, 6) / 100,
    lambda r: r.random() * 1e3,
]
Configuration = dict[str, Row]


def row(unit: str, choice: Choice, loss: float | None, params: int, macs: int, **more) -> Row:
    bits = weight_bits(params, 1, choice)
    return Row(unit, choice, loss, params, bits, macs, bops(macs, choice), **more)


def random_table(seed: int, units: int = 6, tied: float = 0.4) -> Table:
    """Up to so many units of up to four choices; some tied, some kept, some with float rows."""
    r = random.Random(seed)
    loss = r.choice(LOSSES)
    group = r.choice(["stage", "a:add", "a:add stage"]) if r.random() < tied else ""
    rows = []
    for index in range(r.randint(1, units)):
        params = r.choice([r.randint(1, 50), r.randint(10**3, 10**7)])
        macs = r.randint(1, 10**10)
        own = group if r.random() < 0.7 else ""
        choices = SHARED if group else r.sample(BITS, r.randint(1, 4))
        if group and not own and r.random() < 0.3:
            choices = [(8, 8)]
        for w_bits, a_bits in choices:
            latency = r.choice([r.random() * 7, r.randint(1, 9) / 10])
            # Some are sums of several tensors; the same ones in every unit, for ties.
            choice = Choice(w_bits, a_bits, 1 + (w_bits + a_bits) // 2 % 3)
            rows.append(
                row(f"u{index}", choice, loss(r), params, macs, latency_ms=latency, group=own)
            )
        rows.append(row(f"u{index}", Choice(0, 0), None, params, macs, latency_ms=10.0, group=own))
    r.shuffle(rows)
    return make_table(sorted(rows, key=lambda found: found.unit))


def value(configuration: Configuration, name: str) -> Decimal:
    """The exact sum of a measure."""
    columns = {"size": "weight_bits", "bops": "bops", "latency": "latency_ms", "loss": "loss_delta"}
    found = [getattr(r, columns[name]) for r in configuration.values()]
    return sum((Decimal(repr(v or 0)) for v in found), Decimal(0))


def configurations(table: Table) -> Iterator[Configuration]:
    """Every configuration that respects the ties."""
    for rows in itertools.product(*(table.of(unit) for unit in table.units)):
        if ties_hold(rows):
            yield dict(zip(table.units, rows, strict=True))


def ties_hold(rows) -> bool:
    taken: dict[str, object] = {}
    for r in rows:
        for name in r.group.split():
            what = r.choice.a_bits if name.startswith("a:") else r.choice
            if taken.setdefault(name, what) != what:
                return False
    return True


def least(table: Table, goal: str, limits: dict[str, Decimal]) -> Decimal | None:
    """The least goal of all configurations that hold the limits."""
    held = (
        value(c, goal)
        for c in configurations(table)
        if all(value(c, name) <= limit for name, limit in limits.items())
    )
    return min(held, default=None)


def some_limits(table: Table, names: list[str], seed: int) -> dict[str, Decimal]:
    """Limits at what a random configuration uses, or a little below or above it."""
    r = random.Random(seed)
    rows = {unit: r.choice(table.of(unit)) for unit in table.units}
    nudge = {"size": Decimal(1), "bops": Decimal(1)}
    return {
        name: value(rows, name) + r.choice([-1, 0, 0, 1]) * nudge.get(name, Decimal("1e-30"))
        for name in names
    }


def budget(name: str, limit: Decimal) -> str:
    units = {"size": "bit", "bops": "BOP", "latency": "ms", "loss": ""}
    return f"{name}<={limit}{units[name]}"
