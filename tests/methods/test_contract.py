"""What every method promises, whatever it does inside: each method, kind of layer and bit-width."""

from __future__ import annotations

import ast
import itertools
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from functools import cache, wraps
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
from torch import nn
from unit_problems import CASES, bare, layer_of, output_error, problem, with_rows

import bitwright.methods
from bitwright.engine.digest import digest
from bitwright.engine.wire import decode, encode, from_bytes, to_bytes
from bitwright.errors import RecipeError
from bitwright.methods.catalogue import METHODS, method
from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import RowSamples, UnitProblem, UnitSolution
from bitwright.methods.stored import from_entry, to_entry
from bitwright.numerics.affine import QParams, dequantize
from bitwright.numerics.exact import significant_bits, snap
from bitwright.numerics.grid import Grid
from networks import normal

# (symmetric, per channel)
FORMS = {
    "asymmetric": (False, True),
    "symmetric": (True, True),
    "per tensor": (False, False),
}
EVERY = pytest.mark.parametrize("name", METHODS)
BITS = (2, 4, 8)
CASE = pytest.mark.parametrize("case", CASES)
FEW = pytest.mark.parametrize("case", ["conv with relu6", "linear without bias", "one sample"])
# Enough steps to fix the scales and to look at the held-out rows more than once.
STEPS, ROWS = 10, 64


def walking(**axes: tuple) -> Callable:
    """One test that walks these arguments; all that fail are named.

    A test of each of the 4,860 would cost pytest as much as the tests themselves.
    """

    def decorate(check):
        @wraps(check)
        def walk(name, case):
            failed = {}
            for values in itertools.product(*axes.values()):
                try:
                    check(name=name, case=case, **dict(zip(axes, values, strict=True)))
                except Exception as error:  # noqa: BLE001 - whatever it is, it is raised below
                    failed[values] = error
            if failed:
                told = "\n".join(f"{v}: {type(e).__name__}: {e}" for v, e in failed.items())
                raise AssertionError(f"{name}, {case}:\n{told}") from next(iter(failed.values()))

        # pytest asks for the arguments of what it sees, not of what is wrapped.
        del walk.__wrapped__
        return walk

    return decorate


def quick(name: str):
    """The method, without the search for ranges; one that learns by gradients with few steps."""
    found = METHODS[name]
    if found.needs.data:
        found = found.configured("minmax")
    return replace(found, iterations=STEPS, rows=ROWS) if found.needs.backward else found


@cache
def asked(case: str, bits: int, form: str = "asymmetric") -> UnitProblem:
    return with_rows(case, bits, *FORMS[form])


@cache
def as_asked(case: str, bits: int, form: str) -> str:
    """The digest of a problem before anything has solved it."""
    return digest(asked(case, bits, form))


@cache
def solved(name: str, case: str, bits: int, form: str = "asymmetric") -> UnitSolution:
    """Solved once for all tests; the problem is found as it was."""
    given, before = asked(case, bits, form), as_asked(case, bits, form)
    found = quick(name).solve(given)
    assert digest(given) == before
    return found


@cache
def nearest(weight_range: str, case: str, bits: int, form: str) -> UnitSolution:
    return Nearest(weight_range).solve(asked(case, bits, form))


@EVERY
@CASE
@walking(bits=BITS, form=tuple(FORMS))
def test_the_solution_is_on_the_grid_and_well_formed(name, bits, case, form):
    given, found = asked(case, bits, form), solved(name, case, bits, form)
    grid, weight = found.weight.grid, given.weight
    assert grid == given.grid or found.channel_bits
    assert found.q.dtype == grid.dtype and found.q.shape == weight.shape
    assert grid.qmin <= int(found.q.min()) and int(found.q.max()) <= grid.qmax
    shape = [1] * weight.dim()
    shape[given.channel_axis] = weight.shape[given.channel_axis]
    assert list(found.weight.scale.shape) == (shape if given.per_channel else [])
    if found.channel_bits:
        assert_channel_bits(given, found)
    else:
        assert_deployable(found.weight)
    if given.symmetric:
        assert not found.weight.zero_point.any()
    assert torch.isfinite(dequantize(found.q, found.weight)).all()
    assert 0 <= found.error < float("inf")
    if name == "nearest":
        assert found.error <= 1 + 1e-6 and found.bias is given.bias
    if found.bias is not None:
        outputs = given.weight.shape[given.channel_axis]
        outputs *= given.groups if given.kind.startswith("conv_transpose") else 1
        assert found.bias.shape == (outputs,) and torch.isfinite(found.bias).all()
    assert given.kind != "matmul" or found.bias is None
    assert not found.moves or sum(found.moves) == weight.numel()


def assert_channel_bits(given, found):
    """The average is what was asked for; each channel is on the grid of its own bits."""
    bits, signed, axis = found.channel_bits, given.grid.signed, given.channel_axis
    assert sum(bits) == len(bits) * given.grid.bits and found.weight.grid == Grid(max(bits), signed)
    rows, scales, zeros = (
        v.movedim(axis, 0) for v in (found.q, found.weight.scale, found.weight.zero_point)
    )
    for own, q, scale, zero in zip(bits, rows, scales, zeros, strict=True):
        grid = Grid(own, signed)
        assert grid.qmin <= int(q.min()) and int(q.max()) <= grid.qmax
        assert_deployable(QParams(grid, scale, zero))


def assert_deployable(qparams):
    """Scales that a file can hold and that add up without rounding; zero points on the grid."""
    scale, zero, grid = qparams.scale, qparams.zero_point, qparams.grid
    assert bool((scale > 0).all()) and torch.isfinite(scale).all()
    assert torch.equal(scale, snap(scale, significant_bits(grid)))
    assert int(zero.min()) >= grid.qmin and int(zero.max()) <= grid.qmax


@EVERY
@CASE
@walking(bits=BITS)
def test_inputs_stay_on_their_grids(name, bits, case):
    given, found = asked(case, bits), solved(name, case, bits)
    assert len(found.inputs) == len(given.inputs)
    for old, new in zip(given.inputs, found.inputs, strict=True):
        assert (old is None) == (new is None)
        if old is not None:
            assert new.grid == old.grid and new.scale.shape == old.scale.shape
            assert_deployable(new)
    if bits == 4 and method(name).needs.backward:
        bound = quick(name).solve(replace(given, free_inputs=False))
        assert digest(bound.inputs) == digest(given.inputs)


@EVERY
@CASE
@walking(bits=BITS, form=tuple(FORMS))
def test_never_worse_than_nearest_rounding_on_rows_kept_apart(name, bits, case, form):
    given, found = asked(case, bits, form), solved(name, case, bits, form)
    if not method(name).needs.data:
        assert found.fallback is None and found.loss_before is None
        return
    plain = nearest(quick(name).weight_range, case, bits, form)
    if found.fallback is not None:
        assert found.method == "nearest" and torch.equal(found.q, plain.q)
        assert digest(found.inputs) == digest(given.inputs)
        return
    assert found.method == name and found.loss_after <= found.loss_before
    rows = given.samples_apart or given.samples
    # Only the methods that learn on rows see what comes behind the unit.
    activation = given.activation if method(name).needs.backward else None
    energy = (activation or (lambda v: v))(rows.y.double()).square().sum()
    for solution, stated in ((plain, found.loss_before), (found, found.loss_after)):
        measured = output_error(given, rows, solution, activation) / max(float(energy), 1e-30)
        assert measured == pytest.approx(stated, rel=1e-2, abs=1e-6)


@EVERY
@CASE
@walking(bits=BITS)
def test_the_same_bits_again_in_another_process_and_state(name, bits, case):
    """From bytes, as a worker does it, with the global generator elsewhere and gradients off."""
    given, found = asked(case, bits), solved(name, case, bits)
    solver, carried = decode(from_bytes(to_bytes(encode((quick(name), given)))))
    torch.manual_seed(123)
    state = torch.get_rng_state()
    with torch.no_grad():
        again = solver.solve(carried)
    assert torch.equal(torch.get_rng_state(), state)
    assert digest(again) == digest(found)
    assert digest(decode(encode(found))) == digest(found)
    assert digest(pickle.loads(bytes(ForkingPickler.dumps(found)))) == digest(found)  # noqa: S301


@EVERY
@CASE
@walking(bits=BITS)
def test_solutions_go_through_the_store(name, bits, case):
    found = solved(name, case, bits)
    tensors, meta = to_entry(found)
    back = from_entry(tensors, json.loads(json.dumps(meta)))
    assert digest(back) == digest(found) and back.q.stride() == found.q.stride()


@EVERY
@FEW
def test_every_tensor_is_made_where_the_problem_is(name, case):
    """With a default device that holds no numbers, whatever forgot the problem's own would fail."""
    given, here = asked(case, 4), solved(name, case, 4)
    with torch.device("meta"):
        found = quick(name).solve(given)
    assert digest(found) == digest(here)


def test_no_method_names_a_device():
    """But for the generator of row numbers: one seed means one order, whatever the device."""
    for path in sorted(Path(bitwright.methods.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("cpu", "cuda"), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "device":
                value = ast.unparse(node.value)
                where = f"{path.name}:{value}"
                assert value.endswith(".device") or where == "training.py:'cpu'", where


@EVERY
@FEW
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_on_an_accelerator(name, case):
    given = on_device(asked(case, 4), "cuda")
    found = quick(name).solve(given)
    assert found.q.device.type == "cuda"
    here = solved(name, case, 4)
    assert (found.q.cpu() == here.q).float().mean() > 0.9


def on_device(value, device):
    """The same with every tensor on a device; input grids stay, as scalars may."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, (UnitProblem, RowSamples)) or type(value).__name__ == "Gram":
        moved = {
            k: on_device(v, device)
            for k, v in vars(value).items()
            if isinstance(v, (torch.Tensor, RowSamples)) or type(v).__name__ == "Gram"
        }
        return replace(value, **moved)
    return value


@EVERY
@pytest.mark.parametrize("case", ["linear", "conv with relu", "depthwise", "transposed", "grouped"])
def test_more_bits_are_better_on_rows_kept_apart(name, case):
    given = {bits: asked(case, bits) for bits in (2, 4, 8)}
    losses = []
    for bits, one in given.items():
        found = solved(name, case, bits)
        losses.append(output_error(one, one.samples_apart, found, one.activation))
    assert losses[0] > losses[1] > losses[2]


@EVERY
@pytest.mark.parametrize("case", CASES)
def test_without_rows_it_is_nearest_rounding(name, case):
    given = problem(case, 4)
    found = method(name).solve(given)
    plain = Nearest(method(name).weight_range).solve(given)
    if not method(name).needs.data:
        assert found.method == name and found.fallback is None
        assert name != "nearest" or torch.equal(found.q, plain.q)
        return
    assert torch.equal(found.q, plain.q) and found.method == "nearest"
    assert found.fallback == "no calibration rows"
    assert found.bias is given.bias and found.inputs == given.inputs


@EVERY
def test_zero_stays_zero(name):
    """Dead weights stay dead where nothing pulls at them."""
    found = method(name).solve(problem("dead weights", 4))
    assert not dequantize(found.q, found.weight)[:, 3:7].any()


@EVERY
def test_weights_on_a_grid_are_found_again(name):
    weight = torch.arange(-8, 8).float().repeat(3, 1) * torch.tensor([[0.5], [0.25], [2.0]])
    layer = nn.Linear(16, 3)
    layer.weight.data = weight
    found = method(name).solve(bare(layer, 4))
    assert torch.allclose(dequantize(found.q, found.weight), weight, atol=1e-6)


@EVERY
def test_half_precision_weights(name):
    given = asked("linear", 4)
    half = replace(given, weight=given.weight.half(), bias=given.bias.half())
    found = quick(name).solve(half)
    assert found.weight.scale.dtype == torch.float32 and found.q.dtype == torch.uint8
    assert found.fallback is None and digest(found.q) == digest(quick(name).solve(half).q)


@EVERY
def test_methods_are_frozen_values(name):
    solver = METHODS[name]
    again = replace(solver)
    assert solver.name == name and solver == again and hash(solver) == hash(again)
    with pytest.raises(FrozenInstanceError):
        solver.name = "other"
    needs = solver.needs
    assert needs.paper and needs.cost and isinstance(needs.data, bool)
    assert not (needs.backward or needs.rows) or needs.data
    other = solver.configured("percentile")
    assert other.weight_range == "percentile" and digest(other) != digest(solver)
    assert replace(other, weight_range=solver.weight_range) == solver


def test_all_methods_differ():
    assert len({digest(solver) for solver in METHODS.values()}) == len(METHODS)


def test_unknown_method():
    with pytest.raises(RecipeError, match=r"unknown method 'nearst' in --method. Did you mean 'n"):
        method("nearst")


def test_the_cases_are_what_they_are_called():
    kinds = {name: problem(name, 4).kind for name in CASES}
    assert kinds["product"] == "matmul" and kinds["added product"] in ("addmm", "linear")
    assert kinds["transposed"] == "conv_transpose2d" and kinds["conv in one dimension"] == "conv1d"
    assert with_rows("conv with relu6", 4).activation(torch.tensor(9.0)) == 6
    one = with_rows("one sample", 4)
    assert one.gram.count == 1 and one.held_out is None
    assert with_rows("conv", 4).held_out.count == 4 * 16
    assert not with_rows("dead inputs", 4).gram.xx[0, 3:7].any()
    assert layer_of("depthwise").groups == 6 and normal(1).numel() == 1
