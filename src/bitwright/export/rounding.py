"""Answers that float rounding alone decides: which disagreements with a runtime mean nothing.

Two correct float32 implementations of one quantised network add in different orders. A value that
lies on the boundary of two grid points then falls to either side, the next layer sees a whole step
of difference, and so on: what was 1e-7 leaves the network as 1e-3 or, in a network with random
weights, as 1e-1. To tell this from a fault the simulation is run against itself: every unit's
result is disturbed by no more than the rounding difference that the runtime showed for that unit on
equal inputs, and every other value that a quantiser rounds by that of float32 itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.answers import EMBEDDING, FIRST, Answer
from bitwright.graph.custom_ops import FAKE_QUANTIZE, MARK
from bitwright.graph.execute import class_rows, walk
from bitwright.numerics.losses import cosine_rows

TWINS = 4
# The runtime is one more draw of the same noise: it may be somewhat larger than the largest seen.
SLACK = 2.0
FLOAT_EPSILON = float(torch.finfo(torch.float32).eps)
# Two vectors agree when the cosine of their angle is at least this.
SAME_DIRECTION = 0.99


def take_comparable(answer: Answer, result: Any) -> Tensor:
    """What is compared of a result: the tensor of answers, of embeddings that of every token."""
    return answer.raw(result) if answer.kind == EMBEDDING else answer.of(result)


def find_agreeing(answer: Answer, expected: Tensor, got: Tensor) -> Tensor:
    """Which rows answer alike: the same entry is largest, or vectors point the same way."""
    want, have = class_rows(expected), class_rows(got)
    if answer.kind == EMBEDDING:
        return cosine_rows(want, have) >= SAME_DIRECTION
    return want.argmax(-1) == have.argmax(-1)


def count_undecided(
    marked: fx.GraphModule,
    flat: tuple[Any, ...],
    expected: Tensor,
    got: Tensor,
    units: Mapping[str, float],
    answer: Answer = FIRST,
) -> int:
    """How many rows answer differently although nothing but float rounding tells them apart.

    A row counts when the two answers are closer to each other, in the simulation, than disturbing
    every unit by its own rounding moves that row's scores; and only if, over the whole batch, the
    runtime's difference is no larger than what the disturbance makes. Of an embedding a row counts
    when it differs by no more than the disturbance moves it.

    Args:
        marked: the simulation, stitched with marks.
        flat: the batch.
        expected: the simulation's output.
        got: the runtime's output.
        units: relative difference of each unit on equal inputs.
        answer: what the outputs mean.
    """
    want, have = class_rows(expected).double(), class_rows(got).double()
    twins = (take_comparable(answer, _disturb(marked, flat, units, seed)) for seed in range(TWINS))
    noise = torch.stack([class_rows(twin).double() - want for twin in twins])
    largest = noise.square().mean(dim=(1, 2)).sqrt().max()
    if not (have - want).square().mean().sqrt() <= SLACK * largest:
        return 0
    if answer.kind == EMBEDDING:
        moved = noise.square().sum(-1).sqrt().amax(0)
        explained = (have - want).square().sum(-1).sqrt() <= SLACK * moved
        return int((~find_agreeing(answer, expected, got) & explained).sum())
    answers = torch.stack([want.argmax(-1), have.argmax(-1)], dim=-1)
    scores = want.gather(-1, answers)
    margin = scores[:, 0] - scores[:, 1]
    # Either of the two scores can move by this much.
    reach = 2 * noise.abs().amax(dim=(0, 2))
    return int(((answers[:, 0] != answers[:, 1]) & (margin <= reach)).sum())


def _is_rounded(node: fx.Node) -> bool:
    """Whether a computed value is put on a grid: sums of quantised values often lie on its ties.

    Integer kernels of additions and poolings multiply by a quotient of scales where the file
    divides, so that ties fall to the other side.
    """
    computed = node.op in ("call_function", "call_method") and node.target is not FAKE_QUANTIZE
    return computed and any(user.target is FAKE_QUANTIZE for user in node.users)


def _disturb(
    marked: fx.GraphModule, flat: tuple[Any, ...], units: Mapping[str, float], seed: int
) -> Any:
    generator = torch.Generator().manual_seed(seed)

    def edit(node: fx.Node, value: Any) -> Any:
        marked = node.target is MARK
        if not (marked or _is_rounded(node)) or not value.numel():
            return value
        known = units.get(str(node.args[1]), 0.0) if marked else 0.0
        size = max(known, FLOAT_EPSILON) * value.abs().max()
        return value + size * (2 * torch.rand(value.shape, generator=generator) - 1)

    return walk(marked, flat, edit=edit)
