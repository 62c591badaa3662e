"""A menu solved: every choice of every unit, and any configuration stitched from them and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bitwright.graph.choice import Choice
from bitwright.graph.simulate import Assignment, stitch
from bitwright.preparing import Job, Menu, Prepared, edges_of, work_on
from bitwright.run.progress import Progress
from bitwright.search.sample_loss import SampleLoss
from bitwright.search.sensitivity import Values, loss_of_network
from bitwright.solving import Configuration, Edges, Work, solve
from bitwright.solving.parallel import Solved
from bitwright.sources.batches import Batch, take
from bitwright.sources.lengths import batched
from bitwright.stages import choices_of, forward_of

TABLE_BATCH = 16


@dataclass(frozen=True, eq=False)
class Solutions:
    """What configurations are made of.

    Attributes:
        job, prepared, work: of the run.
        base: the choice of every unit at the base precision; `edges` are its grids.
        solved: every (unit, choice), on the float network's activations.
        loss: of a sample, on which configurations are compared.
    """

    job: Job
    prepared: Prepared
    work: Work
    base: Mapping[str, Choice]
    edges: Edges
    solved: Solved
    loss: SampleLoss

    def assignment(self, choices: Mapping[str, Choice]) -> Assignment:
        """The parameters of a whole configuration."""
        return Configuration.of(self.work, self.solved, choices, self.edges).assignment()

    def module(self, choices: Mapping[str, Choice]) -> nn.Module:
        """A whole configuration as a network."""
        return stitch(self.work.graph, self.assignment(choices))

    def losses(self, choices: Mapping[str, Choice]) -> Values:
        """The loss of a whole configuration and the answers missed, sample by sample.

        On the samples of the table.
        """
        graph, loss = self.work.graph, self.loss
        reference, outputs = (forward_of(graph, m) for m in (graph.module, self.module(choices)))
        parts: list[Values] = []
        with torch.no_grad():
            for batch in table_batches(self.job):
                wanted = reference(batch.inputs) if loss.needs_float else None
                parts.append(loss.of(wanted, outputs(batch.inputs), batch.labels).cpu().numpy())
        return np.concatenate(parts, axis=1)

    def run(self, choices: Mapping[str, Choice]) -> dict[str, float]:
        """Loss, and share of answers missed, of a whole configuration on the table's samples."""
        return figures(self.losses(choices))


def figures(values: Values) -> dict[str, float]:
    """The means of losses and of answers missed, [2, samples]."""
    return {"loss": float(values[0].mean()), "drop": float(values[1].mean())}


def solve_menu(job: Job, prepared: Prepared, menu: Menu, progress: Progress) -> Solutions:
    """Solve the choices of a menu, and those of the base; what the store holds is not solved again.

    Args:
        job: network, data, recipe, store.
        prepared: what one pass over the data told; it must have seen the choices of the menu.
        menu: the choices of every unit.
        progress: told of the stage.
    """
    recipe = job.recipe
    base = choices_of(prepared.graph, recipe)
    wanted = {name: tuple(dict.fromkeys((base[name], *menu[name]))) for name in menu}
    work = work_on(job, prepared, wanted)
    edges = edges_of(job, prepared, base)
    with progress.stage("solve the menu", len(work.tasks())) as tick:
        found = solve(work, "parallel", edges, tick)
    first = next(iter(table_batches(job)))
    loss = loss_of_network(work.graph, first, recipe.labels)
    return Solutions(job, prepared, work, base, found.edges, found.solutions, loss)


def table_batches(job: Job) -> Iterator[Batch]:
    """The calibration samples on which losses are measured, a few at a time.

    Beside a batch's values in the base network stand those of the variant that is run.
    """
    recipe = job.recipe
    counts = [n for n in (recipe.calib, recipe.table_samples) if n]
    data = take(job.data, min(counts)) if counts else job.data
    yield from batched(data, min(recipe.batch, TABLE_BATCH))
