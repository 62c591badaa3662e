"""Lines of JSON -> batches of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import DataError
from bitwright.sources.batches import Batch, Dataset
from bitwright.sources.guard import Foreign, absent

SINGLE_KEYS = ("text", "sentence")
PAIR_KEYS = (("sentence1", "sentence2"), ("question", "context"))
ANSWER_KEYS = ("label", "score", "answers")
_SNIPPET = 60

Text = str | tuple[str, str]


@dataclass(frozen=True)
class TextPreprocess:
    """Texts, or pairs of texts, -> a dict of token tensors, padded to the longest of the batch.

    Texts longer than `max_length` tokens are cut: of a question and its context the context, of
    other pairs the longer one. `accepts` are the arguments that the network takes; what the
    tokenizer makes beyond them is dropped. `classes` turns labels given by name into numbers.
    """

    tokenizer: Any
    max_length: int = 128
    batch_size: int = 32
    accepts: tuple[str, ...] | None = None
    classes: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        for key in ("max_length", "batch_size"):
            if getattr(self, key) < 1:
                raise DataError(f"text {key} {getattr(self, key)}: give a number of at least 1.")

    def __call__(self, texts: list[Text], *, cut: str = "longest_first") -> dict[str, Tensor]:
        """Token tensors of `texts`, which are all single texts or all pairs."""
        first = [text if isinstance(text, str) else text[0] for text in texts]
        second = [text[1] for text in texts if not isinstance(text, str)]
        with Foreign(
            DataError,
            "encoding text",
            remedy="Check the tokenizer: it needs a padding token and must return PyTorch tensors.",
        ):
            encoded = self.tokenizer(
                first,
                second or None,
                padding=True,
                truncation=cut,
                max_length=self.max_length,
                return_tensors="pt",
            )
            return {k: v for k, v in encoded.items() if self.accepts is None or k in self.accepts}


@dataclass(frozen=True)
class _Line:
    text: Text
    answer: object | None
    cut: str


def jsonl_dataset(path: Path, preprocess: object | None, *, spec: str = "") -> Dataset:
    """One JSON object a line, read as needed and in order.

    Keys: `text` or `sentence`; or `sentence1` and `sentence2`; or `question` and `context`.
    Optional, as labels: `label`, `score` or `answers`.
    """
    name = spec or str(path)
    if not path.is_file():
        raise DataError(f"{absent('file', name)}. Check the path.")
    if not isinstance(preprocess, TextPreprocess):
        raise DataError(
            f"{name!r} holds text, but no tokenizer is known for this network. Take the network "
            "as hf:FOLDER with its tokenizer files in the folder, or pass tokens as "
            "FILE.py:FUNCTION."
        )
    encode = preprocess

    def walk() -> Iterator[Batch]:
        held: list[_Line] = []
        for line in _lines(path):
            held.append(line)
            if len(held) == encode.batch_size:
                yield _batch(held, encode)
                held = []
        if held:
            yield _batch(held, encode)

    return Dataset(name, walk)


def _batch(lines: list[_Line], encode: TextPreprocess) -> Batch:
    inputs = encode([line.text for line in lines], cut=lines[0].cut)
    return Batch(inputs, _labels([line.answer for line in lines], encode.classes))


def _labels(answers: list[object | None], classes: Mapping[str, int] | None) -> object | None:
    if answers[0] is None:
        return None
    if classes and all(isinstance(a, str) and a in classes for a in answers):
        answers = [classes[str(a)] for a in answers]
    if all(isinstance(a, (int, float)) for a in answers):
        integer = all(isinstance(a, int) for a in answers)
        return torch.tensor(answers, dtype=torch.int64 if integer else torch.float32)
    return answers


def _lines(path: Path) -> Iterator[_Line]:
    keys: tuple[str, ...] | None = None
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            place = f"line {number} of {path}"
            row = _parse(raw, place)
            if keys is None:
                keys = _keys(row, place)
            yield _line(row, keys, place)


def _parse(raw: bytes, place: str) -> dict[str, object]:
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except ValueError as exc:  # covers broken JSON and broken UTF-8
        raise DataError(
            f"{place} is not JSON ({exc}): {_snippet(raw)}. Write one JSON object a line."
        ) from exc
    if not isinstance(row, dict):
        raise DataError(
            f"{place} is {type(row).__name__}, not an object: {_snippet(raw)}. Write one JSON "
            'object a line, for example {"text": "...", "label": 0}.'
        )
    return row


def _keys(row: dict[str, object], place: str) -> tuple[str, ...]:
    """The text keys and, last, the answer key or "" that the first line has: all lines must."""
    answer = next((key for key in ANSWER_KEYS if key in row), "")
    for pair in PAIR_KEYS:
        if all(key in row for key in pair):
            return (*pair, answer)
    for key in SINGLE_KEYS:
        if key in row:
            return (key, answer)
    raise DataError(
        f"{place} has the keys {sorted(row)}. Give text or sentence, or sentence1 and sentence2, "
        "or question and context; and, optional, label, score or answers."
    )


def _line(row: dict[str, object], keys: tuple[str, ...], place: str) -> _Line:
    *text_keys, answer = keys
    texts: list[str] = []
    for key in text_keys:
        value = row.get(key)
        if not isinstance(value, str):
            raise DataError(f"{place}: {key!r} is {value!r}, not a text. Give a string there.")
        texts.append(value)
    if answer and row.get(answer) is None:
        raise DataError(
            f"{place} has no {answer!r}, but earlier lines have. Label all lines or none."
        )
    text: Text = texts[0] if len(texts) == 1 else (texts[0], texts[1])
    cut = "only_second" if text_keys[0] == "question" else "longest_first"
    return _Line(text, row[answer] if answer else None, cut)


def _snippet(raw: bytes) -> str:
    text = raw.decode("utf-8", errors="replace").strip()
    return repr(text if len(text) <= _SNIPPET else text[:_SNIPPET] + "...")
