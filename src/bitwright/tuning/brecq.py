"""BRECQ: the rounding of all weights of a block is learned together, on the block's output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from bitwright.engine.limits import LIMITS
from bitwright.errors import RecipeError
from bitwright.evaluation.judge import Judge
from bitwright.graph.blocks import Block, find_blocks
from bitwright.graph.execute import Flat, Open
from bitwright.graph.kept import KeptPlace, name_inputs
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.replay import plan, replay
from bitwright.methods.problem import UnitSolution
from bitwright.methods.training import moves
from bitwright.numerics.affine import dequantize
from bitwright.numerics.soft_rounding import Press, SoftWeight
from bitwright.solving.configuration import Configuration
from bitwright.solving.samples import HELD_OUT, Samples, bytes_of, in_memory, size_of
from bitwright.tuning.descent import is_plain, weight_paths
from bitwright.tuning.fisher import fisher_diagonals
from bitwright.tuning.front import forwards, keep_both, parts_of
from bitwright.tuning.network import UnitSolutions, simulate
from bitwright.tuning.report import TuneReport, report_attempt
from bitwright.tuning.straight import differentiable, run_part

# What is kept in front of one block and behind it, of both networks and for all samples.
KEPT_BYTES = LIMITS.blocks
# Samples of one step: as many as make so many positions of the block's output, but no more than
# so many; an image of 112 x 112 is as many rows as a whole batch further on. What is kept is cut
# into parts of at least so many. For about the same time, many coarse steps on few samples end
# nearer to the float network than few fine ones on many (docs/measured/brecq_steps.md).
POSITIONS, BATCH, LEAST = 1 << 12, 8, 4


@dataclass(frozen=True)
class BlockReconstruction:
    """min over V of E[ F (z - z^)^2 ] + lambda sum (1 - |2 h(V) - 1|^beta), block by block.

    Attributes:
        iterations: steps of Adam for each block; a batch of the calibration set each.
        rate: of Adam.
        weight: lambda, for the mean over units of the sum over a channel's weights; the first term
            is relative to the output's energy.
        warm_up: share of the iterations without the regulariser.
        beta: its exponent at the start and at the end.
        fisher: weigh the output's errors by Fisher's diagonal; else all alike.
        fisher_samples: on so many samples.
        seed: of the order of batches.
    """

    name: ClassVar[str] = "brecq"
    iterations: int = 1000
    rate: float = 6e-2
    weight: float = 0.01
    warm_up: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)
    fisher: bool = True
    fisher_samples: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.iterations, self.fisher_samples) < 1 or not self.rate > 0.0:
            raise RecipeError(
                f"iterations={self.iterations}, fisher_samples={self.fisher_samples}, "
                f"rate={self.rate} in block reconstruction: all must be positive."
            )

    def apply(self, start: Configuration, samples: Samples) -> tuple[Configuration, TuneReport]:
        """See `reconstruct_blocks`."""
        return reconstruct_blocks(start, samples, self)


@dataclass(frozen=True, eq=False)
class _Rounding:
    """A unit's weight as floor + h(V), in steps of its grid."""

    old: UnitSolution
    soft: SoftWeight

    @classmethod
    def of(cls, old: UnitSolution, weight: Tensor) -> _Rounding:
        """Begin at the float weight, where it lies within the range."""
        grid, zero, scale = old.weight.grid, old.weight.zero_point, old.weight.scale
        low, high = grid.qmin - zero, grid.qmax - zero
        return cls(old, SoftWeight(weight.float() / scale, scale, low, high))

    def solution(self, weight: Tensor) -> UnitSolution:
        """What lies above one half goes up."""
        qparams = self.old.weight
        q = (self.soft.steps() + qparams.zero_point).to(qparams.grid.dtype)
        change = (dequantize(q, qparams) - weight).double().square().sum()
        error = float(change / weight.double().square().sum().clamp_min(1e-30))
        return replace(self.old, q=q, method="brecq", error=error, moves=moves(weight, q, qparams))


def reconstruct_blocks(
    start: Configuration, samples: Samples, options: BlockReconstruction | None = None
) -> tuple[Configuration, TuneReport]:
    """Learn the rounding of each block's weights together, in the order of execution.

    Equation: min over V of E[(z - z^)^T diag(F) (z - z^)], z the float network's value behind the
    block, z^ that of the quantised network, whose blocks before it are solved already; weights
    are floor(W / s) + h(V) as in AdaRound. Scales, biases and the grids of inputs stay. A block
    whose error on held-out samples does not fall stays as it was, and so does the network where
    its softened answers are further from the float network's than before.
    Reference: Li et al., arXiv 2102.05426, equation 10 and algorithm 1; blocks are found by
    `graph.blocks`, and F is the mean over samples (`tune.fisher`).

    Args:
        start: the network solved by nearest rounding; units without a solution stay in float.
        samples: calibration samples in two parts.
        options: how.

    Returns:
        The network, changed units new; and what happened.
    """
    options = options or BlockReconstruction()
    with torch.inference_mode(False), torch.no_grad():
        samples = in_memory(samples)
        judge = Judge.of(start.graph, samples.held_out)
        before = judge(simulate(start).module)
        made = _learn_blocks(start, samples, options)
        after = judge(simulate(start.changed(made)).module) if made else before
    # Every block was judged by itself; plain divergence of a few held-out samples of which the
    # network is sure is a matter of luck, and would undo what halves that of softened answers.
    kept = bool(made) and after.soft <= before.soft
    report = report_attempt("brecq", (before, after), tuple(made), kept, judge, samples)
    return (start.changed(made) if kept else start), report


def _learn_blocks(
    start: Configuration, samples: Samples, options: BlockReconstruction
) -> dict[str, UnitSolution]:
    graph = start.graph
    blocks = find_blocks(graph)
    ends = {block.end for block in blocks}
    fisher: Mapping[str, Tensor] = {}
    if options.fisher:
        fisher = fisher_diagonals(graph, ends, samples.fit, options.fisher_samples, options.seed)
    sizes = _sizes(graph, blocks, next(samples.fit()))
    steps = {block: _samples_of_a_step(graph, block, sizes[block.end]) for block in blocks}
    about = max(LEAST, min(steps.values()))
    opened = [_in_parts(graph, side, about) for side in (samples.fit, samples.held_out)]
    fit, apart = (keep_both(graph, side) for side in opened)
    part = size_of(next(opened[0]()))
    made: dict[str, UnitSolution] = {}
    simulated = simulate(start).graph
    for index, block in enumerate(blocks):
        names = _names_to_keep(graph, blocks[index - 1].end if index else "", blocks[index:])
        kept = 2 * sum(sizes[name] for name in names) + sizes[block.end]
        most = KEPT_BYTES // max(kept * part, 1)
        ways = forwards(graph, simulated, names)
        fit.move(ways, most)
        apart.move(ways, -(-most // HELD_OUT))
        weight = fisher.get(block.end, torch.ones(()))
        given = (fit, weight, max(1, round(steps[block] / part)), options)
        found = _block(graph, simulated, block, {**start.solved, **made}, given)
        if found:
            better = simulate(start.changed({**made, **found})).graph
            errors = [_error(graph, g, block, apart, weight) for g in (simulated, better)]
            if errors[1] < errors[0]:
                made |= found
                simulated = better
    return made


def _in_parts(graph: ModelGraph, batches: Open, about: int) -> Open:
    return lambda: (part for flat in batches() for part in parts_of(graph, flat, about))


def _sizes(graph: ModelGraph, blocks: tuple[Block, ...], flat: Flat) -> dict[str, int]:
    """The memory of every value at which some block begins or ends, for one sample."""
    names = {name for block in blocks for name in (*block.begin, block.end)}
    found: dict[str, int] = {}

    def visit(name: str, value: Any) -> None:
        found[name] = -(-bytes_of(value) // size_of(flat))

    replay(graph, name_inputs(graph, flat), names, visit=visit)
    return found


def _samples_of_a_step(graph: ModelGraph, block: Block, size: int) -> int:
    """As many as make POSITIONS, BATCH at most; `size` is the memory of one sample's output."""
    unit = graph.unit(block.units[-1])
    weight = graph.tensor(unit.weight)
    channels = weight.shape[unit.channel_axis] * weight.element_size()
    return min(BATCH, -(-POSITIONS // max(size // channels, 1)))


def _names_to_keep(graph: ModelGraph, end: str, blocks: tuple[Block, ...]) -> set[str]:
    """What these blocks read of what is made up to a node; nothing named: of the inputs."""
    nodes = graph.nodes()
    order = {name: i for i, name in enumerate(nodes)}
    if not end:
        return {name for name, node in nodes.items() if node.op == "placeholder"}
    begin = {name for block in blocks for name in block.begin}
    return {name for name in begin if order[name] <= order[end]}


def _block(
    graph: ModelGraph,
    simulated: ModelGraph,
    block: Block,
    solved: UnitSolutions,
    given: tuple[KeptPlace, Tensor, int, BlockReconstruction],
) -> dict[str, UnitSolution]:
    """The units of one block with their rounding learned."""
    kept, weight, parts, options = given
    paths = weight_paths(simulated.module)
    module = differentiable(simulated.module)
    nodes = plan(replace(graph, module=module), block.begin, [block.end])
    by_name = {node.name: node for node in module.graph.nodes}
    reached = {str(node.target) for node in nodes if node.op == "get_attr"}
    learned = {
        name: _Rounding.of(solved[name], graph.tensor(graph.unit(name).weight))
        for name in block.units
        if name in solved and is_plain(solved[name]) and paths.get(name) in reached
    }
    if not learned:
        return {}
    goals = [replay(graph, true, {block.end})[block.end] for true in kept.of(0)]
    energy = sum(float((weight * goal.square()).mean()) for goal in goals) / len(goals)
    press = Press(options.weight, options.warm_up, options.beta)
    for step, places in enumerate(_order(len(goals), parts, options)):
        leaves = {paths[name]: r.soft.weight.detach() for name, r in learned.items()}
        for leaf in leaves.values():
            leaf.requires_grad_().grad = None
        numbers = sum(goals[place].numel() for place in places)
        with torch.enable_grad():
            for place in places:
                begin = {by_name[name]: value for name, value in kept.parts[place][1].items()}
                out = run_part(module, nodes, begin, leaves)
                wrong = (weight * (out - goals[place]).square()).sum()
                # Parts add their gradients in the leaves: V sees one slope a step.
                torch.autograd.backward(wrong / (numbers * max(energy, 1e-30)))
        power = press.power(step, options.iterations)
        for name, rounding in learned.items():
            leaf = leaves[paths[name]]
            channels = leaf.shape[graph.unit(name).channel_axis]
            grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            share = options.weight / (len(learned) * channels)
            rounding.soft.step(grad, options.rate, power, share)
    return {n: r.solution(graph.tensor(graph.unit(n).weight)) for n, r in learned.items()}


def _order(count: int, parts: int, options: BlockReconstruction) -> Iterator[list[int]]:
    """Seeded numbers of the parts of each step; every one comes once before any comes again."""
    generator = torch.Generator().manual_seed(options.seed)
    left: list[int] = []
    for _ in range(options.iterations):
        places: list[int] = []
        while len(places) < min(parts, count):
            left = left or torch.randperm(count, generator=generator).tolist()
            places.append(left.pop())
        yield places


def _error(
    graph: ModelGraph, simulated: ModelGraph, block: Block, kept: KeptPlace, weight: Tensor
) -> float:
    """The weighted squared error behind a block, relative to the output's energy."""
    wrong = whole = 0.0
    for true, got in kept.parts:
        goal = replay(graph, true, {block.end})[block.end]
        out = replay(simulated, got, {block.end})[block.end]
        wrong += float((weight * (out - goal).square()).sum())
        whole += float((weight * goal.square()).sum())
    return wrong / max(whole, 1e-30)
