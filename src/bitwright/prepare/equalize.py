"""Cross-layer equalisation: channels of a joint get the same range on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.engine.note import Note
from bitwright.errors import RecipeError, unknown
from bitwright.graph.model_graph import ModelGraph, Unit, shallow_copy
from bitwright.prepare.joints import Joint, find_joints, top_of
from bitwright.prepare.rescale import (
    behind_clip,
    by_input,
    by_output,
    for_reader,
    put,
    put_bias,
    put_clip,
    put_relu,
    rebuilt,
    scale_inputs,
    scale_outputs,
    scale_record,
    tensor64,
)

RELU6 = ("clip", "relu", "skip")
# Weights below this part of the layer's greatest are noise: the channel is constant, and to scale
# it would blow up the constant (training leaves 1e-20 in channels that batch-norms switched off).
DEAD = 1e-5

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Equalize:
    """s_i = sqrt(r1_i / r2_i): W1_i <- W1_i / s_i, b1_i <- b1_i / s_i, W2_:i <- W2_:i s_i.

    r1_i is the range of output channel i of the writer, r2_i of input channel i of its readers;
    afterwards both are sqrt(r1_i r2_i), which makes sum_i (r1_i / R1) (r2_i / R2) greatest. All
    joints are swept until nothing moves. f(s x) = s f(x) holds for ReLU, PReLU and LeakyReLU; a
    ReLU6 gets a clip of 6 / s_i for each channel, so that the float network stays what it was.
    Nagel et al., arXiv 1906.04721, section 4.1.

    A writer's channel whose weights are noise is constant; it takes the factor that brings its
    readers to the layer's median, for by the formula its bias would grow beyond all bounds.

    Attributes:
        relu6: `clip` for each channel; `relu` lets the clip go, as the paper does, which changes
            the network where it saturates; `skip` leaves such joints alone.
        sweeps: at most.
        tolerance: stop when no factor differs from 1 by more.
    """

    relu6: str = "clip"
    sweeps: int = 100
    tolerance: float = 1e-3
    name: str = "equalize"

    def __post_init__(self) -> None:
        check_relu6(self.relu6, self.name)

    def apply(self, graph: ModelGraph) -> ModelGraph:
        """The graph with equalised weights."""
        joints = usable(graph, self.relu6)
        weights = weights_of(graph, joints)
        factors = {j.writer.name: torch.ones(j.channels).double() for j in joints}
        for _ in range(self.sweeps):
            furthest = 0.0
            for joint in joints:
                name = joint.writer.name
                grow = _balance(joint, weights)
                grow_channels(joint, weights, grow)
                factors[name] = factors[name] * grow
                furthest = max(furthest, float(grow.log().abs().max()))
            if furthest <= self.tolerance:
                break
        return rescale_joint(graph, joints, weights, factors, self.relu6, self.name)


def check_relu6(value: str, place: str) -> None:
    """Refuse an unknown treatment of ReLU6."""
    if value not in RELU6:
        raise RecipeError(unknown("treatment of ReLU6", value, RELU6, place))


def usable(graph: ModelGraph, relu6: str) -> tuple[Joint, ...]:
    """The joints that may be rescaled."""
    return tuple(j for j in find_joints(graph) if relu6 != "skip" or not j.clips)


def weights_of(graph: ModelGraph, joints: tuple[Joint, ...]) -> Weights:
    """The weights of all units of some joints, in float64."""
    units = {u.name: u for j in joints for u in (j.writer, *(r.unit for r in j.readers))}
    return {name: tensor64(graph.module, unit.weight) for name, unit in units.items()}


def _balance(joint: Joint, weights: Weights) -> Tensor:
    """sqrt(r2 / r1), by which each channel should grow; dead readers leave it as it is."""
    own, theirs = writer_range(joint, weights), reader_range(joint, weights)
    if not bool(alive(own).any()):
        return torch.ones_like(own)
    level = own[alive(own)].median()
    # sqrt(r2 / r1) is then r2 / level.
    own = torch.where(alive(own), own, level.square() / theirs.clamp_min(1e-300))
    return torch.where(alive(theirs), theirs / own.clamp_min(1e-300), 1.0).sqrt()


def alive(ranges: Tensor) -> Tensor:
    """Which channels are more than noise."""
    return ranges > DEAD * ranges.amax()


def writer_range(joint: Joint, weights: Weights) -> Tensor:
    """max |W| of each output channel of the writer."""
    return by_output(weights[joint.writer.name], joint.writer).abs().amax(1)


def reader_range(joint: Joint, weights: Weights) -> Tensor:
    """max |W| of each input channel over all readers."""
    found = [
        by_input(weights[r.unit.name], r.unit).abs().amax(1).reshape(joint.channels, -1).amax(1)
        for r in joint.readers
    ]
    return torch.stack(found).amax(0)


def grow_channels(joint: Joint, weights: Weights, factor: Tensor) -> None:
    """Let the joint's channels grow by a factor each: the writer by it, the readers against it."""
    name = joint.writer.name
    weights[name] = scale_outputs(weights[name], joint.writer, factor)
    for reader in joint.readers:
        name = reader.unit.name
        weights[name] = scale_inputs(weights[name], reader.unit, 1.0 / for_reader(factor, reader))


def rescale_joint(
    graph: ModelGraph,
    joints: tuple[Joint, ...],
    weights: Weights,
    factors: Mapping[str, Tensor],
    relu6: str,
    step: str,
) -> ModelGraph:
    """The graph with rescaled weights, and biases, clips and records that fit to them."""
    module = shallow_copy(graph.module)
    nodes = {node.name: node for node in module.graph.nodes}
    units: dict[str, Unit] = {unit.name: unit for unit in graph.units}
    folded, notes = {}, []
    for name, weight in weights.items():
        put(module, units[name].weight, weight)
    for joint in joints:
        writer, factor = joint.writer, factors[joint.writer.name]
        if writer.bias is not None:
            put_bias(module, nodes, writer, tensor64(module, writer.bias) * factor)
        if writer.name in graph.folded:
            folded[writer.name] = scale_record(graph.folded[writer.name], factor)
        for clip in joint.clips:
            if relu6 == "relu":
                new = put_relu(module, nodes, clip)
                notes.append(Note(writer.name, f"{step}: its clip is let go; only a ReLU is left"))
            else:
                top = top_of(graph, graph.nodes()[clip])
                assert top is not None
                new = put_clip(module, nodes, joint, clip, top.double() * factor)
            units[writer.name] = behind_clip(units[writer.name], clip, new)
    made = rebuilt(graph, module, units, folded)
    return replace(made, notes=(*graph.notes, *notes))
