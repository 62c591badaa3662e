"""What a network's outputs mean: class scores, the ends of a span, or an embedding.

Metrics, losses and tuning compare one tensor of the float network with the same tensor of the
quantised one. Which tensor that is, and whether its largest entry is an answer, is found once, at
capture, from the names under which the network returns its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bitwright.errors import DataError

SCORES, SPANS, EMBEDDING = "scores", "spans", "embedding"
_ENDS = ("start_logits", "end_logits")
_STATES = ("sentence_embedding", "text_embeds", "image_embeds", "last_hidden_state")


@dataclass(frozen=True)
class Answer:
    """Which outputs are compared, and how.

    Attributes:
        kind: `scores`: rows whose largest entry is the answer; `spans`: scores of where a span
            begins and of where it ends; `embedding`: a vector for each sample, of which the
            direction counts.
        leaves: the places of the tensors among the leaves of the result; empty where there is no
            float tensor at all.
    """

    kind: str = SCORES
    leaves: tuple[int, ...] = (0,)

    def raw(self, result: Any) -> Tensor:
        """The first of the tensors as the network returns it.

        Raises:
            DataError: the network returns no float tensor.
        """
        if not self.leaves:
            raise DataError("the network returns no float tensor, so there is nothing to compare.")
        tensor: Tensor = pytree.tree_leaves(result)[self.leaves[0]]
        return tensor

    def of(self, result: Any, mask: Tensor | None = None) -> Tensor:
        """The tensor to compare, from a result in any form.

        Scores as they are; the scores of a span's ends as [samples, 2, positions]; an embedding as
        `embedding` makes it.
        """
        first = self.raw(result)
        if self.kind == SPANS:
            leaves = pytree.tree_leaves(result)
            return torch.stack([leaves[place] for place in self.leaves], dim=1)
        return embedding(first, mask) if self.kind == EMBEDDING else first


FIRST = Answer()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a network gave for a batch: the tensor that is compared, and all of it as it came.

    `whole` is the user's own structure: a dictionary, a tuple, a dataclass, or the tensor itself.
    """

    answer: Tensor
    whole: Any

    @property
    def samples(self) -> int:
        """How many samples the batch has."""
        return self.answer.shape[0] if self.answer.dim() else 1


def embedding(states: Tensor, mask: Tensor | None = None) -> Tensor:
    """One vector of root mean square 1 for each sample: its tokens' (or pixels') mean.

    Equation: e = mean over tokens with mask 1 of h, then e / sqrt(mean(e^2)).
    Only the direction counts, as in a comparison by cosine. The length sqrt(C) makes losses that
    take a softmax meaningful too: for vectors near each other KL(softmax(a) || softmax(b)) is
    about half the mean squared difference, which is one minus their cosine.
    """
    if states.dim() == 4:
        pooled = states.mean((2, 3))
    elif states.dim() == 3:
        if mask is None or mask.shape != states.shape[:2]:
            pooled = states.mean(1)
        else:
            weight = mask.to(states).unsqueeze(-1)
            pooled = (states * weight).sum(1) / weight.sum(1).clamp_min(1.0)
    else:
        pooled = states.reshape(states.shape[0] if states.dim() else 1, -1)
    return pooled / pooled.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def answer_of(result: Any, free: Set[int] = frozenset()) -> Answer:
    """What the outputs of a network mean, from one result with the names that it has.

    Only a network that names its outputs can say that they are an embedding or a span; any other
    returns scores first. Leaves that are empty, or at places that are `free` (of a size that the
    input's values decide, such as the boxes that a filter lets pass), cannot be compared row by
    row with another network's: the first that can is taken.

    Raises:
        DataError: there are tensors, but none that can be compared.
    """
    leaves = pytree.tree_leaves(result)
    if isinstance(result, Mapping):
        if all(_is_float(result.get(name)) for name in _ENDS):
            return Answer(SPANS, tuple(_place(leaves, result[name]) for name in _ENDS))
        scores = [k for k, v in result.items() if "logits" in str(k) and _is_float(v)]
        if scores:
            best = "logits" if "logits" in scores else scores[0]
            return Answer(SCORES, (_place(leaves, result[best]),))
        for name in _STATES:
            if _is_float(result.get(name)):
                return Answer(EMBEDDING, (_place(leaves, result[name]),))
    floats = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]
    fit = [i for i in floats if i not in free and leaves[i].numel()]
    if floats and not fit:
        raise DataError(
            "every tensor of floats that the network returns is empty on the example inputs, or of "
            "a size that the input's values decide (as boxes after a filter are), so its answers "
            "cannot be compared with the float network's. Let forward() return the raw scores too, "
            "and filter them outside of it."
        )
    return Answer(SCORES, tuple(fit[:1]))


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def _place(leaves: list[Any], tensor: object) -> int:
    return next(i for i, leaf in enumerate(leaves) if leaf is tensor)
