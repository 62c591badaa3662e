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
from bitwright.sources.guard import Foreign, reason, say_absent

SINGLE_KEYS = ("text", "sentence")
PAIR_KEYS = (("sentence1", "sentence2"), ("question", "context"))
ANSWER_KEYS = ("label", "score", "answers")
_SNIPPET = 60
# A tokenizer takes about fifty times a text in memory, whatever few tokens of it are kept.
LINE_BYTES = 1_000_000

TextSample = str | tuple[str, str]
TextPlace = tuple[int, int] | None


@dataclass(frozen=True)
class TextPreprocess:
    """Texts, or pairs of texts, -> a dict of token tensors, padded to the longest of the batch.

    Texts longer than `max_length` tokens are cut: of a question and its context the context, of
    other pairs the longer one. `accepts` are the arguments that the network takes; what the
    tokenizer makes beyond them is dropped. `classes` turns labels given by name into numbers.
    `joint` networks read a pair as one text; others, sentence encoders, read one after the other,
    and a pair is two samples. `spans` networks mark an answer in a context: their labels say where
    in the context each token stands.
    """

    tokenizer: Any
    max_length: int = 128
    batch_size: int = 32
    accepts: tuple[str, ...] | None = None
    classes: Mapping[str, int] | None = None
    joint: bool = True
    spans: bool = False

    def __post_init__(self) -> None:
        for key in ("max_length", "batch_size"):
            if getattr(self, key) < 1:
                raise DataError(f"text {key} {getattr(self, key)}: give a number of at least 1.")

    def __call__(self, texts: list[TextSample], *, cut: str = "longest_first") -> dict[str, Tensor]:
        """Token tensors of `texts`, which are all single texts or all pairs."""
        with self._guard():
            return self._take_accepted(self._encode(texts, cut))

    def with_places(
        self, texts: list[TextSample], *, cut: str
    ) -> tuple[dict[str, Tensor], list[list[TextPlace]]]:
        """Token tensors of pairs, and where each token of a row stands in the second text."""
        with self._guard():
            encoded = self._encode(texts, cut, return_offsets_mapping=True)
            offsets = encoded["offset_mapping"].tolist()
            places = [
                [(a, b) if side == 1 else None for (a, b), side in zip(row, sides, strict=True)]
                for row, sides in zip(
                    offsets, map(encoded.sequence_ids, range(len(texts))), strict=True
                )
            ]
            return self._take_accepted(encoded), places

    def _encode(self, texts: list[TextSample], cut: str, **options: bool) -> Any:
        first = [text if isinstance(text, str) else text[0] for text in texts]
        second = [text[1] for text in texts if not isinstance(text, str)]
        return self.tokenizer(
            first,
            second or None,
            padding=True,
            truncation=cut,
            max_length=self.max_length,
            return_tensors="pt",
            **options,
        )

    def _take_accepted(self, encoded: Any) -> dict[str, Tensor]:
        return {k: v for k, v in encoded.items() if self.accepts is None or k in self.accepts}

    def _guard(self) -> Foreign:
        return Foreign(
            DataError,
            "encoding text",
            remedy="Check the tokenizer: it needs a padding token and must return PyTorch tensors.",
        )


@dataclass(frozen=True)
class _Line:
    number: int
    text: TextSample
    answer: object | None
    cut: str
    length: int


def jsonl_dataset(path: Path, preprocess: object | None, *, spec: str = "") -> Dataset:
    """One JSON object a line, read as needed and in order; a line has up to LINE_BYTES.

    Keys: `text` or `sentence`; or `sentence1` and `sentence2`; or `question` and `context`.
    Optional, as labels: `label`, `score` or `answers`. To a network that is no `joint` one a pair
    is two samples, whose labels are a dict of the number of the `pair` and its `label`; to one of
    `spans` a label is a dict of the `context`, the `answers` and the `places` of the tokens.
    """
    name = spec or str(path)
    if not path.is_file():
        raise DataError(f"{say_absent('file', name)}. Check the path.")
    if not isinstance(preprocess, TextPreprocess):
        raise DataError(
            f"{name!r} holds text, but no tokenizer is known for this network. Take the network "
            "as hf:FOLDER with its tokenizer files in the folder, or pass tokens as "
            "FILE.py:FUNCTION."
        )
    encode = preprocess

    def walk() -> Iterator[Batch]:
        held: list[_Line] = []
        length = 0
        for line in _lines(path):
            if held and (len(held) == encode.batch_size or length + line.length > LINE_BYTES):
                yield _batch(held, encode)
                held, length = [], 0
            held.append(line)
            length += line.length
        if held:
            yield _batch(held, encode)

    return Dataset(name, walk)


def _batch(lines: list[_Line], encode: TextPreprocess) -> Batch:
    texts, cut = [line.text for line in lines], lines[0].cut
    answers = [line.answer for line in lines]
    pairs = not isinstance(texts[0], str)
    if pairs and not encode.joint:
        return _split_pairs(lines, encode)
    if pairs and encode.spans and answers[0] is not None:
        inputs, places = encode.with_places(texts, cut=cut)
        rows = zip(lines, places, strict=True)
        return Batch(inputs, [_span(line, place) for line, place in rows])
    return Batch(encode(texts, cut=cut), _labels(answers, encode.classes))


def _split_pairs(lines: list[_Line], encode: TextPreprocess) -> Batch:
    """Both texts of every pair as samples of their own, next to each other."""
    both = [(line, text) for line in lines for text in line.text]
    inputs = encode([text for _, text in both])
    labels = _labels([line.answer for line, _ in both], encode.classes)
    numbers = torch.tensor([line.number for line, _ in both])
    return Batch(inputs, None if labels is None else {"pair": numbers, "label": labels})


def _span(line: _Line, places: list[TextPlace]) -> dict[str, object]:
    given: Any = line.answer
    # A list of texts, a list of objects with a text, or (as some tools write) an object of lists.
    texts = given.get("text") if isinstance(given, dict) else given
    answers = [a.get("text") if isinstance(a, dict) else a for a in texts or ()]
    if not all(isinstance(a, str) for a in answers):
        raise DataError(
            f"the answers on line {line.number} are {_snippet(repr(given).encode())}. Give a list "
            'of texts, or of objects such as {"text": "...", "answer_start": 0}.'
        )
    return {"context": line.text[1], "answers": answers, "places": places}


def _labels(answers: list[object | None], classes: Mapping[str, int] | None) -> object | None:
    if answers[0] is None:
        return None
    if classes and all(isinstance(a, str) and a in classes for a in answers):
        answers = [classes[str(a)] for a in answers]
    if all(isinstance(a, (int, float)) for a in answers):
        integer = all(isinstance(a, int) for a in answers)
        try:
            return torch.tensor(answers, dtype=torch.int64 if integer else torch.float32)
        except (RuntimeError, ValueError, OverflowError) as exc:
            raise DataError(
                f"a label is too large a number ({reason(exc)}). Labels are classes or scores."
            ) from exc
    return answers


def _lines(path: Path) -> Iterator[_Line]:
    keys: tuple[str, ...] | None = None
    with path.open("rb") as file:
        read = iter(lambda: file.readline(LINE_BYTES + 2), b"")
        for number, raw in enumerate(read, start=1):
            place = f"line {number} of {path}"
            if len(raw.rstrip(b"\r\n")) > LINE_BYTES:
                raise DataError(
                    f"{place} is longer than {LINE_BYTES:,} bytes: {_snippet(raw[:_SNIPPET])}. "
                    "Lines of up to that are read. Cut the text: a network looks at its first few "
                    "hundred words."
                )
            if not raw.strip():
                continue
            row = _parse(raw, place)
            if keys is None:
                keys = _keys(row, place)
            yield _line(row, keys, (place, number, len(raw)))


def _parse(raw: bytes, place: str) -> dict[str, object]:
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:  # broken JSON or UTF-8; brackets without end
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


def _line(row: dict[str, object], keys: tuple[str, ...], at: tuple[str, int, int]) -> _Line:
    place, number, length = at
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
    text: TextSample = texts[0] if len(texts) == 1 else (texts[0], texts[1])
    cut = "only_second" if text_keys[0] == "question" else "longest_first"
    return _Line(number, text, row[answer] if answer else None, cut, length)


def _snippet(raw: bytes) -> str:
    text = raw.decode("utf-8", errors="replace").strip()
    return repr(text if len(text) <= _SNIPPET else text[:_SNIPPET] + "...")
