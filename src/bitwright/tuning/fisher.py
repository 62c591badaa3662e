"""How much the answers depend on each number of some values: the diagonal of Fisher's matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.draws import draw_answer
from bitwright.graph.execute import Flat, NodeValues, Open, class_rows, compute, interpret
from bitwright.graph.gauge import Gauge
from bitwright.graph.model_graph import ModelGraph
from bitwright.solving.samples import size_of
from bitwright.tuning.front import parts_of


def fisher_diagonals(
    graph: ModelGraph, names: set[str], batches: Open, limit: int, seed: int = 0
) -> dict[str, Tensor]:
    """For each value the mean squared gradient of the answer's log-likelihood, with mean 1.

    Equation: F = E_x E_(y ~ p(y|x)) (d log p(y|x) / d z)^2 = E_x diag(J^T (diag p - p p^T) J), J
    how scores depend on z; p is the float network's own answer, so no label is needed. One y drawn
    for each sample would be the wrong class so seldom where the network is sure that F is a matter
    of luck; instead F = E_r (J^T r)^2 with r = sqrt(p) e - p (sqrt(p) . e), e of random signs: r's
    covariance is the matrix in the middle. Where an answer is a number, its density is a Gaussian
    of deviation 1, and r = e. Of several outputs F is their loss's curvature
    (`graph.draws`). The mean is over samples, and over positions where those may differ
    in number, so F has the shape of one sample or of the channels alone.
    Reference: Li et al. (BRECQ), arXiv 2102.05426, section 3.2.

    Args:
        graph: the float network.
        names: of the values.
        batches: opens a pass over samples.
        limit: so many samples at most.
        seed: of the signs.
    """
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    free = any(size is None for spec in graph.inputs for size in spec.shape[1:])
    done = 0
    for flat in batches():
        for part in parts_of(graph, flat):
            if done >= limit:
                break
            done += size_of(part)
            for name, gradient in _gradients(graph, part, names, generator).items():
                found = _over_samples(gradient, free)
                sums[name] = sums[name] + found if name in sums else found
    return {name: _normal(total) for name, total in sums.items()}


def _over_samples(gradient: Tensor, free: bool) -> Tensor:
    """Squares summed over samples; over positions too where their number is free."""
    squares = gradient.double().square()
    if squares.dim() == 3 or (free and squares.dim() == 4):
        axis = 1 if squares.dim() == 4 else 2
        rest = [i for i in range(squares.dim()) if i != axis]
        shape = [1] * squares.dim()
        shape[axis] = -1
        return squares.sum(rest).reshape(shape)
    return squares.sum(0, keepdim=True)


def _normal(total: Tensor) -> Tensor:
    mean = total.mean()
    return (total / mean).float() if bool(mean > 0) else torch.ones_like(total).float()


def _gradients(
    graph: ModelGraph, flat: Flat, names: set[str], generator: torch.Generator
) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}
    given = iter(flat)
    result: Any = None

    def evaluate(node: fx.Node, values: NodeValues) -> Any:
        value = compute(graph.module, node, values, given)
        if node.name in names:
            value = value if value.requires_grad else value.detach().requires_grad_()
            kept[node.name] = value
        return value

    with torch.enable_grad():
        for _, result in interpret(graph.module.graph.nodes, {}, evaluate):  # noqa: B007
            pass
        answer = graph.answer.of(result)
        if isinstance(answer, Tensor):
            rows = class_rows(answer)
            score = (rows * _projection(rows.detach(), generator)).sum()
        else:
            score = draw_answer(Gauge.fit(graph.answer.heads, [answer]), answer, generator)
        found = torch.autograd.grad(score, list(kept.values()), allow_unused=True)
    return {n: g for n, g in zip(kept, found, strict=True) if g is not None}


def _projection(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Random vectors whose covariance is Fisher's matrix of these scores."""
    drawn = torch.randint(0, 2, rows.shape, generator=generator, device=generator.device)
    signs = 2.0 * drawn.to(rows) - 1.0
    if rows.shape[-1] == 1:
        return signs
    p = torch.softmax(rows, dim=-1)
    r = p.sqrt() * signs
    return r - p * r.sum(dim=-1, keepdim=True)
