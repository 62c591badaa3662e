"""The 2-4-8 experiment: does the integer program use 2-bit units, and do they pay?"""

from __future__ import annotations

from benchmarks.study.paper.cells import Cell, cell, measured, table
from benchmarks.study.paper.networks import KEEP
from benchmarks.study.paper.study import Study

MENUS = {"4-8": "w8a8,w4a4", "2-4-8": "w8a8,w4a4,w2a2", "2-4-8, inputs at 8": "w{2,4,8}a8"}
# A little less than what all inner units take at 4 bits (0.1397), which the first menu cannot
# hold, and a little more.
BUDGETS = ("size<=0.135", "size<=0.15")
LEAST = {"4-8": "size<=0.15"}
PAPER = """\
The paper (section 5.2): 2-bit units lose so much that the program leaves them alone, but at a
compression to 12.5 % one unit at 2 bits pays for eight smaller ones at 8 bits, and 5.5 points are
gained over 4 bits everywhere."""
READING = """\
Ours, on ResNet-20: at the larger budget the program leaves units of 2-bit weights and inputs alone
(both menus give the same network), as the paper found. Below what 4 bits everywhere take there is
no way around 2-bit weights; with inputs of 8 bits they cost little, with inputs of 2 bits several
points of agreement."""


def cells(study: Study) -> list[Cell]:
    """The runs; `light`, so that bits are all that differs."""
    return [
        cell(name, f"{label}, {budget}", recipe="light", menu=menu, budget=budget, keep=KEEP)
        for name in study.of(("resnet20",))
        for budget in (BUDGETS[1:] if study.scale.quick else BUDGETS)
        for label, menu in MENUS.items()
        if LEAST.get(label, budget) == budget
    ]


def run(study: Study) -> None:
    """Measure what is missing, write the page."""
    records = measured(study, "two_four_eight", cells(study))
    text = [
        "# The 2-4-8 experiment", "",
        "Written by `python -m benchmarks.study.paper --only two_four_eight`:",
        "recipe `light`, three",
        "menus, two budgets of the size. All inner units at 4 bits take 0.1397 of float, so",
        "that 0.135 can be held with 2-bit units alone.", "", PAPER, "", READING, "",
        table(records.rows), "",
    ]  # fmt: skip
    study.publish("two_four_eight", "\n".join(text))
