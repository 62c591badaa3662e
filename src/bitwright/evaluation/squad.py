"""Exact match and F1 of answers as SQuAD 1.1 defines them, and the span that scores choose.

Reference: Rajpurkar et al., arXiv 1606.05250, section 6.1, and the evaluation script that the
authors published with version 1.1 of the data.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MOST_TOKENS = 30
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

AnswerPlace = tuple[int, int] | None


def normalise(answer: str) -> str:
    """Lower case, without punctuation, articles and repeated white space.

    >>> normalise("The  Beatles' (an) album!")
    'beatles album'
    """
    bare = answer.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, truth: str) -> float:
    """1 where both are the same after normalisation."""
    return float(normalise(prediction) == normalise(truth))


def f1(prediction: str, truth: str) -> float:
    """Harmonic mean of precision and recall over the words, counted with repetition.

    Equation: 2 p r / (p + r), p = common / words of the prediction, r = common / words of the
    truth; 0 where no word is common, two empty answers included, as in the published script.

    >>> f1("in the garden", "garden of Eden")
    0.4
    """
    said, true = normalise(prediction).split(), normalise(truth).split()
    common = sum((Counter(said) & Counter(true)).values())
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(true)
    return 2 * precision * recall / (precision + recall)


def best_over(score: Callable[[str, str], float], prediction: str, truths: Sequence[str]) -> float:
    """The best score over all answers that count as right; 0 where there is none."""
    return max((score(prediction, truth) for truth in truths), default=0.0)


def best_span(start: Tensor, end: Tensor, places: Sequence[AnswerPlace], context: str) -> str:
    """The text between the two tokens of the context whose scores add up to most.

    Equation: max over i <= j < i + 30 of start_i + end_j, both tokens of the context.
    """
    inside = [i for i, place in enumerate(places[: len(start)]) if place is not None]
    if not inside:
        return ""
    first, last = inside[0], inside[-1] + 1
    total = start[first:last, None] + end[None, first:last]
    allowed = torch.ones_like(total, dtype=torch.bool).triu().tril(MOST_TOKENS - 1)
    i, j = divmod(int(total.masked_fill(~allowed, -torch.inf).argmax()), last - first)
    (begin, _), (_, stop) = places[first + i] or (0, 0), places[first + j] or (0, 0)
    return context[begin:stop]
