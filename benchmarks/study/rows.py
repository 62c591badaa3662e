"""How many rows a unit's second moments need: error on images that were not among them.

    python -m benchmarks.study.rows --data-root DIR [--only resnet20 ...] [--samples 64 256 ...]

A unit is solved (quadratic, w4a8, on the float activations) from some of the rows that so many
calibration images give, drawn evenly over images and positions, and judged by its squared output
error on rows of other calibration images; no test image is read. benchmarks/results/rows.csv says
how far that error lies above the one with all rows, which are at most 65536.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import bitwright as bw
from benchmarks.data import DATA, batches_of, network_of
from benchmarks.tables import RESULTS, write_csv
from bitwright.graph.choice import parse_scheme
from bitwright.graph.kept import name_inputs
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.replay import replay
from bitwright.graph.rows import geometry, input_rows, solvable, weight_rows
from bitwright.graph.sites import find_sites
from bitwright.graph.units import input_of
from bitwright.methods.quadratic import QuadraticSolver, relative_loss
from bitwright.numerics.affine import QParams, fake_quantize
from bitwright.numerics.gram import Gram
from bitwright.numerics.ranges import range_rule
from bitwright.solving.work import problem

NETWORKS = ("resnet20", "mobilenet_v2_dogs", "efficientnet_lite0")
ALL, WIDEST, UNITS = 1 << 16, 1200, 8
CHOICE = parse_scheme("w4a8")


def rows_of(
    graph: ModelGraph, unit: Unit, images: list[Tensor], grid: QParams | None, most: int
) -> tuple[Tensor, Tensor]:
    """Rows of the quantised input and of the float target, in random order."""
    (call,) = unit.products
    node = graph.nodes()[call]
    source = input_of(node).name
    found = []
    for index, batch in enumerate(images):
        x = replay(graph, name_inputs(graph, (batch,)), {source})[source]
        found.append(input_rows(x, geometry(unit, node), -(-most // len(images)), index))
    rows = torch.cat(found, 1)
    rows = rows[:, torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))]
    y = rows @ weight_rows(graph.tensor(unit.weight).float(), unit).mT
    if unit.bias:
        y += graph.tensor(unit.bias).float().reshape(y.shape[0], 1, -1)
    return rows if grid is None else fake_quantize(rows, grid), y


def figures(root: Path, name: str, samples: list[int]) -> Iterator[dict[str, object]]:
    """Every unit, number of images and share of rows of one network."""
    images = torch.cat([x for x, _ in batches_of(root, DATA[name][0])])
    judges, images = images[-128:].split(16), images[:-128]
    graph, target = bw.capture(network_of(root, name), (images[:4],)), bw.load_target("paper")
    sites = find_sites(graph, target)
    seen = bw.observe(graph, list(images[:64].split(16)), {site.root for site in sites})
    units = [u for u in graph.units if solvable(u) and len(u.products) == 1]
    units = [u for u in units if u.params // u.shape[u.channel_axis] <= WIDEST]
    menu = {unit.name: (CHOICE,) for unit in graph.units}
    grids = bw.task_grids(graph, menu, sites, seen.stats, target, range_rule("mse"))
    for unit in units[:: max(1, len(units) // UNITS)]:
        grid = grids[unit.name, CHOICE]
        x, y = rows_of(graph, unit, list(judges), grid[0], ALL)
        judge = Gram.of(x, y)
        inputs = x.shape[-1]
        most = ALL if unit.groups == 1 else 1 << 13
        made = problem(graph, unit, CHOICE, target, grid, 0)
        for count in (c for c in samples if c <= len(images)):
            x, y = rows_of(graph, unit, list(images[:count].split(16)), grid[0], most)
            apart = x.shape[1] // 8
            sizes = [f * inputs for f in (1, 2, 4, 8, 16, 32)] + [x.shape[1] - apart]
            losses = {}
            for size in sorted(s for s in sizes if s <= x.shape[1] - apart):
                gram = Gram.of(x[:, apart : apart + size], y[:, apart : apart + size])
                held = Gram.of(x[:, : max(2, size // 8)], y[:, : max(2, size // 8)])
                given = replace(made, gram=gram, held_out=held, sample_count=count)
                solved = QuadraticSolver().solve(given)
                losses[size] = relative_loss(judge, solved, unit)
            for size, loss in losses.items():
                yield {
                    "network": name, "unit": unit.name, "inputs": inputs, "groups": unit.groups,
                    "images": count, "rows": size, "rows an input": round(size / inputs, 2),
                    "excess": round(loss / max(losses[max(losses)], 1e-30) - 1, 4),
                }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS))
    parser.add_argument("--samples", type=int, nargs="*", default=[32, 128, 512])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    with torch.no_grad():
        for name in asked.only:
            for line in figures(asked.data_root.absolute(), name, asked.samples):
                print(line, flush=True)
                lines.append(line)
    write_csv(RESULTS / "rows.csv", lines)


if __name__ == "__main__":
    main()
