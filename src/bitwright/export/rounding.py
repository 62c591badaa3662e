"""Answers that float rounding alone decides: which disagreements with a runtime mean nothing.

Two correct float32 implementations of one quantised network add in different orders. A value that
lies on the boundary of two grid points then falls to either side, the next layer sees a whole step
of difference, and so on: what was 1e-7 leaves the network as 1e-3 or, in a network with random
weights, as 1e-1. To tell this from a fault the simulation is run against itself: every unit's
result is disturbed by no more than the rounding difference that the runtime showed for that unit on
equal inputs, and every other value that a quantiser rounds by that of float32 itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.answers import FIRST, Answer, Compared, as_parts
from bitwright.graph.custom_ops import FAKE_QUANTIZE, MARK
from bitwright.graph.execute import class_rows, walk
from bitwright.graph.gauge import Gauge
from bitwright.graph.heads import EMBEDDING
from bitwright.numerics.losses import cosine_rows

TWINS = 4
# The runtime is one more draw of the same noise: it may be somewhat larger than the largest seen.
SLACK = 2.0
FLOAT_EPSILON = float(torch.finfo(torch.float32).eps)
# Two vectors agree when the cosine of their angle is at least this.
SAME_DIRECTION = 0.99
# Several outputs agree when this share of what each says does: pixels, labels, detections.
SAME_SHARE = 0.99


def take_comparable(answer: Answer, result: Any) -> Compared:
    """What is compared of a result: the tensor of answers, of embeddings that of every token."""
    return answer.raw(result) if answer.kind == EMBEDDING else answer.of(result)


def find_agreeing(answer: Answer, expected: Compared, got: Compared) -> Tensor:
    """Which rows answer alike: the same entry is largest, or vectors point the same way.

    Of several outputs which samples: all outputs say the same in `SAME_SHARE` of their parts.
    """
    if not (isinstance(expected, Tensor) and isinstance(got, Tensor)):
        return (find_shares(answer, expected, got) >= SAME_SHARE).all(1)
    want, have = class_rows(expected), class_rows(got)
    if answer.kind == EMBEDDING:
        return cosine_rows(want, have) >= SAME_DIRECTION
    return want.argmax(-1) == have.argmax(-1)


def find_shares(answer: Answer, expected: Compared, got: Compared) -> Tensor:
    """The share of each sample's answers that are the same, [samples, heads]."""
    return Gauge.fit(answer.heads, [expected]).agreements(expected, got)


def count_undecided(
    marked: fx.GraphModule,
    flat: tuple[Any, ...],
    expected: Compared,
    got: Compared,
    units: Mapping[str, float],
    answer: Answer = FIRST,
) -> int:
    """How many rows answer differently although nothing but float rounding tells them apart.

    A row counts when the two answers are closer to each other, in the simulation, than disturbing
    every unit by its own rounding moves that row's scores; and only if, over the whole batch, the
    runtime's difference is no larger than what the disturbance makes. Of an embedding a row counts
    when it differs by no more than the disturbance moves it; so does a sample of several outputs.

    Args:
        marked: the simulation, stitched with marks.
        flat: the batch.
        expected: the simulation's output.
        got: the runtime's output.
        units: relative difference of each unit on equal inputs.
        answer: what the outputs mean.
    """
    twins = [take_comparable(answer, _disturb(marked, flat, units, seed)) for seed in range(TWINS)]
    if not (isinstance(expected, Tensor) and isinstance(got, Tensor)):
        return _count_of_several(answer, expected, got, twins)
    want, have = class_rows(expected).double(), class_rows(got).double()
    noise = torch.stack([class_rows(_only(twin)).double() - want for twin in twins])
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


def _count_of_several(
    answer: Answer, expected: Compared, got: Compared, twins: Sequence[Compared]
) -> int:
    """How many samples differ in outputs that the disturbance moves as far."""
    agree = find_shares(answer, expected, got) >= SAME_SHARE
    apart = measure_distances(expected, got)
    moved = torch.stack([measure_distances(expected, twin) for twin in twins]).amax(0)
    in_all = apart.square().mean(0) <= SLACK**2 * moved.square().mean(0)
    explained = in_all & (apart <= SLACK * moved)
    return int((~agree.all(1) & (agree | explained).all(1)).sum())


def measure_distances(one: Compared, two: Compared) -> Tensor:
    """The root mean square difference of every sample in every output, [samples, heads]."""
    return torch.stack(
        [
            (a.double() - b.double()).flatten(1).square().mean(1).sqrt()
            for a, b in zip(as_parts(one), as_parts(two), strict=True)
        ],
        dim=1,
    )


def _only(value: Compared) -> Tensor:
    (tensor,) = as_parts(value)
    return tensor


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
