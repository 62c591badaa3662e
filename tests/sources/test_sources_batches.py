from __future__ import annotations

from collections import UserDict

import numpy as np
import pytest
import torch

from bitwright.errors import DataError, ModelError
from bitwright.sources.batches import (
    Batch,
    Dataset,
    as_batch,
    as_inputs,
    check_finite,
    digest,
    rebatch,
    take,
)


def dataset(*batches: Batch) -> Dataset:
    return Dataset("test data", lambda: iter(batches))


def numbered(*sizes: int, labels: bool = True) -> Dataset:
    batches, start = [], 0
    for size in sizes:
        ids = torch.arange(start, start + size)
        batches.append(Batch((ids.float().view(-1, 1),), ids if labels else None))
        start += size
    return dataset(*batches)


# ---- as_batch --------------------------------------------------------------------------------


def test_a_tensor_is_inputs():
    batch = as_batch(torch.zeros(3, 2), "b")
    assert isinstance(batch.inputs, tuple) and batch.labels is None and batch.size == 3


def test_numpy_is_converted():
    batch = as_batch((np.zeros((3, 2), np.float32), np.array([1, 2, 3])), "b")
    assert batch.inputs[0].dtype == torch.float32
    assert torch.equal(batch.labels, torch.tensor([1, 2, 3]))


def test_read_only_and_reversed_arrays_are_converted():
    array = np.arange(6.0)
    array.flags.writeable = False
    assert as_batch(array, "b").size == 6
    assert as_batch(np.arange(6.0)[::-1], "b").inputs[0][0] == 5


@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 1, 2]), torch.tensor([True, False, True]), ["a", "b", "c"]]
)
def test_a_pair_with_labels(labels):
    batch = as_batch((torch.zeros(3, 2), labels), "b")
    assert len(batch.inputs) == 1 and len(batch.labels) == 3


def test_a_pair_with_none_is_inputs_without_labels():
    batch = as_batch(((torch.zeros(3, 2), torch.tensor([0, 1, 2])), None), "b")
    assert len(batch.inputs) == 2 and batch.labels is None


@pytest.mark.parametrize(
    "second", [torch.zeros(3), torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 2)]
)
def test_other_pairs_are_two_inputs(second):
    batch = as_batch((torch.zeros(3, 2), second), "b")
    assert len(batch.inputs) == 2 and batch.labels is None


def test_nested_inputs_make_the_second_element_labels_of_any_type():
    batch = as_batch(((torch.zeros(3, 2),), torch.tensor([0.1, 0.2, 0.3])), "b")
    assert len(batch.inputs) == 1 and batch.labels.dtype == torch.float32


def test_a_list_of_one_tensor_is_inputs():
    assert len(as_batch([torch.zeros(3, 2)], "b").inputs) == 1


@pytest.mark.parametrize("key", ["labels", "label"])
def test_a_dict_has_its_labels_split_off(key):
    batch = as_batch({"ids": torch.zeros(2, 4), key: torch.tensor([1, 0])}, "b")
    assert list(batch.inputs) == ["ids"] and torch.equal(batch.labels, torch.tensor([1, 0]))


def test_a_batch_encoding_counts_as_a_dict():
    batch = as_batch(UserDict({"ids": torch.zeros(2, 4)}), "b")
    assert type(batch.inputs) is dict


def test_dict_with_labels_beside_it():
    batch = as_batch(({"ids": torch.zeros(2, 4)}, torch.tensor([1, 0])), "b")
    assert list(batch.inputs) == ["ids"] and len(batch.labels) == 2


def test_dict_labels_survive_a_none_beside_them():
    batch = as_batch(({"ids": torch.zeros(2, 4), "labels": torch.tensor([1, 0])}, None), "b")
    assert len(batch.labels) == 2


def test_single_label_of_a_single_sample():
    assert as_batch((torch.zeros(1, 2), torch.tensor(7)), "b").labels.shape == (1,)


def test_dict_of_labels():
    pair = ({"ids": torch.zeros(2, 4)}, {"start": torch.tensor([1, 0])})
    assert list(as_batch(pair, "b").labels) == ["start"]


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ("hello", "batch 3 of d.py:f is str, not a tensor. A batch is inputs"),
        (None, "is NoneType, not a tensor"),
        ({"ids": [1, 2]}, "input 'ids' of batch 3 of d.py:f is list"),
        ({}, "holds no input tensor"),
        ({"labels": torch.tensor([1])}, "holds no input tensor"),
        ({3: torch.zeros(2)}, "has the key 3"),
        (torch.tensor(1.0), "is a single number"),
        (np.array(["a"]), "is an array of <U1"),
        ((torch.zeros(2, 1), torch.zeros(3, 1)), "0 has 2, 1 has 3"),
        ((torch.zeros(2, 1), ["a"]), "2 samples but 1 labels"),
        (((torch.zeros(2, 1),), 5), "labels of batch 3 of d.py:f are of type int"),
    ],
)
def test_wrong_batches(obj, message):
    with pytest.raises(DataError, match=message):
        as_batch(obj, "batch 3 of d.py:f")


def test_as_inputs_raises_the_error_it_is_told():
    with pytest.raises(ModelError, match="example_inputs of net is int"):
        as_inputs(3, "example_inputs of net", ModelError)


# ---- streams ---------------------------------------------------------------------------------


def test_take_cuts_inside_a_batch_with_labels():
    batches = list(take(numbered(4, 4, 4), 6))
    assert [b.size for b in batches] == [4, 2]
    assert batches[1].labels.tolist() == [4, 5]


def test_take_more_than_there_is():
    assert sum(b.size for b in take(numbered(4), 9)) == 4


def test_take_reads_no_batch_too_many():
    def walk():
        yield Batch((torch.zeros(2, 1),))
        raise AssertionError("read on")

    assert len(list(take(Dataset("d", walk), 2))) == 1


def test_take_and_rebatch_refuse_nothing():
    with pytest.raises(DataError, match="cannot take 0 samples of test data"):
        take(numbered(2), 0)
    with pytest.raises(DataError, match="cannot batch test data by 0"):
        rebatch(numbered(2), 0)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (1, 1, 10), (12,), (5, 1, 6)])
def test_rebatch_keeps_samples_in_order(size, sizes):
    batches = list(rebatch(numbered(*sizes), size))
    assert torch.cat([b.inputs[0].flatten() for b in batches]).tolist() == list(range(12))
    assert torch.cat([b.labels for b in batches]).tolist() == list(range(12))
    assert all(b.size == size for b in batches[:-1]) and 0 < batches[-1].size <= size


def test_rebatch_keeps_different_lengths_apart_and_splits_large_batches():
    texts = [Batch({"ids": torch.zeros(n, length)}) for n, length in [(5, 3), (2, 4), (2, 4)]]
    shapes = [tuple(b.inputs["ids"].shape) for b in rebatch(dataset(*texts), 4)]
    assert shapes == [(4, 3), (1, 3), (4, 4)]


def test_rebatch_joins_lists_dicts_and_missing_labels():
    x = torch.zeros(1, 2)
    lists = dataset(Batch((x,), ["a"]), Batch((x,), ["b"]))
    assert next(iter(rebatch(lists, 2))).labels == ["a", "b"]
    dicts = dataset(*(Batch({"x": x}, {"s": torch.tensor([i])}) for i in range(2)))
    assert next(iter(rebatch(dicts, 2))).labels["s"].tolist() == [0, 1]
    assert next(iter(rebatch(numbered(1, 1, labels=False), 2))).labels is None
    mixed = dataset(Batch((x,), ["a"]), Batch((x,), None))
    assert [b.size for b in rebatch(mixed, 2)] == [1, 1]


def test_rebatch_holds_little():
    read = 0

    def walk():
        nonlocal read
        for _ in range(100):
            read += 1
            yield Batch((torch.zeros(2, 1),))

    next(iter(rebatch(Dataset("d", walk), 6)))
    assert read == 3


# ---- digest and finiteness -------------------------------------------------------------------


def test_digest_does_not_depend_on_batching_or_labels():
    one = digest(numbered(12))
    assert one == digest(numbered(5, 7)) == digest(rebatch(numbered(12), 1))
    assert one == digest(numbered(12, labels=False))
    assert len(one) == 64


def test_digest_sees_values_order_types_shapes_and_names():
    x = torch.arange(6.0).view(2, 3)
    variants = [
        (x,),
        (x + 1,),
        (x.flip(0),),
        (x.double(),),
        (x.view(2, 3, 1),),
        (x, x),
        {"x": x},
        {"y": x},
        (x[:1],),
    ]
    assert len({digest(dataset(Batch(v))) for v in variants}) == len(variants)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int64])
def test_digest_takes_every_type_and_empty_shapes(dtype):
    assert digest(dataset(Batch((torch.zeros(3, dtype=dtype), torch.zeros(3, 0, dtype=dtype)))))


def test_digest_ignores_memory_layout():
    x = torch.arange(12.0).view(3, 4)
    assert digest(dataset(Batch((x.T,)))) == digest(dataset(Batch((x.T.contiguous(),))))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_inputs_name_sample_and_input(value):
    x = torch.zeros(4, 2)
    x[2] = value
    with pytest.raises(DataError, match=r"sample 102 of d.npz: 2 values of input 'x' are NaN"):
        check_finite(Batch({"i": torch.zeros(4, dtype=torch.int64), "x": x}), "d.npz", 100)


def test_finite_inputs_pass():
    check_finite(Batch((torch.zeros(2, 3),)), "d")
