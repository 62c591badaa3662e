"""Promises on random splits: how often what was promised holds on samples of a third kind.

    python -m benchmarks.study.promises --data-root DIR [--splits N] [--networks resnet20 ...]
        [--images N] [--methods quadratic nearest] [--promises "agreement>=97%" ...]

Each split deals the labelled images of a network anew into calibration, proof and test, and makes
one promise by one method, all by turns. What `bw.quantize` leaves with `promise=` is judged on the
test part, which it never saw, by its file in ONNX Runtime. Counted are the promises that were said
to hold and do, and those that were not shown and would have failed. Rows that are in
benchmarks/results/promises.csv already are not made again. Writes docs/measured/promises.md.
"""

from __future__ import annotations

import argparse
import csv
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

import bitwright as bw
from benchmarks.data import DATA, batches_of, network_of
from benchmarks.tables import MEASURED, RESULTS, data_root, machine, markdown, write_csv

TABLE, PAGE = RESULTS / "promises.csv", MEASURED / "promises.md"
PROMISES = ("agreement>=90%", "agreement>=95%", "agreement>=98%", "drop<=3%")
METHODS = ("nearest", "quadratic")
# Of the images of a split: calibration, proof; the rest tests.
SHARES = (0.2, 0.4)
KEYS = ("network", "method", "promise", "split")
COLUMNS = {
    "network": "{network}",
    "promise": "{promise}",
    "method": "{method}",
    "splits": "{splits}",
    "said to hold": "{said}",
    "of these, hold on the test part": "{kept}",
    "not shown": "{refused}",
    "of these, fail on the test part": "{failed}",
}


def images_of(root: Path, network: str, most: int) -> tuple[Tensor, Tensor]:
    """The first labelled images of a network that its calibration has none of."""
    parts: list[tuple[Tensor, Tensor]] = []
    for batch in batches_of(root, DATA[network][1]):
        parts.append(batch)
        if sum(len(labels) for _, labels in parts) >= most:
            break
    x, y = (torch.cat(column)[:most] for column in zip(*parts, strict=True))
    return x, y


def deal(count: int, split: int) -> list[Tensor]:
    """Places of calibration, proof and test samples."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(split))
    first, second = (int(share * count) for share in SHARES)
    return [order[:first], order[first : first + second], order[first + second :]]


def holds_on(promise: str, net: nn.Module, file: Path, x: Tensor, y: Tensor) -> bool:
    """Whether a promise holds on samples, as its figure stands there."""
    name, limit = re.split(r"[<>]=", promise)
    session = onnxruntime.InferenceSession(file)
    entry = session.get_inputs()[0].name
    with torch.no_grad():
        before = torch.cat([net(part).argmax(-1) for part in x.split(100)])
    after = torch.cat(
        [
            torch.from_numpy(session.run(None, {entry: part.numpy()})[0]).argmax(-1)
            for part in x.split(100)
        ]
    )
    wanted = float(limit.rstrip("%")) / 100
    if name == "agreement":
        return bool((before == after).float().mean() >= wanted)
    return bool((before == y).float().mean() - (after == y).float().mean() <= wanted)


def run_split(root: Path, images: tuple[Tensor, Tensor], row: dict[str, Any]) -> dict[str, Any]:
    """One promise on one split."""
    x, y = images
    calib, proof, test = deal(len(y), int(row["split"]))
    net, started = network_of(root, row["network"]), time.perf_counter()
    result = bw.quantize(
        net, [x[calib]], recipe="fixed", method=row["method"], target="ort-cpu",
        evaluation=[(x[proof], y[proof])], promise=row["promise"], workers=1,
    )  # fmt: skip
    found = result.metrics.promise
    assert found is not None
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        file = result.export(Path(folder) / "model.onnx")
        held = holds_on(row["promise"], net, file, x[test], y[test])
    return {
        **row, "said": int(found.holds), "held": int(held), "looks": found.look.number,
        "rungs": len(found.rungs), "estimate": f"{found.look.estimate:.4f}",
        "bound": f"{found.look.bound:.4f}", "proof": len(proof), "test": len(test),
        "seconds": f"{seconds:.0f}",
    }  # fmt: skip


def list_rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is to be run: every network, promise and method takes part in turn."""
    cells = list(product(args.networks, args.promises, args.methods))
    for place in range(args.splits):
        network, promise, method = cells[place % len(cells)]
        yield {"network": network, "method": method, "promise": promise, "split": str(place)}


def summarize(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts by network, promise and method, and of all."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS[:3]), []).append(row)
        groups.setdefault(("all", "", ""), []).append(row)
    return [
        {
            "network": key[0], "method": key[1], "promise": key[2], "splits": len(own),
            "said": sum(int(row["said"]) for row in own),
            "kept": sum(int(row["said"]) * int(row["held"]) for row in own),
            "refused": sum(1 - int(row["said"]) for row in own),
            "failed": sum((1 - int(row["said"])) * (1 - int(row["held"])) for row in own),
        }
        for key, own in sorted(groups.items())
    ]  # fmt: skip


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The page."""
    size = ", ".join(sorted({f"{row['proof']} proof and {row['test']} test" for row in rows}))
    return f"""# Promises

Do promises hold on samples that nobody has seen? `python -m benchmarks.study.promises` deals
labelled images anew for every row, makes a promise ([guide](../guide.md#a-promise)), and judges the
file on the test part ({size} images a split).
{machine("torch", "onnxruntime")}

A promise that is said to hold should hold in 95 of 100 splits or more; on a test part of finite
size even a true one can miss. One that is not shown may hold: samples are few. Where so few splits
were run, the counts say that it works, and not how often.

{markdown(summarize(rows), COLUMNS)}
"""


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", default="../shared/data")
    parser.add_argument("--networks", nargs="+", default=list(DATA))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--promises", nargs="+", default=list(PROMISES))
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--images", type=int, default=2000)
    args = parser.parse_args()
    root = data_root(args.data_root)
    rows = list(csv.DictReader(TABLE.open())) if TABLE.is_file() else []
    known = {tuple(row[key] for key in KEYS) for row in rows}
    images: dict[str, tuple[Tensor, Tensor]] = {}
    for row in list_rows(args):
        if tuple(row[key] for key in KEYS) in known:
            continue
        network = row["network"]
        if network not in images:
            images[network] = images_of(root, network, args.images)
        rows.append(run_split(root, images[network], row))
        write_csv(TABLE, rows)
        print(rows[-1], flush=True)
    if rows:
        PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
