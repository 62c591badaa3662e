"""How much of the output's noise goes when some grids or weights are left in float."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.custom_ops import BIAS_BITS, DEQUANTIZE, FAKE_QUANTIZE, is_stored_weight
from bitwright.graph.execute import (
    Flat,
    NodeValues,
    compute,
    first_tensor,
    interpret,
    outputs_of,
    run,
)
from bitwright.graph.model_graph import ModelGraph

NOTHING: frozenset[str] = frozenset()


class Ablation:
    """A simulation of which parts can be left in float, beside the float network."""

    def __init__(
        self, graph: ModelGraph, stitched: fx.GraphModule, batches: Sequence[Flat]
    ) -> None:
        self.graph, self.stitched, self.batches = graph, stitched, batches
        self.units = {unit.name: unit for unit in graph.units}
        self.every_edge = frozenset(
            node.name for node in stitched.graph.nodes if node.target is FAKE_QUANTIZE
        )
        with torch.no_grad():
            self.answers = [self._answer(run(graph, flat)) for flat in batches]

    def noise(self, edges: Container[str] = NOTHING, weights: Container[str] = NOTHING) -> float:
        """Noise of the output as a share of its energy.

        Equation: sum (y - y^)^2 / sum y^2 over all outputs of all samples.

        Args:
            edges: quantisers that pass their values on as they are.
            weights: units whose weights are float.
        """
        error = signal = 0.0
        for flat, want in zip(self.batches, self.answers, strict=True):
            got = self._answer(self._run(flat, edges, weights))
            error += float((got.double() - want.double()).square().sum())
            signal += float(want.double().square().sum())
        noise = error / signal if signal else 0.0
        return noise if math.isfinite(noise) else math.inf

    def share(
        self, whole: float, edges: Container[str], weights: Container[str] = NOTHING
    ) -> float:
        """The part of the whole noise that goes; 0 where leaving them in float does not help."""
        if not whole:
            return 0.0
        left = self.noise(edges, weights)
        return max(0.0, 1.0 - left / whole) if math.isfinite(left) else 0.0

    def _answer(self, result: Any) -> Tensor:
        return first_tensor(outputs_of(self.graph, result)).detach()

    def _run(self, flat: Flat, edges: Container[str], weights: Container[str]) -> Any:
        given = iter(flat)

        def evaluate(node: fx.Node, values: NodeValues) -> Any:
            if node.target is FAKE_QUANTIZE and node.name in edges:
                return values[node.args[0]]  # type: ignore[index]
            kept = self._float_weight(node, weights)
            return compute(self.stitched, node, values, given) if kept is None else kept

        with torch.no_grad():
            *_, (_, result) = interpret(self.stitched.graph.nodes, {}, evaluate)
        return result

    def _float_weight(self, node: fx.Node, weights: Container[str]) -> Tensor | None:
        if node.target is not DEQUANTIZE or not is_stored_weight(node):
            return None
        name, bits = str(node.args[5]), node.args[3]
        unit = self.units.get(name.removesuffix(".bias") if bits == BIAS_BITS else name)
        if unit is None or unit.name not in weights:
            return None
        tensor = unit.bias if bits == BIAS_BITS else unit.weight
        return self.graph.tensor(tensor) if tensor is not None else None
