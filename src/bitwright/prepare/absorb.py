"""High-bias absorption: what a channel always has at least moves into the next layer's bias."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from bitwright.engine.note import Note
from bitwright.graph.model_graph import ModelGraph, Unit, shallow_copy
from bitwright.graph.rows import geometry
from bitwright.prepare.expectation import gather_means
from bitwright.prepare.joints import Joint, find_joints, top_of
from bitwright.prepare.rescale import (
    behind_clip,
    for_reader,
    put_bias,
    put_clip,
    rebuilt,
    tensor64,
)

aten = torch.ops.aten

# Behind these a constant that is taken away before is the same constant taken away after.
_KEEPS_CONSTANTS = {
    aten.relu.default, aten.minimum.default, aten.relu6.default, aten.hardtanh.default,
    aten.clamp.default, aten.mean.dim, aten.flatten.using_ints, aten.reshape.default,
    aten.view.default, aten.adaptive_avg_pool2d.default, aten.adaptive_max_pool2d.default,
    aten.max_pool2d.default,
}  # fmt: skip
_RECTIFIERS = {
    aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default,
}  # fmt: skip


@dataclass(frozen=True)
class AbsorbBias:
    """c_i = max(0, beta_i - 3 |gamma_i|): b1 <- b1 - c, b2 <- b2 + W2 c.

    relu(y - c) = relu(y) - c wherever y >= c, which holds for all but 0.13 % of a Gaussian with the
    mean and deviation of the folded batch-norm; there the network changes a little. Ranges of
    activations become narrower, most of all after equalisation. Readers that pad with zeros are
    left alone: at their border the constant would be missing.
    Nagel et al., arXiv 1906.04721, section 4.1.3.

    Attributes:
        deviations: how many below the mean are still taken to be reached.
    """

    deviations: float = 3.0
    name: str = "absorb-bias"

    def apply(self, graph: ModelGraph) -> ModelGraph:
        """The graph with lower biases in front and higher ones behind."""
        module = shallow_copy(graph.module)
        nodes = {node.name: node for node in module.graph.nodes}
        units: dict[str, Unit] = {unit.name: unit for unit in graph.units}
        folded = dict(graph.folded)
        notes = []
        for joint in find_joints(graph):
            record = folded.get(joint.writer.name)
            if record is None or not _absorbs(graph, joint):
                continue
            beta, gamma = record.beta.double(), record.gamma.double().abs()
            moved = (beta - self.deviations * gamma).clamp_min(0.0)
            if not bool(moved.any()):
                continue
            _move(graph, module, nodes, units, joint, moved)
            folded[joint.writer.name] = replace(record, beta=(beta - moved).float())
            count = int((moved > 0).sum())
            notes.append(Note(joint.writer.name, f"{self.name}: {count} channels gave bias away"))
        made = rebuilt(graph, module, units, folded)
        return replace(made, notes=(*graph.notes, *notes))


def _absorbs(graph: ModelGraph, joint: Joint) -> bool:
    """Whether there is a ReLU in between, nothing that mixes constants up, and no padding."""
    nodes = graph.nodes()
    between = [nodes[name].target for name in joint.between]
    if not all(target in _KEEPS_CONSTANTS for target in between):
        return False
    rectified = any(target in _RECTIFIERS for target in between)
    return rectified and not any(_pads(r.unit, nodes[r.unit.calls[0]]) for r in joint.readers)


def _pads(unit: Unit, call: fx.Node) -> bool:
    form = geometry(unit, call)
    return form is not None and (form.transposed or any(form.padding))


def _move(
    graph: ModelGraph,
    module: fx.GraphModule,
    nodes: dict[str, fx.Node],
    units: dict[str, Unit],
    joint: Joint,
    moved: Tensor,
) -> None:
    writer = units[joint.writer.name]
    assert writer.bias is not None, "a folded batch-norm has left a bias"
    put_bias(module, nodes, writer, tensor64(module, writer.bias) - moved)
    for reader in joint.readers:
        unit = units[reader.unit.name]
        weight = tensor64(module, unit.weight)
        sums = gather_means(weight, unit, for_reader(moved, reader))
        old = torch.zeros_like(sums) if unit.bias is None else tensor64(module, unit.bias)
        units[unit.name] = put_bias(module, nodes, unit, old + sums)
    for clip in joint.clips:
        top = top_of(graph, graph.nodes()[clip])
        assert top is not None
        new = put_clip(module, nodes, joint, clip, top.double() - moved)
        units[writer.name] = behind_clip(units[writer.name], clip, new)
