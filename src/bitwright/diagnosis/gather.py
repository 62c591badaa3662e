"""From a quantised network and a few samples to symptoms: what a diagnosis computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, fx

from bitwright.diagnosis import signatures
from bitwright.diagnosis.ablation import Ablation
from bitwright.diagnosis.repairs import try_repairs
from bitwright.diagnosis.saturated import find_saturated
from bitwright.diagnosis.side_by_side import BothSeen, SideBySide
from bitwright.diagnosis.symptoms import FileSymptoms, NormSymptoms, Symptoms
from bitwright.graph.execute import Flat
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.simulate import Assignment, stitch

# What a network in training mode says of itself when it is captured.
_TRAINING = "training mode"


@dataclass(frozen=True, eq=False)
class Examined:
    """What is looked at: the float network, what became of it, samples bound to its inputs.

    `images` are more samples, for what only the first layer sees; without them the same.
    """

    graph: ModelGraph
    assignment: Assignment
    batches: Sequence[Flat]
    images: Sequence[Flat] = ()
    file: FileSymptoms | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def gather(subject: Examined, tick: Callable[[int], None] = lambda _: None) -> Symptoms:
    """Everything that the causes are judged by.

    Args:
        subject: the network and the samples.
        tick: told the number of samples after each batch.
    """
    graph, batches = subject.graph, subject.batches
    stitched = stitch(graph, subject.assignment)
    both, samples = SideBySide(graph, stitched), 0
    repairs = try_repairs(graph, subject.images or batches)
    for flat in batches:
        both.add(flat)
        samples += next(t.shape[0] for t in flat if isinstance(t, Tensor) and t.dim())
        tick(samples)
    seen = both.seen()
    parts = Symptoms(
        samples=samples,
        edges=seen.edges,
        units=seen.units,
        joins=seen.joins,
        norms=_with_more(seen.norms, repairs.mismatch),
        repaired=repairs.repaired,
        shift=repairs.shift,
        shift_reversed=repairs.shift_reversed,
        in_training=any(_TRAINING in note.text for note in graph.notes),
        saturated=find_saturated(graph),
        file=subject.file,
        settings=subject.settings,
    )
    return _with_shares(parts, seen, graph, stitched, batches)


def _with_more(norms: tuple[NormSymptoms, ...], mismatch: float | None) -> tuple[NormSymptoms, ...]:
    """The first batch-norm as more samples show it."""
    if mismatch is None or not norms:
        return norms
    return (replace(norms[0], mismatch=mismatch), *norms[1:])


def _with_shares(
    parts: Symptoms,
    seen: BothSeen,
    graph: ModelGraph,
    stitched: fx.GraphModule,
    batches: Sequence[Flat],
) -> Symptoms:
    """The symptoms with what leaving suspects in float does to the output."""
    without = Ablation(graph, stitched, batches)
    noise, everything = without.noise(), frozenset(unit.name for unit in graph.units)
    shares = {
        cause: without.share(noise, edges, weights)
        for cause, (edges, weights) in list_suspects(seen).items()
    }
    return replace(
        parts,
        noise=noise,
        noise_of_weights=without.noise(edges=without.every_edge),
        noise_of_inputs=without.noise(weights=everything),
        shares=shares,
    )


def list_suspects(seen: BothSeen) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """By cause: the quantisers and the units' weights that are left in float to see."""
    nothing: frozenset[str] = frozenset()
    found: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
    for cause in signatures.OF_EDGES:
        edges = frozenset(e.name for e in seen.edges if signatures.signature(e) == cause)
        if edges:
            found[cause] = edges, nothing
    joins = [join for join in seen.joins if signatures.is_unlike(join, seen.edges)]
    if joins:
        found[signatures.JOIN] = frozenset(e for join in joins for e in join.edges), nothing
    depthwise = frozenset(unit.name for unit in seen.units if unit.depthwise)
    if depthwise:
        found[signatures.DEPTHWISE] = nothing, depthwise
    jump = signatures.find_jump(seen.units)
    if jump is not None:
        own = frozenset(e.name for e in seen.edges if e.unit == jump.name)
        found[signatures.JUMP] = own, frozenset({jump.name})
    return found
