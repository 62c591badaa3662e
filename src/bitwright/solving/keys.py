"""Keys of the store: a digest of everything that a solution depends on."""

from __future__ import annotations

from collections.abc import Callable

from bitwright.engine.code import code_version
from bitwright.engine.digest import digest
from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import Unit
from bitwright.solving.collect import Grids
from bitwright.solving.work import Edges, Work, inputs_key


def run_key(keyed: Callable[..., object], work: Work, mode: str, edges: Edges) -> str:
    """What all solutions of a run share: code, network, data, target, method, mode and seed.

    `keyed` is the function whose outcome is kept: its code counts, and the method's.

    In the sequential mode the grids of all edges count too, for those before a unit shape what it
    is given.
    """
    ranges = sorted((k, inputs_key((qp,))) for k, qp in edges.items()) if mode != "parallel" else ()
    return digest(
        code_version(keyed, type(work.method), *_rules_of(work)),
        work.graph.digest(),
        work.data,
        work.target,
        type(work.method).__name__,
        work.method,
        mode,
        work.samples,
        work.batch,
        work.seed,
        work.by_output,
        work.portable,
        ranges,
    )


def _rules_of(work: Work) -> list[type]:
    """The class of a range rule that was handed to the method as an object."""
    rule = getattr(work.method, "weight_range", "")
    return [] if isinstance(rule, str) else [type(rule)]


def unit_key(base: str, unit: Unit, choice: Choice, grids: Grids) -> str:
    """The key of one solution; in the sequential mode `base` is the key of the unit before."""
    return digest(base, unit.name, choice, inputs_key(grids))
