"""What a run writes down of its choices: the table without losses, allocation.json."""

from __future__ import annotations

from collections.abc import Mapping

from bitwright.allocation.chosen import AllocatedBits, ChosenBits
from bitwright.allocation.table import Table
from bitwright.graph.choice import Choice
from bitwright.graph.execute import bind
from bitwright.pipeline.choose_bits import Searched
from bitwright.pipeline.job import Job, Prepared
from bitwright.pipeline.plan import stream
from bitwright.sensitivity.prices import Prices, table_of
from bitwright.solving.configuration import Configuration


def table_of_costs(job: Job, prepared: Prepared, start: Configuration, seconds: float) -> Table:
    """The table of a run with one choice a unit: what it costs, as with a menu; no losses."""
    graph, choices = prepared.graph, start.choices
    by_task = {(name, choices[name]): solution for name, solution in start.solved.items()}
    flat = bind(graph, next(stream(job.data, job.recipe)))
    prices = Prices.beside(graph, prepared.target, start.assignment(), choices, flat)
    return table_of(prices, prepared.menu, by_task, None, seconds)


def bits_of(searched: Searched | None, choices: Mapping[str, Choice]) -> ChosenBits:
    """The bits that were taken, with what was measured of them where they were searched."""
    if searched is None:
        return ChosenBits(choices=choices)
    return AllocatedBits(
        allocation=searched.allocation,
        choices=searched.choices,
        measured_loss=searched.measured_loss,
        pairwise=searched.pairwise,
        lossless=searched.lossless,
        note=searched.note,
    )
