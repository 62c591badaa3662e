"""Small random networks of many architectures, for checks that need no data and no download.

`ZOO` maps a name to a builder; each call returns a fresh network in eval mode with fixed random
weights and the attribute `example_inputs`, a tuple of tensors or a dict of keyword tensors with a
batch of two. `python -m benchmarks.guards.zoo.models --check [NAME ...]` exports each one with a
free batch (and, for token ids, a free length) and compares the program with the network on a batch
of three.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from benchmarks.guards.zoo.common import Builder
from benchmarks.guards.zoo.tasks import TASKS
from benchmarks.guards.zoo.text import AUDIO, TEXT
from benchmarks.guards.zoo.topologies import TOPOLOGIES
from benchmarks.guards.zoo.topologies_more import TOPOLOGIES_MORE
from benchmarks.guards.zoo.vision import VISION

ZOO: dict[str, Builder] = {**TOPOLOGIES, **TOPOLOGIES_MORE, **VISION, **TEXT, **AUDIO, **TASKS}

# Networks that do not pass the check, and why it is the architecture's doing.
KNOWN_REASONS: dict[str, str] = {
    "superpoint": "keypoints are found row by row with nonzero(), so the batch and sizes are data",
    "encodec": "its padding is computed as a tensor, so every length after it depends on data",
    "nystromformer": "transformers 5.23 gives its landmark scores a mask of the full length",
}

Call = tuple[tuple, dict[str, torch.Tensor]]


def call(inputs: object) -> Call:
    """`example_inputs` as positional and keyword arguments."""
    return ((), dict(inputs)) if isinstance(inputs, dict) else (tuple(inputs), {})


def batch_of_three(inputs: object) -> object:
    """Other inputs of the same kind: fresh noise, or the ids with their first row reversed last."""

    def grow(x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([x, x[:1].flip(1)])
        return torch.randn_like(x) if x.is_floating_point() else x

    if isinstance(inputs, dict):
        return {key: grow(value) for key, value in inputs.items()}
    return tuple(grow(value) for value in inputs)


def free_dims(inputs: object) -> object:
    """Automatic dimensions: the batch of every tensor, and the length of token ids."""

    def dims(x: torch.Tensor) -> dict[int, object]:
        auto = torch.export.Dim.AUTO
        ids = x.dim() == 2 and not x.is_floating_point()
        return {0: auto, 1: auto} if ids else {0: auto}

    if isinstance(inputs, dict):
        return {key: dims(value) for key, value in inputs.items()}
    return tuple(dims(value) for value in inputs)


def export(model: nn.Module) -> torch.export.ExportedProgram:
    """The program of a network of the zoo."""
    args, kwargs = call(model.example_inputs)
    shapes = free_dims(model.example_inputs)
    return torch.export.export(model, args, kwargs, strict=False, dynamic_shapes=shapes)


def outputs(module: nn.Module, inputs: object) -> list[torch.Tensor]:
    """Every tensor a forward pass returns."""
    args, kwargs = call(inputs)
    with torch.no_grad():
        leaves, _ = tree_flatten(module(*args, **kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def difference(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """The largest difference, relative to the largest value of the tensor it is in."""
    if [x.shape for x in left] != [x.shape for x in right]:
        return float("inf")
    pairs = [(a.double(), b.double()) for a, b in zip(left, right, strict=True) if a.numel()]
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs)


def check(name: str) -> tuple[int, int]:
    """Parameters and graph nodes of one network; raises when anything about it is wrong."""
    torch.manual_seed(1)
    model = ZOO[name]()
    first = outputs(model, model.example_inputs)
    if not first or not all(x.isfinite().all() for x in first if x.is_floating_point()):
        raise ValueError("the network's own output is empty or not finite")
    program = export(model)
    other = batch_of_three(model.example_inputs)
    eager, captured = outputs(model, other), outputs(program.module(), other)
    gap = difference(eager, captured)
    if not gap < 1e-4:
        raise ValueError(f"the program differs from the network by {gap:.1e}")
    if difference([x[:1] for x in eager], [x[1:2] for x in eager]) < 1e-2:
        raise ValueError("the output does not depend on the input")
    return sum(p.numel() for p in model.parameters()), len(program.graph.nodes)


def report(names: list[str]) -> Iterator[tuple[str, bool]]:
    """Check each name and print its line; yields the lines' verdicts."""
    for name in names:
        start = time.perf_counter()
        try:
            params, nodes = check(name)
            verdict, good = "ok", True
        except Exception as error:  # noqa: BLE001 - the reason is what is printed
            params = nodes = 0
            text = " ".join(str(error).split()) or "no message"
            verdict, good = f"{type(error).__name__}: {text[:200]}", False
            if name in KNOWN_REASONS:
                verdict = f"known: {KNOWN_REASONS[name]} ({verdict})"
        took = time.perf_counter() - start
        print(f"{name:32s} {params:>10,d} params {nodes:>5d} nodes {took:5.1f} s  {verdict}")
        gc.collect()
        yield name, good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="export and compare every network")
    parser.add_argument("names", nargs="*", help="only these (default: all)")
    options = parser.parse_args()
    names = options.names or list(ZOO)
    if not options.check:
        print("\n".join(names))
        return 0
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    results = dict(report(names))
    bad = [name for name, good in results.items() if not good and name not in KNOWN_REASONS]
    print(f"{sum(results.values())} of {len(results)} ok, {len(bad)} unexplained {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
