"""AdaQuant: its gradients against float64, what is learned, and the paper's own setting."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from unit_problems import output_error, with_rows

from bitwright.engine.digest import digest
from bitwright.errors import RecipeError
from bitwright.graph.activation import Activation
from bitwright.methods import adaquant
from bitwright.methods.adaquant import LEARNED, AdaQuant, _State, paper
from bitwright.methods.adaround import AdaRound
from bitwright.methods.catalogue import METHODS
from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import RowSamples
from bitwright.methods.quadratic import QuadraticSolver
from bitwright.methods.training import Start, behind
from bitwright.numerics.affine import fake_quantize
from bitwright.numerics.gram import Gram
from networks import normal

PAPER = replace(paper(), rows=256)
QUICK = AdaQuant(iterations=30, rows=256, weight_range="minmax")
FAST = replace(
    QUICK, weight_rate=0.05, bias_rate=0.05, weight_range_rate=0.02, input_range_rate=0.02
)


def state_of(method, given):
    plain = Nearest("minmax").solve(given)
    start = Start.of(given, given.unit, plain)
    return _State(method, given, start, plain.inputs[0])


def parts(state):
    return {
        "free": state.free, "bias": state.bias, "log_scale": state.log_scale,
        "log_input": state.log_input, "shift": state.shift,
    }  # fmt: skip


def gradients_in_float64(given, state):
    """Of the mean squared error behind a ReLU, straight through the rounding, term by term."""
    grid = state.inputs.grid
    x = given.samples.x.double()
    s_x, z_x = float(state.input_scale), float(state.input_zero)
    ratio = x / s_x
    whole = ratio.round()
    low, high = grid.qmin - z_x, grid.qmax - z_x
    inside = (whole >= low) & (whole <= high)
    x_q = whole.clamp(low, high) * s_x

    s_w = state.scale.double()
    steps = (state.free if state.method.relative else state.free / state.scale).detach().double()
    k = steps.round().clamp(state.begin.low, state.begin.high)
    w_q = k * s_w

    out = x_q @ w_q.transpose(1, 2) + state.bias.detach().double()
    target = behind(given, given.samples.y.double())
    slope = 2 * (behind(given, out) - target) / target.numel() * (out > 0)
    by_weight = slope.transpose(1, 2) @ x_q
    on_grid = (steps >= state.begin.low - 0.5) & (steps <= state.begin.high + 0.5)
    # In steps of the scale W = s k moves with s; in the weight's own units only k(W / s) s does.
    by_scale = k * s_w if state.method.relative else (k - steps * on_grid) * s_w
    by_input = slope @ w_q
    return {
        "free": by_weight * on_grid * (s_w if state.method.relative else 1),
        "bias": slope.sum(1, keepdim=True),
        "log_scale": (by_weight * by_scale).sum(-1, keepdim=True),
        "log_input": (by_input * torch.where(inside, whole - ratio, x_q / s_x)).sum() * s_x,
        "shift": (by_input * ~inside).sum() * -s_x,
    }


def slopes_of(given, state):
    """The gradients of a step over all rows, by the names of `parts`."""
    x = given.samples.x
    if not state.input_learned:
        x = fake_quantize(x, state.inputs)
    by_free, by_few = state.slopes(x, behind(given, given.samples.y))
    sizes = [state.bias.numel(), state.log_scale.numel(), 1, 1]
    names = ("bias", "log_scale", "log_input", "shift")
    return {"free": by_free} | dict(zip(names, by_few.split(sizes), strict=True))


def clipped(given):
    """Inputs beyond both ends of their grid, so that every term of the gradients counts."""
    qp = given.inputs[0]
    return replace(given, inputs=(replace(qp, scale=qp.scale * 0.5, zero_point=qp.zero_point + 3),))


@pytest.mark.parametrize("method", [QUICK, PAPER], ids=["relative", "paper"])
@pytest.mark.parametrize("case", ["conv with relu", "grouped"])
def test_gradients_of_one_step_against_float64(case, method, monkeypatch):
    monkeypatch.setattr(adaquant, "INPUT_SHARE", 1.0)
    given = clipped(replace(with_rows(case, 4), activation=Activation("relu")))
    state = state_of(method, given)
    # Weights outside their grid, and at several places inside a step.
    with torch.no_grad():
        one = 1 if method.relative else state.scale
        state.free += 0.7 * normal(*state.free.shape, seed=3) * one
        state.free[0, 0, :3] *= 20
    want = gradients_in_float64(given, state)
    learned = slopes_of(given, state)
    if method.relative:
        assert float(learned.pop("shift")) == 0
    for name, value in learned.items():
        size = want[name].abs().max()
        difference = (value.double() - want[name].reshape(value.shape)).abs().max()
        assert size > 0 and difference < 1e-4 * size, name


def test_one_scale_for_all_channels_gathers_their_gradients():
    given = replace(with_rows("conv", 4, per_channel=False), activation=Activation("relu"))
    state = state_of(QUICK, given)
    want = gradients_in_float64(given, state)["log_scale"].sum()
    assert state.log_scale.numel() == 1
    assert float(slopes_of(given, state)["log_scale"]) == pytest.approx(float(want), rel=1e-4)


SUBSETS = [c for n in range(5) for c in itertools.combinations(LEARNED, n)]


@pytest.mark.parametrize("learned", SUBSETS, ids="+".join)
def test_what_is_not_learned_stays_as_it_was(learned):
    """Figure 2b: the switch freezes the rest, through the steps and in what is deployed."""
    given = with_rows("conv with relu", 4)
    method = replace(FAST, learned=learned, warm=False, settle=0.5)
    state = state_of(method, given)
    before = {name: value.detach().clone() for name, value in parts(state).items()}
    for _ in range(5):
        state.step(given.samples.x, behind(given, given.samples.y))
    moved = {name for name, value in parts(state).items() if not torch.equal(value, before[name])}
    names = {
        "weight": "free", "bias": "bias", "weight_quantizer": "log_scale",
        "input_quantizer": "log_input",
    }  # fmt: skip
    assert moved == {names[part] for part in learned}

    plain = Nearest("minmax").solve(given)
    found = method._learn(given, plain)
    if "weight" not in learned and "weight_quantizer" not in learned:
        assert torch.equal(found.q, plain.q)
    if "bias" not in learned:
        assert torch.equal(found.bias, plain.bias)
    if "weight_quantizer" not in learned:
        assert digest(found.weight) == digest(plain.weight)
    if "input_quantizer" not in learned:
        assert digest(found.inputs) == digest(plain.inputs)


def test_the_grid_of_a_shared_input_is_not_learned():
    given = replace(with_rows("conv with relu", 4), free_inputs=False)
    state = state_of(PAPER, given)
    assert not state.input_learned and bool((state.rates[-2:] == 0).all())
    found = replace(FAST, learned=("input_quantizer",), warm=False).solve(given)
    assert digest(found.inputs) == digest(given.inputs) and found.moves == (given.weight.numel(),)


def test_a_quantity_to_learn_that_there_is_not():
    with pytest.raises(RecipeError, match=r"unknown quantity to learn 'weights'.*'weight'"):
        AdaQuant(learned=("weights", "bias"))


def test_the_papers_setting():
    """Section 4 and appendix D.1: rates of the four groups, 100 iterations, constant."""
    method = METHODS["adaquant-paper"]
    assert method == paper() and method.learned == LEARNED
    assert (method.weight_rate, method.bias_rate) == (1e-5, 1e-3)
    assert (method.weight_range_rate, method.input_range_rate) == (1e-3, 1e-1)
    assert method.iterations == 100 and not method.warm and not method.relative
    state = state_of(method, with_rows("conv", 4))
    assert 0 < float(state.rates[-2]) <= 0.05 and 0 < float(state.rates[-1]) <= 0.5


def test_one_step_at_the_papers_rates():
    """Adam's first step is the rate itself: in the units of the weight, the bias and the ranges."""
    given = with_rows("conv", 8)
    state = state_of(paper(), given)
    before = {name: value.detach().clone() for name, value in parts(state).items()}
    state.step(given.samples.x, given.samples.y)

    def largest(name):
        return float((parts(state)[name].detach() - before[name]).abs().max())

    assert largest("free") == pytest.approx(1e-5, rel=0.05)
    assert largest("bias") == pytest.approx(1e-3, rel=0.05)
    levels, mean = given.grid.levels - 1, float(state.scale.mean())
    assert largest("log_scale") * levels * mean == pytest.approx(1e-3, rel=0.05)
    width = (given.inputs[0].grid.levels - 1) * float(given.inputs[0].scale)
    # A step of 0.1 on a small range would be wild: five hundredths of the range are the most.
    assert largest("log_input") == pytest.approx(min(0.1 / width, 0.05), rel=0.05)
    assert largest("shift") <= 0.5


def test_in_the_papers_units_the_weight_stays_put_while_its_scale_moves():
    given = with_rows("conv", 4)
    for method, stays in ((PAPER, True), (QUICK, False)):
        state = state_of(method, given)
        before = state.steps() * state._scale()
        state.log_scale += 0.3
        after = state.steps() * state._scale()
        assert torch.allclose(before, after, rtol=1e-4) == stays


def test_relative_rates_fit_every_size():
    """The same layer in other units learns the same integers: powers of two change no rounding."""
    given = with_rows("conv", 4)
    gram, held = (scaled_gram(g, 2.0**10) for g in (given.gram, given.held_out))
    larger = replace(
        given, weight=given.weight * 2.0**10, bias=given.bias * 2.0**10, gram=gram, held_out=held,
        samples=scaled(given.samples, 2.0**10), samples_apart=scaled(given.samples_apart, 2.0**10),
    )  # fmt: skip
    for warm in (True, False):
        method = replace(QUICK, warm=warm, weight_rate=0.01)
        one, other = method.solve(given), method.solve(larger)
        assert one.fallback is None and (one.q == other.q).float().mean() > 0.97
        assert torch.allclose(one.bias * 2.0**10, other.bias, rtol=0.05, atol=5)


def scaled(samples, factor):
    return RowSamples(samples.x, samples.y * factor)


def scaled_gram(gram, factor):
    return replace(gram, yx=gram.yx * factor, y=gram.y * factor, yy=gram.yy * factor**2)


def test_weights_may_move_by_more_than_one_step():
    """Inputs that come out a tenth too small: the weights make up for it, AdaRound's cannot."""
    given = shrunk(with_rows("linear", 8), 0.9)
    plain = Nearest("minmax").solve(given)
    free = replace(FAST, iterations=200, warm=False, learned=("weight", "bias")).solve(given)
    warm = replace(QUICK, learned=("weight", "bias")).solve(given)
    comparator = AdaRound(iterations=200, rows=256, weight_range="minmax").solve(given)
    for found in (free, warm):
        assert found.fallback is None and sum(found.moves) == given.weight.numel()
        assert len(found.moves) > 3 and found.loss_after < 0.5 * found.loss_before
        assert digest(found.weight) == digest(plain.weight) or found is warm
    assert len(comparator.moves) <= 2 and comparator.loss_after > 2 * free.loss_after


def shrunk(given, factor):
    """The unit is given less than the float network has, as behind a clipped layer."""

    def of(samples):
        return RowSamples(samples.x * factor, samples.y)

    fit, apart = of(given.samples), of(given.samples_apart)
    return replace(
        given, inputs=(None,), samples=fit, samples_apart=apart,
        gram=Gram.of(fit.x, fit.y), held_out=Gram.of(apart.x, apart.y),
    )  # fmt: skip


@pytest.mark.parametrize("case", ["conv with relu", "conv with relu6", "depthwise", "linear"])
def test_never_worse_than_what_it_started_from(case):
    """The rows apart decide at every look; the start is the first of them."""
    given = with_rows(case, 4)
    first = QuadraticSolver(weight_range="minmax").solve(given)
    wild = replace(QUICK, weight_rate=3.0, bias_rate=3.0, weight_range_rate=0.3)
    for method in (QUICK, wild):
        found = method.solve(given)
        rows, act = given.samples_apart, given.activation
        ours, start = (output_error(given, rows, s, act) for s in (found, first))
        assert ours <= start * (1 + 1e-4)


@pytest.mark.parametrize("bits", [3, 4])
def test_learning_improves_on_the_quadratic_solution(bits):
    """With an activation behind the unit, which the quadratic objective does not see."""
    given = with_rows("conv with relu", bits)
    rows, act = given.samples_apart, given.activation
    first = output_error(given, rows, QuadraticSolver().solve(given), act)
    found = AdaQuant(iterations=200, rows=512).solve(given)
    assert found.fallback is None and output_error(given, rows, found, act) < first


def test_the_papers_setting_improves_on_nearest_rounding():
    given = with_rows("conv with relu", 4)
    found = replace(paper(), rows=256).solve(given)
    assert found.fallback is None and found.method == "adaquant-paper"
    assert found.loss_after < found.loss_before


def test_scales_settle_before_the_end():
    """The last steps learn weights and bias for scales that a file can hold."""
    given = with_rows("conv with relu", 4)
    state = state_of(FAST, given)
    target = behind(given, given.samples.y)
    for _ in range(3):
        state.step(given.samples.x, target)
    state.settle()
    fixed = state._scale().clone(), *state.input_quantizer()
    free = state.free.detach().clone()
    x = fake_quantize(given.samples.x, state.deployed()[3])
    for _ in range(3):
        state.step(x, target)
    after = state._scale(), *state.input_quantizer()
    assert torch.equal(fixed[0], after[0]) and fixed[1:] == after[1:]
    assert not torch.equal(free, state.free)
    k, scale, _, inputs = state.deployed()
    assert torch.equal(scale, state._scale()) and float(inputs.scale) == state.input_scale
    assert torch.equal(k, state.steps().round().clamp(state.begin.low, state.begin.high))


def test_an_unsettled_run_deploys_the_start():
    """Too few steps to fix the scales: nothing half learned is handed out."""
    given = with_rows("conv", 4)
    found = replace(FAST, settle=1.0, warm=False).solve(given)
    assert torch.equal(found.q, Nearest("minmax").solve(given).q)
