from __future__ import annotations

import json
import tracemalloc

import pytest
import torch

from bitwright.errors import DataError
from bitwright.sources.data import load_data
from bitwright.sources.images import ImagePreprocess
from bitwright.sources.text import LINE_BYTES, TextPreprocess


class Tokens:
    """Stands for a tokenizer: a token is the length of a word; pairs are joined by 0."""

    model_input_names = ("input_ids", "attention_mask")

    def __call__(self, first, second, *, padding, truncation, max_length, return_tensors):
        assert padding is True and return_tensors == "pt"
        self.truncation = truncation
        rows = [[len(word) for word in text.split()] for text in first]
        if second:
            rows = [
                a + [0] + [len(w) for w in b.split()] for a, b in zip(rows, second, strict=True)
            ]
        rows = [row[:max_length] for row in rows]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": ids.ne(0).long(), "extra": ids}


def write(tmp_path, *rows) -> str:
    path = tmp_path / "d.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def load(spec, **options):
    return list(load_data(spec, preprocess=TextPreprocess(Tokens(), **options)))


def test_order_is_kept_and_padding_is_to_the_longest_of_the_batch(tmp_path):
    rows = [
        {"text": "a bb ccc", "label": 1},
        {"text": "dddd", "label": 0},
        {"text": "e", "label": 1},
    ]
    first, second = load(write(tmp_path, *rows), batch_size=2)
    assert first.inputs["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert first.labels.tolist() == [1, 0] and first.labels.dtype == torch.int64
    assert second.inputs["input_ids"].tolist() == [[1]]


def test_only_accepted_inputs_are_kept(tmp_path):
    (batch,) = load(write(tmp_path, {"sentence": "a"}), accepts=("input_ids",))
    assert list(batch.inputs) == ["input_ids"] and batch.labels is None


def test_pairs_and_scores(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "bb", "score": 2.5}]
    (batch,) = load(write(tmp_path, *rows))
    assert batch.inputs["input_ids"].tolist() == [[1, 0, 2]]
    assert batch.labels.dtype == torch.float32 and batch.labels.tolist() == [2.5]


def test_questions_keep_their_answers_and_cut_the_context(tmp_path):
    answers = {"text": ["x"], "answer_start": [3]}
    spec = write(tmp_path, {"id": "1", "question": "q", "context": "c c", "answers": answers})
    tokens = Tokens()
    (batch,) = load_data(spec, preprocess=TextPreprocess(tokens, max_length=3))
    assert batch.labels == [answers] and tokens.truncation == "only_second"
    assert batch.inputs["input_ids"].shape == (1, 3)


def test_labels_by_name(tmp_path):
    spec = write(tmp_path, {"text": "a", "label": "Sport"}, {"text": "b", "label": "World"})
    assert load(spec)[0].labels == ["Sport", "World"]
    (batch,) = load(spec, classes={"World": 0, "Sport": 1})
    assert batch.labels.tolist() == [1, 0]


def test_blank_lines_and_byte_order_mark(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "\xc3\xa9"}\n')
    (batch,) = load(str(path))
    assert batch.size == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"text": "a"}', "{broken"], r"line 2 of .*d.jsonl is not JSON .*'\{broken'"),
        (["[1]"], r"line 1 of .* is list, not an object: '\[1\]'"),
        ([{"body": "a"}], r"line 1 of .* has the keys \['body'\]. Give text or sentence"),
        ([{"text": 3}], "'text' is 3, not a text"),
        ([{"text": "a"}, {"sentence": "b"}], "line 2 of .*'text' is None"),
        ([{"text": "a", "label": 1}, {"text": "b"}], "line 2 of .* has no 'label'"),
        ([], "holds no sample"),
    ],
)
def test_wrong_lines(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path, *rows))


def test_long_lines_are_shortened_in_errors(tmp_path):
    with pytest.raises(DataError, match=r"x{60}\.\.\.'"):
        load(write(tmp_path, "x" * 500))


def test_not_utf8(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text": "\xff"}')
    with pytest.raises(DataError, match=r"line 1 of .* is not JSON"):
        load(str(path))


@pytest.mark.parametrize("preprocess", [None, ImagePreprocess((2, 2), (0.0,) * 3, (1.0,) * 3)])
def test_no_tokenizer(tmp_path, preprocess):
    with pytest.raises(DataError, match=r"no tokenizer is known .* hf:FOLDER"):
        load_data(write(tmp_path, {"text": "a"}), preprocess=preprocess)


def test_missing_file():
    with pytest.raises(DataError, match=r"no file 'missing.jsonl'"):
        load_data("missing.jsonl", preprocess=TextPreprocess(Tokens()))


def test_tokenizer_failure_and_wrong_options(tmp_path):
    def fails(*args, **kwargs):
        raise ValueError("no padding token")

    with pytest.raises(DataError, match=r"encoding text failed.*no padding token.*padding token"):
        list(load_data(write(tmp_path, {"text": "a"}), preprocess=TextPreprocess(fails)))
    with pytest.raises(DataError, match="text max_length 0"):
        TextPreprocess(Tokens(), max_length=0)


def test_a_network_that_reads_one_text_at_a_time_gets_two_samples_a_pair(tmp_path):
    rows = [
        {"sentence1": "a bb", "sentence2": "ccc", "score": 4.5},
        {"sentence1": "dddd", "sentence2": "a a a", "score": 1.0},
    ]
    (batch,) = load(write(tmp_path, *rows), joint=False)
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 0], [3, 0, 0], [4, 0, 0], [1, 1, 1]]
    assert batch.labels["pair"].tolist() == [1, 1, 2, 2]
    assert batch.labels["label"].tolist() == [4.5, 4.5, 1.0, 1.0]
    plain = [{k: row[k] for k in ("sentence1", "sentence2")} for row in rows]
    (batch,) = load(write(tmp_path, *plain), joint=False)
    assert batch.labels is None and batch.size == 4


def test_a_line_beyond_the_bound_is_not_read_to_its_end(tmp_path):
    path = write(tmp_path, {"text": "a"}, {"text": "b " * 10_000_000})
    tracemalloc.start()
    with pytest.raises(DataError, match=r"line 2 of .* is longer than 1,000,000 bytes: '{\"text"):
        list(load(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_line_of_just_the_bound(tmp_path, ending):
    row = json.dumps({"text": ""})
    row = json.dumps({"text": "a" * (LINE_BYTES - len(row))})
    path = write(tmp_path, row + ending)
    (batch,) = load(path)
    assert batch.inputs["input_ids"].tolist() == [[LINE_BYTES - 12]]
    with pytest.raises(DataError, match="longer than"):
        list(load(write(tmp_path, row[:-1] + " }" + ending)))


def test_long_lines_come_fewer_at_a_time(tmp_path):
    rows = [{"text": "a", "label": 0}, *({"text": "b" * 400_000, "label": i} for i in range(5))]
    batches = list(load(write(tmp_path, *rows)))
    assert [b.size for b in batches] == [3, 2, 1]
    assert torch.cat([b.labels for b in batches]).tolist() == [0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("label", "message"), [("[" * 200_000, "is not JSON"), ("1" * 400, "too large a number")]
)
def test_odd_labels(tmp_path, label, message):
    path = write(tmp_path, f'{{"text": "a", "label": {label}}}')
    with pytest.raises(DataError, match=message):
        list(load(path))
