from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.errors import DataError
from bitwright.sources.arity import Arity, arity_of
from bitwright.sources.batches import as_batch

X, Y, Z = torch.zeros(4, 3, 8, 8), torch.zeros(4, 5), torch.zeros(4, 2)
LABELS = torch.arange(4)


def network(source: str) -> nn.Module:
    """A network whose forward() has the parameters given."""
    space: dict[str, object] = {"nn": nn}
    exec(f"class Net(nn.Module):\n    def forward(self, {source}): return 0", space)
    return space["Net"]()


@pytest.mark.parametrize(
    ("source", "least", "most"),
    [
        ("x", 1, 1),
        ("x, table", 2, 2),
        ("x, mask=None", 1, 2),
        ("x, features=False, scale=1.0, mode='a'", 1, 1),
        ("x=None, y=None", 1, 2),
        ("*args", 1, None),
        ("x, *args", 1, None),
        ("x, *, mask=None", 1, 1),
        ("x, **more", 1, 1),
        ("", 1, 1),
    ],
)
def test_inputs_by_the_signature(source, least, most):
    found = arity_of(network(source))
    assert (found.least, found.most) == (least, most) and found.told.startswith("forward(")


def test_example_inputs_decide():
    assert arity_of(network("x, mask=None"), (X,)).most == 1
    assert arity_of(network("*args"), {"a": X, "b": Y}).least == 2


def test_modules_of_torch_and_exported_ones():
    assert arity_of(nn.Sequential(nn.Linear(2, 2))).most == 1
    assert arity_of(nn.Bilinear(2, 2, 2)).least == 2
    program = torch.export.export(nn.Bilinear(2, 2, 2).eval(), (torch.zeros(3, 2),) * 2)
    found = arity_of(program.module())
    assert found is None or found.fits(2)


@pytest.mark.parametrize(
    ("items", "takes", "inputs", "labelled"),
    [
        ((X, Y), (1, 1), 1, True),
        ((X, LABELS), (1, 1), 1, True),
        ((X, Y), (2, 2), 2, False),
        ((X, LABELS), (2, 2), 2, False),
        ((X, Y, LABELS), (2, 2), 2, True),
        ((X, Y, Z), (2, 2), 2, True),
        ((X, Y, ["a"] * 4), (2, 2), 2, True),
        ((X, Y, None), (2, 2), 2, False),
        ((X, Y, Z), (3, 3), 3, False),
        ((X, Y), (3, 3), 2, False),
        ((X, LABELS), (1, 2), 1, True),
        ((X, Y, LABELS), (1, None), 2, True),
        (((X, Y), Z), (1, 2), 2, True),
        (((X, Y), None), (1, 2), 2, False),
        (((X,), Y), (1, 2), 1, True),
        (([X, Y], Z), (2, 2), 2, True),
        ((X.numpy(), Y.numpy()), (1, 1), 1, True),
        (({"x": X}, Y), (1, 1), 1, True),
        ((X,), (1, 1), 1, False),
    ],
)
def test_targets_are_told_by_the_number_of_inputs(items, takes, inputs, labelled):
    for given in (items, list(items)):
        batch = as_batch(given, "b", Arity(*takes, "forward()"))
        assert len(batch.inputs) == inputs and (batch.labels is not None) == labelled


def test_what_remains_open_says_how_to_write_it():
    takes = arity_of(network("x, mask=None"))
    with pytest.raises(DataError) as caught:
        as_batch((X, Y), "batch 0 of d.py:f", takes)
    text = str(caught.value)
    assert "takes 1 to 2 inputs by forward(x, mask=...)" in text and "(float32 [4, 5])" in text
    assert "Write ((a,), b) if it is the target, ((a, b), None) if all are inputs" in text
    for given, count in ((((X,), Y), 1), (((X, Y), None), 2)):
        assert len(as_batch(given, "b", takes).inputs) == count
    with pytest.raises(DataError, match=r"Write \(\(a, b\), c\) if .*\(\(a, b, c\), None\) if"):
        as_batch((X, Y, Z), "b", arity_of(network("x, table, mask=None")))


def test_several_targets_go_into_one_dict():
    with pytest.raises(DataError, match=r"3 elements .*takes 1 input by .*\(x, {\"mask\": a"):
        as_batch((X, Y, np.zeros(4)), "b", arity_of(network("x")))
    batch = as_batch((X, {"mask": Y, "boxes": Z}), "b", arity_of(network("x")))
    assert set(batch.labels) == {"mask", "boxes"}
    with pytest.raises(DataError, match=r"\(\(x0, x1\), {"):
        as_batch((X, Y, Z, Z), "b", arity_of(network("x, y")))
