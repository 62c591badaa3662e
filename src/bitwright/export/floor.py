"""Files that answer at random: no better than answers drawn by lot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.export.file_network import FileNetwork
from bitwright.export.runtimes import RuntimeRefusal
from bitwright.export.verified import Rejection
from bitwright.graph.execute import Inputs, bind, class_rows
from bitwright.graph.heads import BY_CLASS, EMBEDDING
from bitwright.graph.model_graph import ModelGraph
from bitwright.numerics.confidence import bound_rate_below

# A file with more of float's answers than this is poor at worst; of fewer samples nothing is said.
FLOOR, LEAST_SAMPLES, ALPHA = 2 / 3, 20, 0.05


def judge_floor(
    path: Path, graph: ModelGraph, batches: Iterable[Inputs], runtime: str
) -> Rejection | None:
    """Whether a file's answers could as well be drawn by lot; None where they could not.

    Equation: with p and q the shares of each answer among the float network's and the file's, such
    a lot agrees on sum(p q) of the samples. The file is rejected where fewer than `FLOOR` of its
    answers are float's, and the Clopper-Pearson bound that they exceed with 95 % confidence is no
    more than the lot. Samples that could not tell float itself from a lot, for it gives nearly
    always the same answer, reject nothing; embeddings have no answers.
    Reference: the expected agreement of Cohen, Educ. Psychol. Meas. 20 (1960).

    Args:
        path: model.onnx, in the runtime with its optimisations on.
        graph: the float network.
        batches: inputs.
        runtime: of the target.
    """
    if graph.answer.kind == EMBEDDING or not _has_scores(graph):
        return None
    float_: list[Tensor] = []
    own: list[Tensor] = []
    samples = 0
    try:
        network = FileNetwork(path, graph, runtime)
        with torch.no_grad():
            for inputs in batches:
                named = inputs if isinstance(inputs, dict) else {}
                flat = tuple(t for t in bind(graph, inputs) if isinstance(t, Tensor))
                before = _scores(graph, graph.module(**named) if named else graph.module(*flat))
                after = _scores(graph, network(**named) if named else network(*flat))
                float_.append(class_rows(before).argmax(-1).reshape(-1))
                own.append(class_rows(after).argmax(-1).reshape(-1))
                samples += before.shape[0] if before.dim() else 1
    except RuntimeRefusal:
        return None  # told by the verification
    return _judge(torch.cat(float_), torch.cat(own), samples) if float_ else None


def _has_scores(graph: ModelGraph) -> bool:
    """Whether some output has answers: rows of class scores along the usual axis."""
    heads = graph.answer.heads
    return not heads or any(head.kind in BY_CLASS and head.axis is None for head in heads)


def _scores(graph: ModelGraph, result: Any) -> Tensor:
    """The scores of a result; of several outputs the first that are."""
    for head in graph.answer.heads:
        if head.kind in BY_CLASS and head.axis is None:
            return head.of(result)
    return graph.answer.one(result)


def _judge(float_: Tensor, own: Tensor, samples: int) -> Rejection | None:
    agreement = float((float_ == own).double().mean())
    most = int(max(float_.max(), own.max())) + 1
    p, q = (torch.bincount(part, minlength=most).double() / len(part) for part in (float_, own))
    chance = float((p * q).sum())
    # Pixels and tokens hang together: what counts is the samples.
    bound = bound_rate_below(int(agreement * samples), samples, ALPHA)
    telling = bound_rate_below(samples, samples, ALPHA) > float(p.square().sum())
    if samples < LEAST_SAMPLES or agreement >= FLOOR or not telling or bound > chance:
        return None
    return Rejection(agreement=agreement, chance=chance, bound=bound, samples=samples)
