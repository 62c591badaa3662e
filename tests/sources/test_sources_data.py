from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bitwright.errors import DataError
from bitwright.sources.arity import Arity
from bitwright.sources.batches import Batch, digest
from bitwright.sources.data import as_dataset, load_data


def spec(tmp_path, body: str) -> str:
    path = tmp_path / "d.py"
    path.write_text("import torch\n" + body, encoding="utf-8")
    return f"{path}:f"


# ---- functions -------------------------------------------------------------------------------


def test_a_list_of_batches(tmp_path):
    data = load_data(spec(tmp_path, "def f(): return [(torch.zeros(2, 3), torch.tensor([0, 1]))]"))
    for _ in range(2):
        (batch,) = data
        assert batch.size == 2 and batch.labels.tolist() == [0, 1]


def test_a_generator_is_made_anew_for_each_pass(tmp_path):
    body = "calls = []\ndef f():\n    for i in range(3):\n        yield torch.full((2, 1), i)\n"
    data = load_data(spec(tmp_path, body))
    assert [len(list(data)) for _ in range(3)] == [3, 3, 3]
    assert digest(data) == digest(data)


def test_a_loader_object_is_made_once(tmp_path):
    body = (
        "calls = []\ndef f():\n    calls.append(1)\n    return [torch.full((1, 1), len(calls))]\n"
    )
    data = load_data(spec(tmp_path, body))
    assert [next(iter(data)).inputs[0].item() for _ in range(3)] == [1, 1, 1]


def test_one_batch_as_a_tensor(tmp_path):
    (batch,) = load_data(spec(tmp_path, "def f(): return torch.zeros(5, 2)"))
    assert batch.size == 5


def test_limit_and_empty_batches(tmp_path):
    text = "def f(): return [torch.zeros(0, 2), torch.zeros(4, 2), torch.zeros(4, 2)]"
    assert [b.size for b in load_data(spec(tmp_path, text), limit=6)] == [4, 2]
    with pytest.raises(DataError, match="cannot take 0 samples"):
        load_data(spec(tmp_path, text), limit=0)


USED_UP = """
class Once:
    def __init__(self):
        self.left = iter([torch.zeros(2, 1)])
    def __iter__(self):
        return iter(list(self.left))
def f(): return Once()
"""


def test_a_loader_used_up_by_its_first_pass(tmp_path):
    data = load_data(spec(tmp_path, USED_UP))
    assert len(list(data)) == 1
    with pytest.raises(DataError, match="none on a later one"):
        list(data)


def test_a_loader_that_changes(tmp_path):
    data = load_data(spec(tmp_path, "def f():\n    yield torch.rand(2, 3)\n"))
    list(data)
    with pytest.raises(
        DataError, match="other samples on a later pass than on its first, from batch 0"
    ):
        list(data)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def f(): return []", "d.py:f holds no sample"),
        ("def f(): return [torch.zeros(0, 3)]", "holds no sample"),
        ("def f(): return 3", "returned int, which is not a re-iterable"),
        ("def f(): return None", "returned NoneType"),
        ("def f():\n    return 1 / 0", r"calling .* failed at .*d.py:3: ZeroDivisionError"),
        (
            "def f():\n    yield torch.zeros(1)\n    raise KeyError('k')",
            r"reading batch 1 of .*d.py:f failed at .*d.py:4: KeyError: 'k'",
        ),
        (
            "class A:\n    def __iter__(self):\n        raise OSError('disk')\ndef f(): return A()",
            r"starting a pass .* failed at .*d.py:4: OSError: disk",
        ),
        ("def f(): return ['a']", "batch 0 of .*d.py:f is str, not a tensor"),
        (
            "def f():\n    x = torch.zeros(2, 2); x[1] = float('nan')\n"
            "    return [torch.zeros(3, 2), x]",
            r"sample 4 of .*d.py:f: 2 values of input 0 are NaN",
        ),
    ],
)
def test_wrong_functions(tmp_path, body, message):
    with pytest.raises(DataError, match=message):
        list(load_data(spec(tmp_path, body)))


def test_neighbours_may_be_imported_late(tmp_path):
    (tmp_path / "late_neighbour_z.py").write_text("value = 4")
    body = "def f():\n    from late_neighbour_z import value\n    yield torch.full((1, 1), value)\n"
    assert next(iter(load_data(spec(tmp_path, body)))).inputs[0].item() == 4


def test_interrupts_pass_through(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        list(load_data(spec(tmp_path, "def f(): raise KeyboardInterrupt")))


def test_none_is_marked_and_empty():
    data = load_data("none")
    assert data.is_none and list(data) == []


# ---- the Python API --------------------------------------------------------------------------


def ramp(index: int) -> torch.Tensor:
    return torch.full((2, 1), float(index))


class Late:
    """A loader whose batches are shuffled from the second one on."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        order = (0, 1, 2, 3) if self.passes == 1 else (0, 1, 3, 2)
        return (ramp(i) for i in order)


def test_a_loader_that_changes_its_order_after_its_first_batch():
    data = as_dataset(Late())
    assert len(list(data)) == 4
    with pytest.raises(
        DataError, match="other samples on a later pass than on its first, from batch 2"
    ):
        list(data)


@pytest.mark.parametrize(
    ("counts", "message"), [((4, 3), "gave 4 batches .* but 3"), ((3, 4), "from batch 3")]
)
def test_a_loader_that_changes_its_length(counts, message):
    left = list(counts)
    data = as_dataset(lambda: iter([ramp(i) for i in range(left.pop(0))]))
    list(data)
    with pytest.raises(DataError, match=message):
        list(data)


def test_a_pass_that_stopped_early_is_compared_as_far_as_it_went():
    data = as_dataset(Late())
    assert next(iter(data)).size == 2
    assert len(list(data)) == 4  # the second pass: what lies beyond the first was not seen before
    with pytest.raises(DataError, match="from batch"):
        data_again = as_dataset(Late())
        walk = iter(data_again)
        [next(walk) for _ in range(3)]
        list(data_again)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (lambda: torch.eye(4).to_sparse(), r"is a sparse tensor. Pass .to_dense\(\)"),
        (lambda: torch.eye(4).to_sparse_csr(), "is a sparse tensor"),
        (lambda: torch.empty(4, 4, device="meta"), r"has no values \(device 'meta'\)"),
        (lambda: torch.nested.nested_tensor([torch.zeros(4), torch.zeros(3)]), "nested tensor"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_hold_no_plain_numbers(odd, message):
    with pytest.raises(DataError, match=f"batch 0 of the data .*{message}"):
        list(as_dataset([odd()]))
    with pytest.raises(DataError, match=f"the target of batch 0 of the data .*{message}"):
        list(as_dataset([((torch.zeros(4, 4),), odd())]))


# ---- (image, target) -------------------------------------------------------------------------

ONE = Arity(1, 1, "forward(x)")
TARGETS = {
    "mask": torch.zeros(4, 8, 8),
    "whole mask": torch.zeros(4, 8, 8, dtype=torch.int64),
    "float": torch.zeros(4),
    "several labels": torch.zeros(4, 20),
    "boxes": [{"boxes": torch.zeros(n, 4)} for n in range(4)],
    "a dict": {"mask": torch.zeros(4, 8, 8), "kind": torch.arange(4)},
    "an array": np.zeros((4, 3), np.float32),
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_any_kind_of_target(tmp_path, target):
    x = torch.rand(4, 3, 8, 8)
    for obj in ([(x, target)], [[x, target]]):
        (batch,) = as_dataset(obj, takes=ONE)
        assert len(batch.inputs) == 1 and torch.equal(batch.inputs[0], x)
        assert len(batch.labels) == (2 if isinstance(target, dict) else 4)


def test_a_loader_of_image_and_mask(tmp_path):
    loader = DataLoader(TensorDataset(torch.rand(6, 3, 4, 4), torch.rand(6, 4, 4)), batch_size=3)
    batches = list(as_dataset(loader, takes=ONE))
    assert [b.labels.shape for b in batches] == [(3, 4, 4)] * 2
    body = "def f(): return [(torch.zeros(2, 3), torch.zeros(2, 5))]"
    (batch,) = load_data(spec(tmp_path, body), takes=ONE)
    assert len(batch.inputs) == 1 and batch.labels.shape == (2, 5)


# ---- the Python API: forms -------------------------------------------------------------------


def test_as_dataset_takes_many_forms(tmp_path):
    x, y = torch.arange(8.0).view(4, 2), torch.arange(4)
    loader = DataLoader(TensorDataset(x, y), batch_size=2)
    forms = [
        x,
        x.numpy(),
        (x, y),
        [x[:2], x[2:]],
        [(x[:2], y[:2]), (x[2:], y[2:])],
        loader,
        lambda: [x],
        lambda: iter([x[:1], x[1:]]),
        lambda: loader,
        Batch((x,)),
        as_dataset(x),
        lambda: as_dataset(x),
    ]
    np.savez(tmp_path / "a.npz", x=x.numpy())
    forms.append(str(tmp_path / "a.npz"))
    assert len({digest(as_dataset(form)) for form in forms}) == 1
    assert len(list(as_dataset(forms[7]))) == len(list(as_dataset(forms[7]))) == 2
    assert as_dataset({"x": x}).open().__next__().inputs["x"] is not None
    assert as_dataset(None).is_none


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (3, "the data is of type int"),
        (iter([torch.zeros(2)]), "the data is an iterator .*walked only once"),
        (nn.Linear(1, 1), "the data is a network"),
        ([], "the data holds no sample"),
        (["a"], "batch 0 of the data is str"),
        (lambda: 1 / 0, "calling the data failed at .*test_sources_data.py"),
    ],
)
def test_as_dataset_refuses(obj, message):
    with pytest.raises(DataError, match=message):
        list(as_dataset(obj))
