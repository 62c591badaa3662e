"""What each unit's input is on average, from folded batch-norms alone: no data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from bitwright.graph.activation import FUNCTIONS
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.operators import ACTIVATIONS
from bitwright.graph.sites import is_zero_pad
from bitwright.graph.units import input_of
from bitwright.prepare.joints import flatten_joint, inputs_of, top_of
from bitwright.prepare.rescale import by_input

aten = torch.ops.aten

# Points of the quadrature for activations that are no clips.
POINTS = 64
_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(POINTS))
_AVERAGES = {aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim}


@dataclass(frozen=True, eq=False)
class Clipped:
    """clip(N(mean, std^2), low, high) in each channel; std is None where only the mean is known."""

    centre: Tensor
    std: Tensor | None
    low: Tensor
    high: Tensor

    @classmethod
    def gauss(cls, mean: Tensor, std: Tensor | None) -> Clipped:
        """Nothing clipped."""
        wide = torch.full_like(mean, math.inf)
        return cls(mean, std, -wide, wide)

    def moments(self) -> tuple[Tensor, Tensor | None]:
        """Mean and variance.

        Equation: a = (low - m) / s, b = (high - m) / s, D = Phi(b) - Phi(a):
        E = low Phi(a) + high (1 - Phi(b)) + m D + s (phi(a) - phi(b)) and E x^2 likewise.
        Reference: Nagel et al., arXiv 1906.04721, appendix C.
        """
        if self.std is None:
            return self.centre, None
        m, s = self.centre, self.std.clamp_min(1e-12)
        a, b = (self.low - m) / s, (self.high - m) / s
        below, above = torch.special.ndtr(a), 1.0 - torch.special.ndtr(b)
        inside = 1.0 - below - above
        at_a, at_b = (torch.exp(-0.5 * v.square()) / math.sqrt(2 * math.pi) for v in (a, b))

        def ends(power: int) -> Tensor:
            low = torch.where(below > 0, self.low, 0.0).pow(power) * below
            high = torch.where(above > 0, self.high, 0.0).pow(power) * above
            return torch.add(low, high)

        mean = ends(1) + m * inside + s * (at_a - at_b)
        tails = torch.where(at_a > 0, a, 0.0) * at_a - torch.where(at_b > 0, b, 0.0) * at_b
        square = ends(2) + m.square() * inside + 2 * m * s * (at_a - at_b)
        square = square + s.square() * (inside + tails)
        return mean, (square - mean.square()).clamp_min(0.0)


def expect_inputs(graph: ModelGraph) -> dict[str, Tensor]:
    """The mean of every input channel of each unit, where batch-norms before it tell.

    A folded batch-norm says that its unit's output has mean beta and deviation |gamma|; a Gauss
    density then passes clips exactly, smooth activations by quadrature, sums as independent terms.
    What cannot be followed (max pooling, products, attention) tells nothing.
    Reference: Nagel et al., arXiv 1906.04721, section 4.2.1.
    """
    known: dict[fx.Node, Clipped] = {}
    by_call = {call: unit for unit in graph.units for call in unit.calls}
    for node in graph.module.graph.nodes:
        found = _after(graph, node, by_call, known)
        if found is not None:
            known[node] = found
    nodes = graph.nodes()
    means = {}
    for unit in graph.units:
        if len(unit.calls) != 1 or unit.kind in ("embedding", "matmul"):
            continue
        source = known.get(input_of(nodes[unit.calls[0]]))
        mean = None if source is None else source.moments()[0]
        if mean is not None and len(mean) == inputs_of(unit):
            means[unit.name] = mean
    return means


def _after(
    graph: ModelGraph,
    node: fx.Node,
    by_call: Mapping[str, Unit],
    known: Mapping[fx.Node, Clipped],
) -> Clipped | None:
    """What is known of a node's value."""
    if node.name in by_call:
        record = graph.folded.get(by_call[node.name].name)
        if record is None:
            return None
        return Clipped.gauss(record.beta.double(), record.gamma.double().abs())
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.target is aten.add.Tensor:
        return _sum(node, known)
    source = known.get(node.args[0])
    return None if source is None else _through(graph, node, node.args[0], source)


def _through(graph: ModelGraph, node: fx.Node, before: fx.Node, source: Clipped) -> Clipped | None:
    """What an operator on one value makes of it."""
    if node.target is aten.relu.default:
        return Clipped(source.centre, source.std, source.low.clamp_min(0), source.high.clamp_min(0))
    top = top_of(graph, node) if node.target in ACTIVATIONS or _is_minimum(node) else None
    if top is not None:
        high = torch.minimum(source.high, top.double())
        low = source.low if _is_minimum(node) else source.low.clamp_min(0)
        return Clipped(source.centre, source.std, low, high)
    if node.target in _AVERAGES:
        # Averages over pixels have the mean; how much they vary is not known.
        return Clipped.gauss(source.moments()[0], None)
    if ACTIVATIONS.get(node.target) in FUNCTIONS:
        return _smooth(node, source)
    pixels = flatten_joint(before, node)
    if pixels is not None:
        return Clipped.gauss(source.moments()[0].repeat_interleave(pixels), None)
    return source if is_zero_pad(node) else None


def _is_minimum(node: fx.Node) -> bool:
    return node.target is aten.minimum.default


def _sum(node: fx.Node, known: Mapping[fx.Node, Clipped]) -> Clipped | None:
    """A sum of independent values: means and variances add."""
    parts = [known.get(a) if isinstance(a, fx.Node) else None for a in node.args[:2]]
    if len(parts) != 2 or node.kwargs:
        return None
    moments = [part.moments() for part in parts if part is not None]
    if len(moments) != 2 or moments[0][0].shape != moments[1][0].shape:
        return None
    (mean, var), (other, more) = moments
    std = None if var is None or more is None else (var + more).sqrt()
    return Clipped.gauss(mean + other, std)


def _smooth(node: fx.Node, source: Clipped) -> Clipped | None:
    """f of a Gauss density by quadrature: sum_k w_k f(m + s z_k)."""
    numbers = (*node.args[1:], *node.kwargs.values())
    if source.std is None or not all(isinstance(v, (int, float, str, bool)) for v in numbers):
        return None
    points = source.centre[:, None] + source.std[:, None] * _NODES
    points = points.clamp(source.low[:, None], source.high[:, None])
    values = FUNCTIONS[ACTIVATIONS[node.target]](points, *node.args[1:], **node.kwargs)
    weights = _WEIGHTS / _WEIGHTS.sum()
    mean = values @ weights
    var = (values - mean[:, None]).square() @ weights
    return Clipped.gauss(mean, var.sqrt())


def gather_means(weight: Tensor, unit: Unit, constant: Tensor) -> Tensor:
    """What a unit makes of an input that is constant in each channel.

    Equation: o_c = sum_j c_j sum_k W_cjk, over the inputs j that output c sees.
    """
    if unit.groups == 1:
        outputs = weight.shape[unit.channel_axis]
        if unit.kind == "addmm" or unit.kind.startswith("conv_transpose"):
            return constant @ weight.reshape(weight.shape[0], outputs, -1).sum(2)
        return by_input(weight, unit).reshape(len(constant), outputs, -1).sum(2).T @ constant
    shape = (unit.groups, weight.shape[0] // unit.groups, weight.shape[1], -1)
    sums = weight.reshape(shape).sum(3)
    return (sums * constant.reshape(unit.groups, 1, -1)).sum(2).reshape(-1)
