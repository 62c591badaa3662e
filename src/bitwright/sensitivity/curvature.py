"""The loss's curvature at every unit's output, from gradients: the estimate that needs no probe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.answers import Compared
from bitwright.graph.draws import draw_answer
from bitwright.graph.execute import bind
from bitwright.graph.gauge import Gauge
from bitwright.graph.installed import Installed, evaluate
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.placing import same_device
from bitwright.graph.variants import answer_of_values, values_of, wanted_nodes
from bitwright.graph.work import OperationCount
from bitwright.sensitivity.sample_loss import by_sample
from bitwright.sources.batches import Batch


def output_curvature(
    graph: ModelGraph, batches: Iterable[Batch], seed: int = 0, temperature: float = 1.0
) -> dict[str, float]:
    """Loss change of each unit per relative squared error of its output, by the Fisher diagonal.

    Equation: KL ~ 1/2 dy^T F dy with F = E[g g^T], g the gradient of log p(label) to the unit's
    output y, the label drawn from the float network's own distribution. With an error that is
    spread evenly, |dy|^2 = e |y|^2 on average, and k = 1/2 E[|g|^2] E[|y|^2] / dim(y): what the
    error e has to be multiplied by. Rows of one sample (words, pixels) are drawn independently and
    the loss is their mean. Outputs that are no class scores have the squared error relative to
    their variance as loss, whose F is constant in them. Of several outputs see `graph.draws`.
    Reference: Amari 1998, "Natural gradient works efficiently in learning".

    Args:
        graph: the captured network, in float.
        batches: inputs; a few batches serve.
        seed: of the draws.
        temperature: T of softened class scores, whose divergence counts T^2 times.
    """
    generator = torch.Generator().manual_seed(seed)
    calls = {call: unit.name for unit in graph.units for call in unit.calls}
    squares: dict[str, float] = defaultdict(float)
    energy: dict[str, float] = defaultdict(float)
    sizes: dict[str, int] = defaultdict(int)
    samples = 0
    wanted: tuple[fx.Node, ...] | None = None
    gauge: Gauge | None = None
    for batch in batches:
        flat = same_device(graph, bind(graph, batch.inputs))
        wanted = wanted or wanted_nodes(graph, flat, OperationCount())
        if gauge is None and graph.answer.heads:
            values = values_of(graph, Installed(), flat, wanted, OperationCount())
            gauge = Gauge.fit(graph.answer.heads, [answer_of_values(graph, wanted, values)])
        draw = partial(_draw, gauge, generator=generator, temperature=temperature)
        samples += batch.size
        for call, y, gradient in _gradients(graph, flat, wanted, calls, draw):
            name = calls[call]
            squares[name] += float(gradient.double().square().sum())
            energy[name] += float(y.double().square().sum())
            sizes[name] += y.numel()
    return {
        unit.name: 0.5 * squares[unit.name] / samples * energy[unit.name] / sizes[unit.name]
        if sizes[unit.name]
        else 0.0
        for unit in graph.units
    }


def _gradients(
    graph: ModelGraph,
    flat: tuple[Any, ...],
    wanted: tuple[fx.Node, ...],
    calls: Iterable[str],
    draw: Callable[[Compared], tuple[Tensor, float]],
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every call's output on a batch, and a drawn gradient to it, scaled so that F = E[g g^T]."""
    values: dict[fx.Node, Any] = {}
    given = iter(flat)
    outputs: dict[str, Tensor] = {}
    wanted_calls = set(calls)
    with torch.enable_grad():
        for node in graph.module.graph.nodes:
            if node.op in ("get_attr", "output"):
                continue
            if node.op == "placeholder":
                values[node] = next(given)
                continue
            value = evaluate(graph.module, node, values.__getitem__, Installed(), OperationCount())
            if node.name in wanted_calls:
                value = outputs[node.name] = (
                    value if value.requires_grad else value.requires_grad_()
                )
            values[node] = value
        drawn, scale = draw(answer_of_values(graph, wanted, values))
        if not drawn.requires_grad:
            return
        gradients = torch.autograd.grad(drawn, list(outputs.values()), allow_unused=True)
    for (call, y), gradient in zip(outputs.items(), gradients, strict=True):
        if gradient is not None:
            yield call, y.detach(), gradient * scale


def _draw(
    gauge: Gauge | None, outputs: Compared, generator: torch.Generator, temperature: float
) -> tuple[Tensor, float]:
    """A scalar whose gradient has the loss's curvature as its second moment, after a scaling."""
    if gauge is not None:
        return draw_answer(gauge, outputs, generator), 1.0
    assert isinstance(outputs, Tensor)
    rows = by_sample(outputs)
    if rows.shape[-1] >= 2:
        scores = (rows.double() / temperature).log_softmax(-1)
        likely = scores.detach().exp().reshape(-1, rows.shape[-1]).cpu()
        labels = torch.multinomial(likely, 1, generator=generator).to(rows.device)
        drawn = scores.reshape(-1, rows.shape[-1]).gather(1, labels).sum()
        return drawn, temperature * rows.shape[1] ** -0.5
    noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows.device)
    energy = float(rows.detach().double().var(unbiased=False)) or 1.0
    return (noise * rows).sum(), (2.0 / (rows.shape[1] * energy)) ** 0.5
