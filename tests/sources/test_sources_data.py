from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bitwright.errors import DataError
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
    with pytest.raises(DataError, match="other samples on its second pass"):
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
        (
            "from torch.utils.data import DataLoader\n"
            "def f(): return DataLoader(list(range(3)), shuffle=True)",
            "DataLoader that shuffles.*shuffle=False",
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


# ---- npz -------------------------------------------------------------------------------------


def test_npz_streams_batches_with_labels(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(120.0).reshape(60, 2), y=np.arange(60, dtype=np.uint8))
    batches = list(load_data(str(tmp_path / "a.npz")))
    assert [b.size for b in batches] == [50, 10]
    assert batches[0].inputs[0].dtype == torch.float32
    assert batches[1].labels.tolist() == list(range(50, 60))
    assert batches[1].labels.dtype == torch.int64


def test_npz_types(tmp_path):
    for dtype, want in (("uint8", "float32"), ("float16", "float32"), ("int32", "int64")):
        np.savez(tmp_path / "a.npz", x=np.full((2, 2), 200 if dtype == "uint8" else 7, dtype))
        (batch,) = load_data(str(tmp_path / "a.npz"))
        assert str(batch.inputs[0].dtype) == f"torch.{want}"
    np.savez(tmp_path / "a.npz", x=np.full((2, 2), 200, np.uint8))
    assert next(iter(load_data(str(tmp_path / "a.npz")))).inputs[0].max() == 200


def test_npz_with_float_labels_of_one_per_sample(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.array([0.1, 0.2, 0.3]))
    (batch,) = load_data(str(tmp_path / "a.npz"))
    assert len(batch.inputs) == 1 and len(batch.labels) == 3


def test_wrong_npz(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match=r"no file '/.*a.npz'. Check the path"):
        load_data(str(path))
    for content, message in (
        ({"z": np.zeros(2)}, r"has no array 'x' \(it has \['z'\]\)"),
        ({"x": np.zeros(())}, "'x' of .* is a single number"),
        ({"x": np.zeros((3, 1)), "y": np.zeros(2)}, "3 samples in 'x' but 2 label"),
        ({"x": np.array(["a"])}, "is an array of <U1"),
        ({"x": np.array([{}], dtype=object)}, "cannot read .*Save plain numbers"),
    ):
        np.savez(path, **content)
        with pytest.raises(DataError, match=message):
            load_data(str(path))
    path.write_bytes(b"garbage")
    with pytest.raises(DataError, match="cannot read"):
        load_data(str(path))
    np.savez(path, x=np.zeros((0, 3)))
    with pytest.raises(DataError, match="holds no sample"):
        list(load_data(str(path)))
    np.savez(path, x=np.full((2, 3), np.inf))
    with pytest.raises(DataError, match=r"sample 0 of .*a.npz: 3 values"):
        list(load_data(str(path)))


# ---- the Python API --------------------------------------------------------------------------


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
        (DataLoader(list(range(3)), shuffle=True), "the data is a DataLoader that shuffles"),
    ],
)
def test_as_dataset_refuses(obj, message):
    with pytest.raises(DataError, match=message):
        list(as_dataset(obj))
