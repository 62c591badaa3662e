"""Equalisation by weight factorisation: every channel grows until it fills its layer's range."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.graph.model_graph import FoldedBatchNorm, ModelGraph
from bitwright.prepare.equalize import (
    alive,
    check_relu6,
    grow_channels,
    rescale_joint,
    usable,
    weights_of,
    writer_range,
)

# Activations are taken to end so many standard deviations from their mean.
SPREAD = 6.0


@dataclass(frozen=True)
class Factorize:
    """C_i = min(max_j w_j / w_i, max_j x_j / x_i): W1_i <- C_i W1_i, W2_:i <- W2_:i / C_i.

    w_i is the range of output channel i of the writer, x_i that of its activation: from the folded
    batch-norm, |beta_i| + 6 |gamma_i| (without one, weights decide alone). So each channel grows
    until its kernel or its activation ends where the layer's does; no range becomes larger, and
    relative noise falls in every channel. In one pass from the first layer to the last.
    Meller et al., arXiv 1902.01917, section 4 (one-step equalisation); from a description of the
    paper, not from its text.

    Attributes:
        relu6: see `Equalize`.
    """

    relu6: str = "clip"
    name: str = "factorize"

    def __post_init__(self) -> None:
        check_relu6(self.relu6, self.name)

    def apply(self, graph: ModelGraph) -> ModelGraph:
        """The graph with rescaled weights."""
        joints = usable(graph, self.relu6)
        weights = weights_of(graph, joints)
        factors = {}
        for joint in joints:
            own = writer_range(joint, weights)
            grow = torch.where(alive(own), _room(own), torch.inf)
            record = graph.folded.get(joint.writer.name)
            if record is not None:
                grow = torch.minimum(grow, _room(activation_range(record)))
            # Weights that are noise say nothing, and without a batch-norm nothing else does.
            grow = torch.where(torch.isfinite(grow), grow, 1.0)
            grow_channels(joint, weights, grow)
            factors[joint.writer.name] = grow
        return rescale_joint(graph, joints, weights, factors, self.relu6, self.name)


def activation_range(record: FoldedBatchNorm) -> Tensor:
    """How far the output of a folded batch-norm reaches."""
    return record.beta.double().abs() + SPREAD * record.gamma.double().abs()


def _room(ranges: Tensor) -> Tensor:
    """By how much each channel may grow until it reaches the widest."""
    return ranges.amax() / ranges
