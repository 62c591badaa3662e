"""The two greedy baselines of the literature, on the same table and in the same exact integers.

Reference: Hubara et al., "Improving Post Training Neural Quantization", section 5.4; the second
goes back to Lin et al., "Fixed point quantization of deep convolutional networks" (ICML 2016).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bitwright.allocation.cost import DEGRADATIONS
from bitwright.allocation.menu import Menu, Selection
from bitwright.allocation.question import Question

ACCURACY, COMPRESSION = "greedy-accuracy", "greedy-compression"


@dataclass(frozen=True)
class Rung:
    """One level of a component: its options, how much they spend, what they do to the loss."""

    options: Selection
    spent: float
    loss: int


Ladder = tuple[Rung, ...]
Move = tuple[int, int]


def ladders(menu: Menu, spent: Sequence[float], losses: Sequence[int]) -> tuple[Ladder, ...]:
    """The levels of every component, from the dearest down.

    A level that costs no less than another and loses no less is left out, so that going down a
    ladder always saves and always costs accuracy. With a menu of two choices this is the order of
    the literature; with more it is the kindest reading of it.
    """
    found = []
    for rungs in _rungs(menu):
        every = [
            Rung(options, sum(spent[i] for i in options), sum(losses[i] for i in options))
            for options in rungs
        ]
        ladder: list[Rung] = []
        for rung in sorted(every, key=lambda r: (r.spent, r.loss)):
            if not ladder or rung.loss < ladder[-1].loss:
                ladder.append(rung)
        found.append(tuple(reversed(ladder)))
    return tuple(found)


def _rungs(menu: Menu) -> list[list[Selection]]:
    """Levels of each component: its options, or where input bits are tied all units side by side.

    Side by side: level k of n takes from every class the option that stands at k/n of its menu.
    """
    cells: list[list[int]] = [[] for _ in menu.class_of_cell]
    for option, cell in enumerate(menu.cell_of.tolist()):
        cells[cell].append(option)
    alternatives: list[list[list[int]]] = [[] for _ in menu.component_of_alternative]
    for cell, alternative in enumerate(menu.alternative_of_cell.tolist()):
        alternatives[alternative].append(
            sorted(cells[cell], key=lambda i: (menu.labels[i].w_bits, menu.labels[i].points))
        )
    components: list[list[Selection]] = [[] for _ in range(menu.component_of_alternative[-1] + 1)]
    for alternative, component in enumerate(menu.component_of_alternative.tolist()):
        own = alternatives[alternative]
        height = max(map(len, own))
        components[component] += [
            tuple(options[k * len(options) // height] for options in own) for k in range(height)
        ]
    return components


def accuracy_moves(found: Sequence[Ladder]) -> Iterator[Move]:
    """Greedy-accuracy: from the top of every ladder, the least sensitive step down first."""
    heap = [(_fall(ladder, 1), c, 1) for c, ladder in enumerate(found) if len(ladder) > 1]
    heapq.heapify(heap)
    while heap:
        _, component, level = heapq.heappop(heap)
        yield component, level
        if level + 1 < len(found[component]):
            heapq.heappush(heap, (_fall(found[component], level + 1), component, level + 1))


def _fall(ladder: Ladder, level: int) -> int:
    return ladder[level].loss - ladder[level - 1].loss


def compression_moves(menu: Menu, found: Sequence[Ladder]) -> Iterator[Move]:
    """Greedy-compression: from the foot of every ladder, the smallest unit upwards first."""
    sizes = []
    for component, ladder in enumerate(found):
        rows = [menu.table.rows[r] for option in ladder[0].options for r in menu.rows[option]]
        sizes.append((sum(row.params for row in rows), component))
    for _, component in sorted(sizes):
        for level in reversed(range(len(found[component]) - 1)):
            yield component, level


def greedy(question: Question, rule: str) -> Selection | None:
    """The selection that a greedy rule finds, or None where it finds none that holds the budgets.

    Greedy-accuracy goes down until the budgets of cost are held, and never past a budget of the
    loss; greedy-compression goes up until they are used up, or the budget of the loss is held.
    """
    program = question.program
    found = ladders(question.menu, _spend(question), question.losses)
    bad = [m for m, c in enumerate(question.caps) if c.name in DEGRADATIONS]
    down = rule == ACCURACY
    at = [0 if down else len(ladder) - 1 for ladder in found]
    used = list(program.used(_selection(question.menu, found, at)))
    moves = accuracy_moves(found) if down else compression_moves(question.menu, found)
    # Going down ends where all is held, or before the loss budget breaks; going up the reverse.
    seeks = down != question.minimizes_cost
    for component, level in moves:
        held = all(u <= limit for u, limit in zip(used, program.limits, strict=True))
        if seeks and held:
            break
        ahead = _ahead(question, found, at, used, (component, level))
        watched = bad if down else [m for m in range(len(ahead)) if m not in bad]
        if not seeks and any(ahead[m] > program.limits[m] for m in watched):
            break
        used, at[component] = ahead, level
    selection = _selection(question.menu, found, at)
    return selection if program.holds(selection) else None


def _ahead(
    question: Question, found: Sequence[Ladder], at: Sequence[int], used: list[int], move: Move
) -> list[int]:
    """What is used of every budget after a move."""
    component, level = move
    program = question.program
    if program.pairs:
        there = [*at[:component], level, *at[component + 1 :]]
        return list(program.used(_selection(question.menu, found, there)))
    return [
        u + sum(use[i] for i in found[component][level].options)
        - sum(use[i] for i in found[component][at[component]].options)
        for u, use in zip(used, program.uses, strict=True)
    ]  # fmt: skip


def _spend(question: Question) -> list[float]:
    """What options spend: shares of the budgets of cost, or of the cost that is minimised."""
    program = question.program
    rows = [
        (use, max(abs(limit), 1))
        for c, use, limit in zip(question.caps, program.uses, program.limits, strict=True)
        if c.name not in DEGRADATIONS
    ]
    if question.minimizes_cost:
        rows = [(program.goal, max(abs(sum(program.goal)), 1))]
    return [sum(use[i] / whole for use, whole in rows) for i in range(len(program.goal))]


def _selection(menu: Menu, found: Sequence[Ladder], at: Sequence[int]) -> Selection:
    """One option of every class, in the order of classes."""
    levels = zip(found, at, strict=True)
    return menu.in_order(option for ladder, level in levels for option in ladder[level].options)
