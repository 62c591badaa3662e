"""Runs without data: inputs are made from what the network itself remembers of its training."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bitwright.graph.model_graph import ModelGraph
from bitwright.pipeline.plan import Plan
from bitwright.prepare.distil import Distillation, distil, input_shape
from bitwright.sources.batches import Dataset
from bitwright.sources.data import as_dataset

NOISE = 32
DISTILLED = "distilled data"


def data_of(graph: ModelGraph, plan: Plan, tick: Callable[[int], None] = lambda _: None) -> Dataset:
    """The data of `--data none`: distilled from folded batch-norms (ZeroQ), the same every time.

    Where nothing at all depends on data (weights alone are quantised, by a method that needs none),
    Gaussian noise serves to run and verify the network.

    Raises:
        DataError: the network does not say what its data were like.
    """
    if not plan.target.inputs and not plan.method.needs.data:
        generator = torch.Generator().manual_seed(plan.recipe.seed)
        noise = torch.randn(NOISE, *input_shape(graph), generator=generator)
        return as_dataset([noise], name="noise")
    return as_dataset(distil(graph, Distillation(seed=plan.recipe.seed), tick), name=DISTILLED)
