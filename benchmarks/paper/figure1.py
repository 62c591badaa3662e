"""Figure 1: accuracy against the size of the calibration set."""

from __future__ import annotations

import statistics

from benchmarks.paper.draw import Picture, lines
from benchmarks.paper.networks import KEEP
from benchmarks.paper.records import Records
from benchmarks.paper.study import Study, percent
from benchmarks.solve import measure
from benchmarks.tables import RESULTS, markdown

METHODS = {"nearest": "parallel", "quadratic": "sequential", "adaround": "sequential",
           "adaquant": "sequential"}  # fmt: skip
SIZES = (1, 10, 100, 1000)
SEEDS = {"nearest": 2, "quadratic": 3, "adaround": 1, "adaquant": 1}
IDENTITY = ("network", "scheme", "method", "mode", "first and last", "calib", "seed")
PAPER = """\
The paper's figure 1 (ResNet-50, 4 bits, 1 to 1000 samples of calibration): AdaRound and training
with distillation fall when samples are few, AdaQuant stays within about two points down to some
tens of samples, and with one sample per class all are near their best."""


def run(study: Study) -> None:
    """Measure what is missing, write the page."""
    records = Records(study.results / "figure1.csv", IDENTITY)
    if not study.scale.quick:
        # All 1000 samples are those of the benchmark of solving, five seeds where they are there.
        solved = Records(RESULTS / "solve.csv", IDENTITY)
        for method, mode in METHODS.items():
            wanted = {"network": "resnet20", "scheme": "w4a4", "method": method, "mode": mode,
                      "first and last": "w8a8", "calib": 1000}  # fmt: skip
            records.rows += [row for row in solved.where(**wanted) if not records.has(row)]
    sizes = (1, 16) if study.scale.quick else SIZES
    for name in study.of(("resnet20",)) if study.measures else ():
        for method, mode in METHODS.items():
            for calib in (n for n in sizes if n < 1000):
                for seed in range(1 if study.scale.quick else SEEDS[method]):
                    wanted = {
                        "network": name, "scheme": "w4a4", "method": method, "mode": mode,
                        "first and last": "w8a8" if KEEP else "as all", "calib": str(calib),
                        "seed": str(seed),
                    }  # fmt: skip
                    records.need(wanted, lambda w=wanted: [measure(study.root, w)])  # type: ignore[misc]
    shown, series = [], {}
    for method in METHODS:
        points = []
        for place, calib in enumerate(SIZES if not study.scale.quick else sizes):
            found = [float(r["agreement"]) for r in records.where(method=method, calib=calib)]
            if found:
                spread = percent(statistics.stdev(found)) if found[1:] else "-"
                mean = statistics.fmean(found)
                points.append((float(place), 100 * mean))
                shown.append({"m": method, "c": calib, "n": len(found), "a": percent(mean),
                              "d": spread})  # fmt: skip
        series[method] = points
    names = {float(i): str(c) for i, c in enumerate(SIZES if not study.scale.quick else sizes)}
    picture = Picture(
        "ResNet-20, w4a4: agreement with float", "calibration images", "per cent", names
    )
    columns = {"method": "{m}", "samples": "{c}", "seeds": "{n}", "agreement": "{a}",
               "deviation": "{d}"}  # fmt: skip
    text = [
        "# Figure 1: the size of the calibration set", "",
        "Written by `python -m benchmarks.paper --only figure1`: ResNet-20, w4a4, first and last",
        "unit at 8 bits, 5000 test images. Which images are taken varies with the seed.", "", PAPER,
        "", "![figure 1](figure1.svg)", "", markdown(shown, columns), "",
    ]  # fmt: skip
    study.publish("figure1", "\n".join(text), lines(picture, series))
