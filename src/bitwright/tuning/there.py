"""A tuning step on the run's device: what it looks at is moved, what it made comes back."""

from __future__ import annotations

from dataclasses import replace

from bitwright.engine.device import is_host, move
from bitwright.graph.placing import batches_on
from bitwright.solving.configuration import Configuration
from bitwright.solving.samples import Samples


def send(start: Configuration) -> Configuration:
    """A configuration with its network, its solutions and its grids on the device of its work."""
    work, device = start.work, start.work.device
    graph = replace(work.placed, folded=move(dict(work.graph.folded), device))
    own = replace(work, graph=graph, batches=work.placed_batches)
    solved, edges = move(dict(start.solved), device), move(dict(start.edges), device)
    return Configuration(own, start.choices, solved, edges)


def send_samples(there: Configuration, samples: Samples) -> Samples:
    """The samples, batch by batch, where a configuration is."""
    fit, held_out = (batches_on(there.graph, s) for s in (samples.fit, samples.held_out))
    return replace(samples, fit=fit, held_out=held_out)


def bring_back(start: Configuration, made: Configuration) -> Configuration:
    """What a step made of `start`, on the host; `start` itself where the step undid its work."""
    return start.having(move(dict(made.solved), "cpu"), move(dict(made.edges), "cpu"))


def is_elsewhere(start: Configuration) -> bool:
    """Whether a configuration's work is done on another device than the host."""
    return not is_host(start.work.device)
