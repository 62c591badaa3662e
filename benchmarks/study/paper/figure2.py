"""Figure 2: by how many steps weights move, and what each learned parameter brings."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

import bitwright as bw
from benchmarks.data import batches_of, network_of
from benchmarks.study.paper.draw import Picture, lines
from benchmarks.study.paper.networks import KEEP, NETWORKS, test_data
from benchmarks.study.paper.records import Records
from benchmarks.study.paper.study import Study, percent
from benchmarks.tables import markdown
from bitwright.methods.adaquant import LEARNED, AdaQuant
from bitwright.methods.catalogue import METHODS

IDENTITY = ("network", "run")
RUNS = {
    "AdaRound": ("adaround", ()),
    "AdaQuant: weights alone": ("adaquant", LEARNED[:1]),
    "AdaQuant: weights, biases": ("adaquant", LEARNED[:2]),
    "AdaQuant: weights, biases, weight grids": ("adaquant", LEARNED[:3]),
    "AdaQuant: all four": ("adaquant", LEARNED),
    "AdaQuant, the paper's settings": ("adaquant-paper", LEARNED),
}
SHOWN = ("AdaRound", "AdaQuant: all four", "AdaQuant, the paper's settings")


def run(study: Study) -> None:
    """Measure what is missing, write the page."""
    records = Records(study.results / "figure2.csv", IDENTITY)
    for name in study.of(("resnet20",)) if study.measures else ():
        for label in RUNS:
            wanted = {"network": name, "run": label}
            records.need(wanted, lambda n=name, w=label: [_measured(study, n, w)])  # type: ignore[misc]
    series = {
        row["run"]: [(float(m), 100 * float(row[f"moved {m}"])) for m in range(-4, 5)]
        for row in records.rows
        if row["run"] in SHOWN
    }
    picture = Picture("Weights by how far they moved", "steps from nearest rounding", "per cent")
    shown = [
        {**r, "t": percent(r["top1"]), "a": percent(r["agreement"]), "k": f"{float(r['kl']):.3g}",
         "b": percent(r["beyond one"])}
        for r in records.rows
    ]  # fmt: skip
    columns = {"what is learned": "{run}", "top-1": "{t}", "agreement": "{a}", "KL": "{k}",
               "weights moved by more than one step": "{b}"}  # fmt: skip
    text = [
        "# Figure 2: what AdaQuant learns", "",
        "Written by `python -m benchmarks.study.paper --only figure2`:",
        "ResNet-20, w4a4, sequential,",
        "first and last unit at 8 bits. Starts are nearest rounding here, so moves are its own;",
        "they are counted on the final grid of each channel.", "",
        "The paper: (a) AdaQuant moves weights by more than one step, AdaRound cannot; (b) each",
        "further kind of parameter that is learned lowers the loss, weights bring most.", "",
        "Ours: with the paper's settings two weights in ten thousand move by more than one step;",
        "with our rates a tenth of them moves by one, and none further. Weights bring nearly all:",
        "what is learned beside them changes agreement by as much as seeds do (a quarter of a",
        "point, [solve.md](../solve.md)). One seed; claim (b) is not shown here.", "",
        "![moves](figure2.svg)", "", markdown(shown, columns), "",
    ]  # fmt: skip
    study.publish("figure2", "\n".join(text), lines(picture, series))


def _measured(study: Study, name: str, label: str) -> dict[str, object]:
    torch.set_num_threads(1)
    kind, learned = RUNS[label]
    network, scale = NETWORKS[name], study.scale
    chosen = METHODS[kind]
    if isinstance(chosen, AdaQuant):
        chosen = replace(chosen, learned=learned, warm=False)
    options = {"method": chosen, "mode": "sequential", "scheme": "w4a4", "keep": KEEP,
               "calib": scale.calib}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        place, _, function = test_data(study.root, network, scale, Path(folder)).rpartition(":")
        result = bw.quantize(
            network_of(study.root, name),
            batches_of(study.root, network.calibration),
            evaluation=batches_of(Path(place).parent, function, Path(place).stem),
            recipe="fixed",
            **options,
        )
    found = result.metrics
    moves = _moves(result)
    total = sum(moves.values())
    return {
        "top1": found["quantized"]["top1"], "agreement": found["agreement"], "kl": found["kl"],
        **{f"moved {m}": moves[m] / total for m in range(-4, 5)},
        "beyond one": sum(n for m, n in moves.items() if abs(m) > 1) / total,
    }  # fmt: skip


def _moves(result: bw.Result) -> Counter[int]:
    """Final integer less the nearest one on the same grid, weight by weight."""
    found: Counter[int] = Counter()
    for unit in result.graph.units:
        kept = result.assignment.weights.get(unit.name)
        if kept is None or kept.qparams.grid.bits != 4:
            continue
        scale, zero, grid = kept.qparams.scale, kept.qparams.zero_point, kept.qparams.grid
        shape = [1] * len(unit.shape)
        if scale.dim():
            shape[unit.channel_axis] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        steps = result.graph.tensor(unit.weight).double() / scale.double() + zero.double()
        nearest = torch.round(steps).clamp(grid.qmin, grid.qmax)
        found.update((kept.q.double() - nearest).long().flatten().tolist())
    return found
