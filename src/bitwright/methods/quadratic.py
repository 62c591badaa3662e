"""The quadratic solver: exact coordinate descent on the unit's output error, no backward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.graph.model_graph import Unit
from bitwright.graph.rows import rows_weight, solvable, weight_rows
from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import Needs, UnitProblem, UnitSolution
from bitwright.numerics.affine import QParams, dequantize, quantize
from bitwright.numerics.blocks import find_grouped_qparams, turn_to_channels
from bitwright.numerics.coordinate import Effort, Steps, Successive, best_of, descend
from bitwright.numerics.exact import exact_range, significant_bits, snap
from bitwright.numerics.gram import Gram, Quadratic, centre_gram, regularise_problem, without_bias
from bitwright.numerics.ranges import RangeRule, range_rule

# Of the sums over rows, which are of float32.
ROUNDING = 2.0**-22
# However few the samples: with more than this, rounding would no longer look at them.
MOST_RIDGE = 3.0
# Ridges that held-out rows may choose: by this factor apart, and at most so much.
RUNG, TOP = 10.0**0.5, 10.0
# The pull on a weight that is a table of embeddings too: its rows' error counts as the output's.
TIED_RIDGE = 1.0
# Multiplications of a sweep, C N^2, from which on a unit has one start and rests sooner: a little
# of the objective for most of the time.
WIDE = 2e9
WIDE_TOLERANCE = 1e-3
SHRINK = tuple(1.0 - 0.04 * i for i in range(16))


@dataclass(frozen=True)
class QuadraticSolver:
    """min ||Y - Wq Xq - b||^2 over integers, scales and bias, from second moments alone.

    The objective is w H w^T - 2 w c^T for each output channel, with H and c from one streaming
    pass (`numerics.gram`). Integers by cyclic coordinate descent, scales and bias in closed form
    between sweeps. Kin: OBQ and GPTQ (Frantar 2022), QuantEase (2023), COMQ (Zhang 2024,
    arXiv 2403.07134); here the input is the quantised one, its target the float output.

    Attributes:
        ridge: pull towards the float weights, relative to the mean of H's diagonal; at least this.
        prior: how many samples the float weights count for. The rows of one image resemble each
            other, so that moments of few images say much about these and little about others.
        judged: whether rows kept apart may ask for more of that pull in a unit. For less they are
            not asked: a unit's error on them is not the network's.
        sweeps: at most so many passes over the coordinates before and after the scale is fixed.
        tolerance: stop when the objective falls by less than this part in a sweep.
        weight_range: of the nearest rounding that the result is compared with.
    """

    ridge: float = 0.003
    prior: float = 30.0
    judged: bool = True
    sweeps: int = 20
    tolerance: float = 1e-4
    weight_range: str | RangeRule = "mse"
    name: str = "quadratic"

    @property
    def needs(self) -> Needs:
        """Unlabelled data, in forward passes only."""
        return Needs(
            data=True,
            labels=False,
            backward=False,
            paper="arXiv 2403.07134 and kin; docs/methods.md",
            cost="two forward passes and 2 C N^2 operations a unit and sweep",
        )

    def configured(self, weight_range: str | RangeRule) -> QuadraticSolver:
        """With the recipe's rule for the ranges of the nearest rounding."""
        return replace(self, weight_range=weight_range)

    def solve(self, problem: UnitProblem) -> UnitSolution:
        """Solve one unit; nearest rounding instead, and why, where this cannot do better."""
        plain = Nearest(self.weight_range).solve(problem)
        unit, gram = problem.unit, problem.gram
        reason = _explain_unsuited(unit, gram)
        if reason is not None or unit is None or gram is None:
            return replace(plain, fallback=reason)
        solved = self._descend(problem, unit, gram)
        apart = problem.held_out or gram
        before = relative_loss(apart, plain, unit)
        after = relative_loss(apart, solved, unit)
        if problem.tied:
            before, after = before + plain.error, after + solved.error
        if abs(after - before) <= resolution(apart, problem):
            text = "held-out rows do not tell it from nearest rounding, which is nearer to float"
            worse = not weight_error(apart, solved, problem) <= weight_error(apart, plain, problem)
            after = min(before, after)
        else:
            text = f"held-out error {after:.3g} is above nearest rounding's {before:.3g}"
            worse = not after <= before
        if worse:
            return replace(plain, fallback=text, loss_before=before, loss_after=before)
        return replace(solved, loss_before=before, loss_after=after)

    def _descend(self, problem: UnitProblem, unit: Unit, gram: Gram) -> UnitSolution:
        target = weight_rows(problem.weight.detach().float(), unit)
        fixed = torch.zeros_like(gram.y)
        exact = without_bias(gram, fixed) if unit.kind == "matmul" else centre_gram(gram)
        objective, other = self._objective(problem, target, exact)
        start = _start(problem, target, objective)
        steps = self._solved(problem, objective, start, other)
        weight = steps.weight
        qparams, q = _as_integers(steps, problem, unit)
        bias = None if unit.kind == "matmul" else exact.bias(weight).reshape(-1)
        energy = target.double().square().sum().clamp_min(1e-30)
        change = (weight - target).double().square().sum() / energy
        return UnitSolution(q, qparams, bias, problem.inputs, self.name, float(change))

    def _solved(
        self, problem: UnitProblem, objective: Quadratic, start: Steps, other: Successive
    ) -> Steps:
        """Descend with free scales, then with those that the target can hold."""
        effort = Effort(self.sweeps, self.tolerance)
        if start.k.numel() * start.k.shape[-1] >= WIDE:
            effort = Effort(self.sweeps, WIDE_TOLERANCE)
            steps, _ = descend(objective, other.rounded(start), problem.per_channel, effort)
            return descend(objective, _snap(steps, problem), False, effort)[0]
        starts = (start, other.rounded(start))
        steps = _snap(best_of(objective, starts, problem.per_channel, effort), problem)
        return best_of(objective, (steps, other.rounded(steps)), False, effort)

    def _objective(
        self, problem: UnitProblem, target: Tensor, exact: Quadratic
    ) -> tuple[Quadratic, Successive]:
        """Regularised at least as the samples' number asks, and more while rows apart gain.

        Equation: min over r of ||Y' - W_r X'||^2 on the rows kept apart, W_r the weights rounded in
        succession for the ridge r, with the bias that is best for the rows to fit; from the first
        ridge upwards, to the first rung that does not gain.
        """
        ridge = self._ridge(problem.sample_count) + (TIED_RIDGE if problem.tied else 0.0)
        best = regularise_problem(exact, target, ridge)
        rounding, apart = Successive.of(best), problem.held_out
        if not self.judged or apart is None or apart.count < 2:
            return best, rounding
        start = _start(problem, target, best)

        def loss(other: Successive) -> float:
            weight = other.rounded(start).weight
            bias = torch.zeros_like(apart.y) if problem.kind == "matmul" else exact.bias(weight)
            return float(without_bias(apart, bias).loss(weight).sum())

        least = loss(rounding)
        while (ridge := ridge * RUNG) <= TOP:
            objective = regularise_problem(exact, target, ridge)
            other = Successive.of(objective)
            here = loss(other)
            if not here < least:
                break
            best, rounding, least = objective, other, here
        return best, rounding

    def _ridge(self, samples: int) -> float:
        """The pull for so many samples; 0: not known."""
        few = min(self.prior / samples, MOST_RIDGE) if samples else 0.0
        return max(self.ridge, few)


def _explain_unsuited(unit: Unit | None, gram: Gram | None) -> str | None:
    if unit is None or gram is None:
        return "no calibration rows"
    if not solvable(unit):
        return f"a {unit.kind} is not one matrix product"
    if unit.kind.startswith("conv_transpose") and unit.groups > 1:
        return "the scales of a grouped transposed convolution are shared between groups"
    if gram.count < 2:
        return "fewer than two calibration rows"
    return None


def relative_loss(gram: Gram, solution: UnitSolution, unit: Unit) -> float:
    """Squared output error of a solution on the rows of a Gram, relative to the output's energy."""
    rows = weight_rows(dequantize(solution.q, solution.weight), unit)
    bias = torch.zeros_like(gram.y)
    if solution.bias is not None:
        bias = solution.bias.reshape(gram.y.shape)
    error = without_bias(gram, bias).loss(rows).sum()
    return float(error / gram.yy.double().sum().clamp_min(1e-30))


def resolution(gram: Gram, problem: UnitProblem) -> float:
    """Differences of relative losses below this are rounding; sums of many points have smaller.

    Equation: eps |w0| |xx| |w0|^T / yy, what rounding does to a loss where all of it adds up.
    """
    assert problem.unit is not None
    size = weight_rows(problem.weight.detach().float(), problem.unit).abs()
    every = ((size @ gram.xx.abs().float()) * size).double().sum()
    return ROUNDING * float(every / gram.yy.double().sum().clamp_min(1e-30))


def weight_error(gram: Gram, solution: UnitSolution, problem: UnitProblem) -> float:
    """What a solution's weights alone do to the output, the mean apart, relative to its energy.

    Equation: (w - w0) H (w - w0)^T / yy: no difference of large numbers, so that errors far below
    the rounding of the sums are told apart; inputs that are quantised do not count.
    """
    assert problem.unit is not None
    own, true = (
        weight_rows(weight.float(), problem.unit).double()
        for weight in (dequantize(solution.q, solution.weight), problem.weight.detach())
    )
    moved = own - true
    error = ((moved @ centre_gram(gram).h.double()) * moved).sum()
    return float(error / gram.yy.double().sum().clamp_min(1e-30))


def _start(problem: UnitProblem, target: Tensor, objective: Quadratic) -> Steps:
    """Nearest rounding in the range whose error, weighted by the inputs' energy, is least."""
    if problem.choice.group:
        rule = range_rule("mse")
        own = find_grouped_qparams(
            target[0], problem.grid, problem.choice.group, rule, problem.symmetric
        )
        lifted = QParams(problem.grid, own.scale.unsqueeze(0), own.zero_point.unsqueeze(0))
        return _steps(target, lifted)
    energy = objective.h.diagonal(dim1=-2, dim2=-1).unsqueeze(1)
    low, high = target.amin(-1, keepdim=True), target.amax(-1, keepdim=True)
    if not problem.per_channel:
        low, high = low.amin().expand_as(low), high.amax().expand_as(high)
    best: Tensor | None = None
    scale = zero = torch.empty(0)
    for factor in SHRINK:
        qp = exact_range(low * factor, high * factor, problem.grid, problem.symmetric)
        rounded = dequantize(quantize(target, qp), qp)
        error = ((rounded - target).square() * energy).sum(-1, keepdim=True)
        if not problem.per_channel:
            error = error.sum().expand_as(error)
        if best is None:
            best, scale, zero = error, qp.scale, qp.zero_point
            continue
        better = error < best
        best = torch.where(better, error, best)
        scale = torch.where(better, qp.scale, scale)
        zero = torch.where(better, qp.zero_point, zero)
    return _steps(target, QParams(problem.grid, scale, zero))


def _steps(target: Tensor, qparams: QParams) -> Steps:
    """Nearest rounding on given grids, as steps from their zero points."""
    zero, grid = qparams.zero_point, qparams.grid
    k = quantize(target, qparams).float() - zero
    return Steps(k, qparams.scale, (grid.qmin - zero).float(), (grid.qmax - zero).float())


def _snap(steps: Steps, problem: UnitProblem) -> Steps:
    """The scale of few significant bits that is nearest from above."""
    return replace(steps, scale=snap(steps.scale, significant_bits(problem.grid)))


def _as_integers(steps: Steps, problem: UnitProblem, unit: Unit) -> tuple[QParams, Tensor]:
    """Integers and parameters in the weight's own shape."""
    zero_rows = problem.grid.qmin - steps.low
    q = rows_weight(steps.k + zero_rows, unit).to(problem.grid.dtype)
    if problem.choice.group:
        made = QParams(problem.grid, steps.scale[0], zero_rows[0].to(torch.int32))
        return (made if problem.channel_axis == 0 else turn_to_channels(made)), q.contiguous()
    shape: list[int] = []
    scale, zero = steps.scale.reshape(-1), zero_rows.reshape(-1)
    if problem.per_channel:
        shape = [1] * problem.weight.dim()
        shape[problem.channel_axis] = -1
    else:
        scale, zero = scale[0], zero[0]
    layout = q.contiguous(memory_format=torch.channels_last) if q.dim() == 4 else q.contiguous()
    qparams = QParams(problem.grid, scale.reshape(shape), zero.reshape(shape).to(torch.int32))
    return qparams, layout
