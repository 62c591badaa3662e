"""What a network's outputs mean, and what of them is compared.

A network of one answer (class scores, the ends of a span, an embedding) is compared by one tensor.
Any other is compared by all its outputs, each in its own way (`heads`): boxes and scores, several
heads, images, numbers. Which it is, is found once, at capture, from the names under which the
network returns its outputs, their shapes and their last operators (`find_heads`), or said by the
user (`declared`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bitwright.errors import DataError
from bitwright.graph.heads import EMBEDDING, NONE, SCORES, Head
from bitwright.graph.heads import unit_vectors as embedding

SPANS, SEVERAL = "spans", "several"
# What is compared of two results: a tensor, or of SEVERAL a tensor for each head.
Compared = Tensor | tuple[Tensor, ...]
_ENDS = ("start_logits", "end_logits")
_STATES = ("sentence_embedding", "text_embeds", "image_embeds", "last_hidden_state")


@dataclass(frozen=True)
class Answer:
    """Which outputs are compared, and how.

    Attributes:
        kind: `scores`: rows whose largest entry is the answer; `spans`: scores of where a span
            begins and of where it ends; `embedding`: a vector for each sample, of which the
            direction counts; `several`: each of the heads by what it means.
        leaves: the places of the tensors among the leaves of the result; empty where there is no
            float tensor at all.
        outputs: all outputs of the network and what they mean, also those not looked at; empty
            where nobody asked.
    """

    kind: str = SCORES
    leaves: tuple[int, ...] = (0,)
    outputs: tuple[Head, ...] = ()

    @property
    def heads(self) -> tuple[Head, ...]:
        """The outputs that are compared each in its own way; none where there is one answer."""
        several = self.kind == SEVERAL
        return tuple(h for h in self.outputs if h.kind != NONE) if several else ()

    def raw(self, result: Any) -> Tensor:
        """The first of the tensors as the network returns it.

        Raises:
            DataError: the network returns no float tensor.
        """
        if not self.leaves:
            raise DataError("the network returns no float tensor, so there is nothing to compare.")
        tensor: Tensor = pytree.tree_leaves(result)[self.leaves[0]]
        return tensor

    def of(self, result: Any, mask: Tensor | None = None) -> Compared:
        """What is compared, from a result in any form.

        Scores as they are; the scores of a span's ends as [samples, 2, positions]; an embedding as
        `embedding` makes it; of several heads each as the network returns it.
        """
        if self.kind == SEVERAL:
            return tuple(head.of(result) for head in self.heads)
        return self.one(result, mask)

    @property
    def wanted(self) -> tuple[int, ...]:
        """The leaves that losses are taken of: of several heads all, else the first."""
        return self.leaves if self.kind == SEVERAL else self.leaves[:1]

    def of_wanted(self, tensors: Sequence[Tensor]) -> Compared:
        """What is compared where losses are taken, from the values of `wanted`, as they are."""
        if self.kind != SEVERAL:
            return tensors[0]
        found = dict(zip(self.leaves, tensors, strict=True))
        return tuple(head.take(found[head.leaf]) for head in self.heads)

    def one(self, result: Any, mask: Tensor | None = None) -> Tensor:
        """The tensor that is compared where there is one; of several heads the first."""
        first = self.raw(result)
        if self.kind == SPANS:
            leaves = pytree.tree_leaves(result)
            return torch.stack([leaves[place] for place in self.leaves], dim=1)
        return embedding(first, mask) if self.kind == EMBEDDING else first


FIRST = Answer()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a network gave for a batch: what is compared, and all of it as it came.

    `whole` is the user's own structure: a dictionary, a tuple, a dataclass, or the tensor itself;
    `meaning` says what of it is compared.
    """

    answer: Compared
    whole: Any
    meaning: Answer = FIRST

    @property
    def samples(self) -> int:
        """How many samples the batch has."""
        return samples_of(self.answer)

    def take(self, kinds: Set[str]) -> Tensor:
        """The answer where there is one, else the first head of some kinds, or the first at all."""
        if isinstance(self.answer, Tensor):
            return self.answer
        pairs = zip(self.meaning.heads, self.answer, strict=True)
        return next((t for head, t in pairs if head.kind in kinds), self.answer[0])

    def named(self) -> dict[str, Tensor]:
        """What is compared, by the names of the outputs."""
        return name_parts(self.meaning, self.answer)


def samples_of(value: Compared) -> int:
    """How many samples something to compare is of."""
    first = value if isinstance(value, Tensor) else value[0]
    return first.shape[0] if first.dim() else 1


def name_parts(answer: Answer, value: Compared) -> dict[str, Tensor]:
    """What is compared, by the names of the outputs."""
    if not isinstance(value, Tensor):
        return {head.name: part for head, part in zip(answer.heads, value, strict=True)}
    name = next((h.name for h in answer.outputs if h.leaf in answer.leaves), "output")
    return {name: value}


def as_parts(value: Compared) -> tuple[Tensor, ...]:
    """What is compared, as several tensors, be there only one."""
    return (value,) if isinstance(value, Tensor) else value


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
