"""The pipelines as a user runs them: one command each, budgets of the paper's kind."""

from __future__ import annotations

from benchmarks.study.paper.cells import Cell, cell, measured, table
from benchmarks.study.paper.networks import KEEP
from benchmarks.study.paper.study import Study, percent

SMALL = ("resnet20", "resnet56")
LARGE = ("mobilenet_v2_dogs", "efficientnet_lite0", "mobilenet_v1")
SIZE = "size<=0.13"
# As the paper's: 8 or 4 bits, and a quarter of the units or more has 4-bit weights and inputs.
QUARTER, QUARTER_MENU = "bops<=0.042", "w8a8,w4a4"
THREE = "w8a8,w4a8,w4a4"
# Few of its units take most of its operations: more of them must go before a quarter has.
QUARTERS = {"mobilenet_v1": "bops<=0.034"}


def cells(study: Study) -> list[Cell]:
    """The runs."""
    found = []
    for name in study.of(SMALL):
        for recipe in ("light", "advanced"):
            found.append(cell(name, f"{recipe}, {SIZE}", recipe=recipe, budget=SIZE))
    for name in study.of(LARGE):
        menu, budget = QUARTER_MENU, QUARTERS.get(name, QUARTER)
        found.append(cell(name, f"light, {budget}", recipe="light", menu=menu, budget=budget))
        found.append(cell(name, f"advanced, {budget}", recipe="advanced", menu=menu, budget=budget))
        fixed = {"mode": "sequential", "scheme": "w4a4", "keep": KEEP}
        for said, method in (("quadratic", "quadratic"), ("AdaQuant", "adaquant")):
            label = f"all w4a4, {said}, tuned"
            found.append(cell(name, label, method=method, **fixed, tune="bn,bias"))
        label = "all w4a4, quadratic, scales tuned"
        found.append(cell(name, label, method="quadratic", **fixed, tune="bn,scales"))
    for name in study.of(("efficientnet_lite0",)):
        # From nothing, for its time and memory.
        found.append(
            cell(name, f"light, three choices, {QUARTER}", recipe="light", menu=THREE,
                 budget=QUARTER, own_store=True)
        )  # fmt: skip
    return found


def run(study: Study) -> None:
    """Measure what is missing, write the page."""
    records = measured(study, "pipelines", cells(study))
    shares = [
        f"- {row['network']}, {row['label']}: {percent(row['w4a4_units'])} of {row['units']} units "
        f"at w4a4; ONNX Runtime agrees on {percent(row['runtime_agreement'])} of the answers; "
        f"units differ by {float(row['unit_error']):.1g} at most."
        for row in records.rows
    ]
    text = [
        "# The pipelines, end to end", "",
        "Written by `python -m benchmarks.study.paper --only pipelines`:",
        "capture, solving, allocation,",
        "tuning, export and verification in one command each; top-1 on data not used for",
        "calibration. Runs of one network share a store, so processor time counts what was not",
        "solved before by the run above; the run with three choices began from nothing, alone on",
        "the machine.", "",
        "The paper: ResNet-50 at 12.5 to 13 % of its size within 1 point of float; MobileNet-V2",
        "with a quarter of its layers at 4 bits loses less than 2 points, with all about 7.", "",
        "4 bits everywhere without tuning is in [table 2](table2.md): there MobileNet-V2 and Lite0",
        "lose less than 4 points. Tuning takes an eighth of the samples from the solver.",
        "", table(records.rows), "", *shares, "",
    ]  # fmt: skip
    study.publish("pipelines", "\n".join(text))
