"""Figure 1: accuracy against the size of the calibration set."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.study.paper.draw import Picture, lines
from benchmarks.study.paper.networks import KEEP
from benchmarks.study.paper.records import Records
from benchmarks.study.paper.study import Study, percent
from benchmarks.study.solve import measure
from benchmarks.tables import RESULTS, markdown

METHODS = {"nearest": "parallel", "quadratic": "sequential", "adaround": "sequential",
           "adaquant": "sequential"}  # fmt: skip
SIZES = (1, 10, 100, 1000)
SEEDS = {"nearest": 2, "quadratic": 3, "adaround": 1, "adaquant": 1}
IDENTITY = ("network", "scheme", "method", "mode", "first and last", "calib", "seed")
PAPER = """\
The paper's figure 1 (ResNet-50, 4 bits, 1 to 1000 samples of calibration): AdaRound and training
with distillation fall when samples are few, AdaQuant stays within about two points down to some
tens of samples, and with one sample per class all are near their best.

Here the quadratic solver, from which the other two start, pulls towards the float weights the more
the fewer samples there are (30 / n of the mean diagonal, at most 3). On ResNet-20 no method falls
below nearest rounding, from one image on; with a hundred images all are within a point of their
best, and with a thousand they differ by less than the spread over seeds. EfficientNet-Lite0 has one
seed of the quadratic solver: it loses more where images are few, and nearest rounding, which does
without them, was not measured beside it."""


LARGE = "efficientnet_lite0"
# A run of the larger network takes minutes: one seed, and the methods that do not train.
OF = {"resnet20": tuple(METHODS), LARGE: ("nearest", "quadratic")}


def run(study: Study) -> None:
    """Measure what is missing, write the page."""
    records = Records(study.results / "figure1.csv", IDENTITY)
    if not study.scale.quick:
        _take_solved(records)
    sizes = (1, 16) if study.scale.quick else SIZES
    for wanted in _wanted(study, sizes) if study.measures else ():
        records.need(wanted, lambda w=wanted: [measure(study.root, w)])  # type: ignore[misc]
    text = [
        "# Figure 1: the size of the calibration set", "",
        "Written by `python -m benchmarks.study.paper --only figure1`:",
        "w4a4, first and last unit at 8",
        "bits, test images that calibration never sees. Which images are taken varies with the",
        "seed.", "", PAPER, "",
    ]  # fmt: skip
    for name in OF:
        if not records.where(network=name):
            continue
        shown, series = _shown(records, name, sizes)
        names = {float(i): str(c) for i, c in enumerate(sizes)}
        title = f"{name}, w4a4: agreement with float"
        picture = Picture(title, "calibration images", "per cent", names)
        study.pages.mkdir(parents=True, exist_ok=True)
        (study.pages / f"figure1_{name}.svg").write_text(lines(picture, series))
        text += [f"## {name}", "", f"![{name}](figure1_{name}.svg)", "", markdown(shown, COLUMNS)]
        text += [""]
    study.publish("figure1", "\n".join(text))


COLUMNS = {
    "method": "{m}",
    "samples": "{c}",
    "seeds": "{n}",
    "agreement": "{a}",
    "deviation": "{d}",
}


def _take_solved(records: Records) -> None:
    """All 1000 samples are those of the benchmark of solving, five seeds where they are there."""
    solved = Records(RESULTS / "solve.csv", IDENTITY)
    for name, methods in OF.items():
        for method in methods:
            wanted = {"network": name, "scheme": "w4a4", "method": method,
                      "mode": METHODS[method], "first and last": "w8a8", "calib": 1000}  # fmt: skip
            records.rows += [row for row in solved.where(**wanted) if not records.has(row)]


def _wanted(study: Study, sizes: tuple[int, ...]) -> Iterator[dict[str, str]]:
    for name, methods in OF.items():
        if name not in study.of((name,)):
            continue
        for method in methods:
            seeds = 1 if study.scale.quick or name == LARGE else SEEDS[method]
            for calib in (n for n in sizes if n < 1000):
                for seed in range(seeds):
                    yield {
                        "network": name, "scheme": "w4a4", "method": method,
                        "mode": METHODS[method], "first and last": "w8a8" if KEEP else "as all",
                        "calib": str(calib), "seed": str(seed),
                    }  # fmt: skip


Series = dict[str, list[tuple[float, float]]]


def _shown(
    records: Records, name: str, sizes: tuple[int, ...]
) -> tuple[list[dict[str, object]], Series]:
    """The table of one network, and its lines."""
    shown: list[dict[str, object]] = []
    series: Series = {}
    for method in OF[name]:
        points = []
        for place, calib in enumerate(sizes):
            rows = records.where(network=name, method=method, calib=calib)
            found = [float(row["agreement"]) for row in rows]
            if found:
                spread = percent(statistics.stdev(found)) if found[1:] else "-"
                mean = statistics.fmean(found)
                points.append((float(place), 100 * mean))
                shown.append({"m": method, "c": calib, "n": len(found), "a": percent(mean),
                              "d": spread})  # fmt: skip
        series[method] = points
    return shown, series
