"""Texts without padding: the same samples, every one with its own tokens alone."""

from __future__ import annotations

import pytest
import torch

from bitwright.graph.model_graph import InputSpec
from bitwright.sources.batches import Batch, Dataset, rebatch, take
from bitwright.sources.lengths import batch_by_length, take_off_padding

MASK = InputSpec("attention_mask", (None, None), torch.int64)


def texts(lengths, pad_to, left=False, labels=True):
    """One padded batch; token k of text i is 100 i + k + 1."""
    ids = torch.zeros(len(lengths), pad_to, dtype=torch.int64)
    for i, length in enumerate(lengths):
        place = slice(pad_to - length, None) if left else slice(0, length)
        ids[i, place] = 100 * i + 1 + torch.arange(length)
    boxes = ids.unsqueeze(-1).expand(-1, -1, 4)
    inputs = {"input_ids": ids, "attention_mask": ids.ne(0).long(), "bbox": boxes}
    return Batch(inputs, list(range(len(lengths))) if labels else None)


def dataset(*batches, trim=True):
    return Dataset("texts", lambda: iter(batches), trim=trim)


@pytest.mark.parametrize("left", [False, True])
def test_padding_comes_off_and_every_sample_stays(left):
    lengths = [3, 5, 3, 1, 5, 3]
    seen = {}
    for batch in batch_by_length(dataset(texts(lengths, 7, left)), 2):
        assert batch.size <= 2 and bool(batch.inputs["attention_mask"].all())
        assert batch.inputs["bbox"].shape[:2] == batch.inputs["input_ids"].shape
        for ids, label in zip(batch.inputs["input_ids"], batch.labels, strict=True):
            seen[label] = ids.tolist()
    want = {i: [100 * i + 1 + k for k in range(n)] for i, n in enumerate(lengths)}
    assert seen == want


def test_the_first_batch_has_the_most_tokens_and_the_order_is_fixed():
    lengths = [2, 9, 4, 4, 4, 2]
    sizes = [
        tuple(b.inputs["input_ids"].shape) for b in batch_by_length(dataset(texts(lengths, 9)), 3)
    ]
    assert sizes == [(3, 4), (1, 9), (2, 2)]


def test_how_texts_were_padded_and_batched_changes_nothing():
    lengths = [3, 5, 3, 1, 5, 3, 2]
    whole = texts(lengths, 5)
    wide = texts(lengths, 11)
    one = list(batch_by_length(dataset(whole), 4))
    other = list(batch_by_length(dataset(wide.cut(0, 3), wide.cut(3, 7)), 4))
    for a, b in zip(one, other, strict=True):
        assert a.labels == b.labels
        assert all(torch.equal(a.inputs[k], b.inputs[k]) for k in a.inputs)


def test_token_labels_are_cut_too_and_the_decoders_tokens_are_not():
    batch = texts([2], 4, labels=False)
    inputs = {**batch.inputs, "decoder_input_ids": torch.ones(1, 4, dtype=torch.int64)}
    (found,) = batch_by_length(dataset(Batch(inputs, torch.tensor([[1, 2, -100, -100]]))), 1)
    assert found.labels.tolist() == [[1, 2]]
    assert found.inputs["decoder_input_ids"].shape == (1, 4)


def test_only_networks_of_any_length_ask_for_it():
    data = dataset(texts([1, 2], 2), trim=False)
    assert take_off_padding(data, [MASK]).trim and take(take_off_padding(data, [MASK]), 1).trim
    fixed = InputSpec("attention_mask", (None, 16), torch.int64)
    assert not take_off_padding(data, [fixed]).trim and not take_off_padding(data, []).trim
    plain = [b.inputs["input_ids"].shape for b in batch_by_length(data, 2)]
    assert plain == [b.inputs["input_ids"].shape for b in rebatch(data, 2)] == [(2, 2)]


def test_a_mask_of_nothing_is_left_alone():
    batch = Batch({"input_ids": torch.ones(1, 3), "attention_mask": torch.zeros(1, 3)})
    (found,) = batch_by_length(dataset(batch), 2)
    assert found.inputs["input_ids"].shape == (1, 3)
