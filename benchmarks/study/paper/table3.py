"""Table 3: 8 bits everywhere."""

from __future__ import annotations

from benchmarks.study.paper.cells import Cell, cell, measured, table
from benchmarks.study.paper.others import others
from benchmarks.study.paper.study import Study

WAYS = {
    "min-max": {"method": "nearest", "activation_range": "minmax", "weight_range": "minmax"},
    "our ranges": {"method": "nearest"},
    "DFQ": {"recipe": "dfq"},
    "sequential quadratic": {"method": "quadratic", "mode": "sequential"},
}
ALL = (
    "resnet20", "resnet56", "efficientnet_lite0", "mobilenet_v2_dogs", "mobilenet_v1", "squeezenet",
)  # fmt: skip
# What the benchmark of all methods calls those that are here.
SHOWN = ("min-max", "nearest", "dfq", "quadratic")
PAPER = """\
The paper's table 3, MobileNet-V2 on ImageNet, top-1: min-max 70.9, DFQ 71.2, ZeroQ 72.91, AdaQuant
73.03, sequential AdaQuant 72.94, float 73.03. At 8 bits every method that looks at data is within
two points, and the better ones within a tenth.

Ours: on each of the six networks the quadratic solver's answers are nearest to the float network's,
and its top-1 is within a third of a point of float, which is two photos."""


def cells(study: Study) -> list[Cell]:
    """The runs."""
    return [
        cell(name, label, **options, scheme="w8a8")
        for name in study.of(ALL)
        for label, options in WAYS.items()
    ]


def run(study: Study) -> None:
    """Measure what is missing, write the page."""
    records = measured(study, "table3", cells(study))
    text = [
        "# Table 3: 8 bits", "",
        "Written by `python -m benchmarks.study.paper --only table3`:",
        "weights and inputs of all units at",
        "8 bits, per-channel weights (DFQ: as its recipe has it), target `paper`, one seed.", "",
        PAPER, "", table(records.rows), "",
        others("w8a8", SHOWN), "",
    ]  # fmt: skip
    study.publish("table3", "\n".join(text))
