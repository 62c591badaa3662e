"""What every method promises, whatever it does inside."""

from __future__ import annotations

import io
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch import nn

from bitwright.errors import RecipeError
from bitwright.graph.choice import Choice
from bitwright.methods.catalogue import METHODS, method
from bitwright.methods.problem import UnitProblem, UnitSolution
from bitwright.numerics.affine import dequantize
from bitwright.numerics.grid import Grid
from networks import normal

LAYERS = {
    "linear": lambda: nn.Linear(12, 5),
    "linear without bias": lambda: nn.Linear(12, 5, bias=False),
    "conv": lambda: nn.Conv2d(4, 6, 3),
    "conv without bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, groups=6),
    "grouped": lambda: nn.Conv2d(6, 8, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed grouped": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "pointwise": lambda: nn.Conv2d(8, 6, 1),
    "dead inputs": lambda: _with(nn.Linear(12, 5), (slice(None), slice(3, 7)), 0.0),
    "dead channel": lambda: _with(nn.Conv2d(4, 6, 3), (2,), 0.0),
    "all dead": lambda: _with(nn.Linear(12, 5), (slice(None),), 0.0),
    "constant channels": lambda: _with(nn.Conv2d(4, 6, 3), (slice(0, 3),), 0.7),
    "negative channel": lambda: _with(nn.Linear(12, 5), (1,), -0.3),
    "huge and tiny channels": lambda: _scaled(nn.Linear(12, 5)),
}


def _with(layer, place, value):
    layer.weight.data[place] = value
    return layer


def _scaled(layer):
    layer.weight.data[0] *= 1e6
    layer.weight.data[1] *= 1e-20
    return layer


def problem(layer: nn.Module, bits: int, symmetric=False, per_channel=True) -> UnitProblem:
    transposed = isinstance(layer, nn.ConvTranspose2d)
    kind = "linear" if isinstance(layer, nn.Linear) else "conv2d"
    return UnitProblem(
        name="unit",
        kind="conv_transpose2d" if transposed else kind,
        weight=layer.weight.detach(),
        bias=None if layer.bias is None else layer.bias.detach(),
        channel_axis=1 if transposed else 0,
        groups=getattr(layer, "groups", 1),
        choice=Choice(bits, 8),
        grid=Grid(bits, symmetric),
        symmetric=symmetric,
        per_channel=per_channel,
        inputs=(None,),
        seed=7,
    )


@pytest.fixture(params=list(LAYERS))
def layer(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LAYERS[request.param]()


def tensors(value) -> dict[str, torch.Tensor]:
    """Every tensor of a problem or a solution, by place."""
    found: dict[str, torch.Tensor] = {}
    for entry in fields(value):
        item = getattr(value, entry.name)
        if isinstance(item, torch.Tensor):
            found[entry.name] = item
        elif hasattr(item, "scale"):
            found |= {f"{entry.name}.s": item.scale, f"{entry.name}.z": item.zero_point}
    return found


def same(a: UnitSolution, b: UnitSolution) -> bool:
    left, right = tensors(a), tensors(b)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


CASES = pytest.mark.parametrize(
    ("symmetric", "per_channel"), [(False, True), (True, True), (False, False)],
    ids=["asymmetric", "symmetric", "per tensor"],
)  # fmt: skip
EVERY = pytest.mark.parametrize("name", METHODS)
BITS = pytest.mark.parametrize("bits", [2, 4, 8])


@EVERY
@BITS
@CASES
def test_the_solution_is_on_the_grid_and_well_formed(name, bits, layer, symmetric, per_channel):
    asked = problem(layer, bits, symmetric, per_channel)
    before = {k: v.clone() for k, v in tensors(asked).items()}
    found = method(name).solve(asked)
    grid, weight = found.weight.grid, asked.weight
    assert grid == asked.grid and found.q.dtype == grid.dtype
    assert found.q.shape == weight.shape
    assert grid.qmin <= int(found.q.min()) and int(found.q.max()) <= grid.qmax
    zero = found.weight.zero_point
    assert int(zero.min()) >= grid.qmin and int(zero.max()) <= grid.qmax
    assert bool((found.weight.scale > 0).all())
    if symmetric:
        assert not zero.any()
    shape = [1] * weight.dim()
    shape[asked.channel_axis] = weight.shape[asked.channel_axis]
    assert list(found.weight.scale.shape) == (shape if per_channel else [])
    assert (found.bias is None) == (asked.bias is None)
    assert found.inputs == asked.inputs and found.method
    assert (
        0 <= found.error <= 1.0 + 1e-6 and torch.isfinite(dequantize(found.q, found.weight)).all()
    )
    after = tensors(asked)
    assert all(torch.equal(before[k], after[k]) for k in before)


@EVERY
@BITS
def test_solving_is_deterministic_and_survives_pickling(name, bits, layer):
    asked = problem(layer, bits)
    first = method(name).solve(asked)
    torch.manual_seed(123)  # the global generator must not matter
    assert same(first, method(name).solve(asked))
    buffer = io.BytesIO()
    pickle.dump((method(name), asked), buffer)
    buffer.seek(0)
    solver, carried = pickle.load(buffer)  # noqa: S301
    assert same(first, solver.solve(carried))
    again = pickle.loads(bytes(ForkingPickler.dumps(first)))  # noqa: S301
    assert same(first, again)
    assert (again.method, again.error, again.weight.grid) == (
        first.method, first.error, first.weight.grid,
    )  # fmt: skip


@EVERY
def test_more_bits_are_never_worse(name, layer):
    errors = [method(name).solve(problem(layer, bits)).error for bits in (2, 4, 8)]
    assert errors[0] >= errors[1] >= errors[2]
    assert errors[2] < 1e-3


@EVERY
def test_zero_stays_zero(name):
    layer = LAYERS["dead inputs"]()
    found = method(name).solve(problem(layer, 4))
    assert not dequantize(found.q, found.weight)[:, 3:7].any()


@EVERY
def test_weights_on_a_grid_are_found_again(name):
    weight = torch.arange(-8, 8).float().repeat(3, 1) * torch.tensor([[0.5], [0.25], [2.0]])
    layer = nn.Linear(16, 3)
    layer.weight.data = weight
    found = method(name).solve(problem(layer, 4))
    assert torch.allclose(dequantize(found.q, found.weight), weight, atol=1e-6)


@EVERY
def test_methods_are_frozen_values(name):
    solver = METHODS[name]
    assert solver.name == name and hash(solver) == hash(type(solver)())
    assert solver == type(solver)()
    with pytest.raises(FrozenInstanceError):
        solver.name = "other"
    needs = solver.needs
    assert needs.paper and needs.cost and isinstance(needs.data, bool)


@EVERY
def test_half_precision_weights(name):
    layer = nn.Linear(12, 5)
    layer.weight.data = normal(5, 12)
    asked = problem(layer, 4)
    half = replace(asked, weight=asked.weight.half())
    found = method(name).solve(half)
    assert found.weight.scale.dtype == torch.float32 and found.q.dtype == torch.uint8


def test_unknown_method():
    with pytest.raises(RecipeError, match=r"unknown method 'nearst' in --method. Did you mean 'n"):
        method("nearst")
