"""A menu solved: every choice of every unit, and any configuration stitched from them and run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from bitwright.evaluation.forward import forward_of
from bitwright.graph.choice import Choice
from bitwright.graph.placing import module_on
from bitwright.graph.simulate import Assignment, stitch
from bitwright.sensitivity.measure import LossValues
from bitwright.sensitivity.sample_loss import SampleLoss
from bitwright.solving import Configuration, Edges, Work
from bitwright.solving.parallel import SolvedTasks
from bitwright.sources.batches import Batch

TABLE_BATCH = 16


@dataclass(frozen=True, eq=False)
class Bench:
    """The samples on which losses are measured.

    Attributes:
        opened: opens a pass over them, a few at a time.
        size: how many there are at most; 0 for all.
        labels: whether the loss looks at their labels.
    """

    opened: Callable[[], Iterator[Batch]]
    size: int
    labels: bool


@dataclass(frozen=True, eq=False)
class Solutions:
    """What configurations are made of.

    Attributes:
        work: the network, its menu and how it was solved.
        base: the choice of every unit at the base precision; `edges` are its grids.
        solved: every (unit, choice), on the float network's activations.
        loss: of a sample, on which configurations are compared.
        bench: the samples on which losses are measured.
    """

    work: Work
    base: Mapping[str, Choice]
    edges: Edges
    solved: SolvedTasks
    loss: SampleLoss
    bench: Bench

    def assignment(self, choices: Mapping[str, Choice]) -> Assignment:
        """The parameters of a whole configuration."""
        return Configuration.of(self.work, self.solved, choices, self.edges).assignment()

    def module(self, choices: Mapping[str, Choice]) -> fx.GraphModule:
        """A whole configuration as a network."""
        made = stitch(self.work.graph, self.assignment(choices))
        return module_on(made, self.work.device)

    def losses(self, choices: Mapping[str, Choice]) -> LossValues:
        """The loss of a whole configuration and the answers missed, sample by sample.

        On the samples of the table.
        """
        graph, loss, device = self.work.placed, self.loss, self.work.device
        both = graph.module, self.module(choices)
        reference, outputs = (forward_of(graph, module, device) for module in both)
        parts: list[LossValues] = []
        with torch.no_grad():
            for batch in self.bench.opened():
                wanted = reference(batch.inputs) if loss.needs_float else None
                parts.append(loss.of(wanted, outputs(batch.inputs), batch.labels).cpu().numpy())
        return np.concatenate(parts, axis=1)

    def run(self, choices: Mapping[str, Choice]) -> dict[str, float]:
        """Loss, and share of answers missed, of a whole configuration on the table's samples."""
        return figures(self.losses(choices))


def figures(values: LossValues) -> dict[str, float]:
    """The means of losses and of answers missed, [2, samples]."""
    return {"loss": float(values[0].mean()), "drop": float(values[1].mean())}
