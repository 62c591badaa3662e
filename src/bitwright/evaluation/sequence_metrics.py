"""Word and character error rates of decoded sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bitwright.errors import DataError

IGNORED = -100


def edit_distance(said: Sequence[Any], true: Sequence[Any]) -> int:
    """The least number of insertions, deletions and substitutions from one to the other.

    Reference: Levenshtein 1966; by rows, Wagner and Fischer 1974.
    """
    row = list(range(len(true) + 1))
    for i, own in enumerate(said, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(true, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (own != other))
    return row[-1]


@dataclass
class ErrorRate:
    """Edits to the right sequences over their length, of all the data.

    The outputs are scores [N, steps, tokens], of which each step's highest token is taken. Labels
    are the right token of each step, -100 where there is none; or texts, dictionaries {"text",
    "alphabet"}: then repeated tokens are joined, token 0 is a blank and left out, and token i is
    the alphabet's i-th letter (CTC; Graves et al. 2006, section 3). `words` cuts texts at spaces.
    """

    words: bool
    edits: int = 0
    length: int = 0

    def add(self, outputs: Tensor, labels: Any) -> None:
        """Take in a batch."""
        name = "wer" if self.words else "cer"
        if outputs.dim() != 3 or not isinstance(labels, (Tensor, list)):
            raise DataError(
                f"the metric {name} needs scores [N, steps, tokens] and the right tokens of each "
                f"sample; the outputs have shape {tuple(outputs.shape)} and the labels are of type "
                f"{type(labels).__name__}. Name the output: --answer 'NAME=tokens'."
            )
        if isinstance(labels, Tensor):
            labels = labels.tolist()
        for steps, label in zip(outputs.argmax(-1).tolist(), labels, strict=True):
            said, true = _pair(steps, label)
            if self.words:
                said, true = (_cut_words(part) for part in (said, true))
            self.edits += edit_distance(said, true)
            self.length += len(true)

    def value(self) -> float | None:
        """Of all batches so far."""
        return self.edits / self.length if self.length else None


def _pair(steps: list[int], label: Any) -> tuple[list[Any], list[Any]]:
    """What is said and what is right: characters where the label is a text, else tokens."""
    if isinstance(label, dict):
        letters = str(label["alphabet"])
        kept = [t for i, t in enumerate(steps) if i == 0 or t != steps[i - 1]]
        said = [letters[t - 1] for t in kept if 0 < t <= len(letters)]
        return list(said), list(label["text"])
    pairs = [(s, t) for s, t in zip(steps, label, strict=False) if t != IGNORED]
    return [s for s, _ in pairs], [t for _, t in pairs]


def _cut_words(part: Sequence[Any]) -> list[Any]:
    if all(isinstance(letter, str) for letter in part):
        return "".join(part).split()
    return list(part)


def word_errors() -> ErrorRate:
    """Of words."""
    return ErrorRate(words=True)


def letter_errors() -> ErrorRate:
    """Of characters, or of tokens."""
    return ErrorRate(words=False)
