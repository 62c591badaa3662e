"""The steps of a recipe's `tune`: their names, what each asks for, and which go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bitwright.errors import RecipeError, unknown
from bitwright.recipe.names import is_unnamed
from bitwright.recipe.registered import find_registered

BN, BN_PAPER, BIAS, SCALES, REFINE = "bn", "bn-paper", "bias", "scales", "refine"
BIAS_ANALYTIC, BIAS_EMPIRICAL = "bias-analytic", "bias-empirical"
LAPQ, BRECQ = "lapq", "brecq"
QAT, QAT_LAST, QAT_PAPER = "qat-kld", "qat-kld-last", "qat-kld-paper"


@dataclass(frozen=True)
class AboutStep:
    """What the list of methods says of a step, and where it is defined.

    Attributes:
        home: the module and the class; read when the step is first used, so that a recipe can be
            checked before torch is there.
        settings: what of the class is not by default.
    """

    data: bool
    backward: bool
    paper: str
    cost: str
    home: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def _about(
    needs: tuple[bool, bool], paper: str, cost: str, home: str, **settings: Any
) -> AboutStep:
    return AboutStep(*needs, f"arXiv {paper}", cost, home, settings)


_FORWARD, _BACKWARD, _NO_DATA = (True, False), (True, True), (False, False)
_WHOLE = "200 batches through the whole network"
# A tuning step is a frozen object with `name` and `apply(configuration, samples)`: one file, and
# one line here.
ABOUT: Mapping[str, AboutStep] = {
    LAPQ: _about(_FORWARD, "1911.07190", "200 forward passes over 128 samples", "lapq:ClipSearch"),
    BRECQ: _about(
        _BACKWARD, "2102.05426", "1000 batches of 8 through each block", "brecq:BlockReconstruction"
    ),
    QAT: _about(
        _BACKWARD, "1911.12491", "300 batches through the whole network", "qat:WeightTraining"
    ),
    QAT_LAST: _about(
        _BACKWARD, "1911.12491", "the same, without early stopping", "qat:WeightTraining",
        early_stop=False,
    ),
    QAT_PAPER: _about(
        _BACKWARD, "1911.12491", "ten passes through the whole network", "qat:WeightTraining",
        early_stop=False, published=True,
    ),
    BN: _about(_FORWARD, "2006.10518", "some forward passes", "bn:BatchNormTuning"),
    BN_PAPER: _about(
        _FORWARD, "2006.10518", "ten forward passes", "bn:BatchNormTuning", order="together",
        reference="record", name=BN_PAPER,
    ),
    BIAS: _about(_BACKWARD, "2006.10518", _WHOLE, "bias:BiasTuning"),
    SCALES: _about(_BACKWARD, "1902.08153", _WHOLE, "scales:ScaleTuning"),
    BIAS_ANALYTIC: _about(_NO_DATA, "1906.04721", "milliseconds", "analytic:BiasCorrection"),
    # Means alone put right is what the literature calls empirical bias correction.
    BIAS_EMPIRICAL: _about(
        _FORWARD, "1906.04721", "some forward passes", "bn:BatchNormTuning", scales=False,
        name=BIAS_EMPIRICAL,
    ),
    REFINE: _about(
        _FORWARD, "2006.10518", "that of refine_method, in sequence", "refine:Refinement"
    ),
}  # fmt: skip
STEPS = tuple(ABOUT)
# Steps that compute on the run's device; the others do on the host.
PLACED = (BN, BN_PAPER, BIAS, SCALES, BIAS_EMPIRICAL, BRECQ, QAT, QAT_LAST, QAT_PAPER)
# What rounds all weights afresh, from the float ones.
_AFRESH = {
    LAPQ: "rounds all weights to nearest on ranges of its own",
    BRECQ: "learns the rounding of all weights from their float values",
    REFINE: "solves all units again",
}
# What may stand before a step that rounds afresh, and is not lost by it.
_TUNED = (BN, BN_PAPER, BIAS, SCALES, BIAS_ANALYTIC, BIAS_EMPIRICAL)
_BEFORE = {LAPQ: (), BRECQ: (LAPQ,), REFINE: _TUNED}
# Methods that leave the bias as it is.
_OWN_BIAS_NONE = ("nearest", "adaround")


def find_tuning_steps(text: str) -> tuple[str, ...]:
    """The tuning steps of a recipe.

    >>> find_tuning_steps("bn, bias")
    ('bn', 'bias')

    Raises:
        RecipeError: an unknown step.
    """
    steps = tuple(part.strip() for part in text.split(",") if part.strip())
    for step in steps:
        if step in STEPS or is_unnamed(step) or step in find_registered("tuning step"):
            continue
        raise RecipeError(unknown("step", step, STEPS, "--tune"))
    return steps


def check_tuning(text: str, method: str) -> None:
    """Whether the steps make sense in this order and after this method.

    Raises:
        RecipeError: naming the two that do not go together, why, and what to do.
    """
    steps = find_tuning_steps(text)
    for place, step in enumerate(steps):
        if step not in _AFRESH:
            continue
        lost = [earlier for earlier in steps[:place] if earlier not in _BEFORE[step]]
        if lost:
            raise RecipeError(
                f"tune = {text!r}: {step!r} {_AFRESH[step]}, so what {lost[-1]!r} found would be "
                f"lost. Put {step!r} before it, or leave one of them out."
            )
        if step != REFINE and method != "nearest":
            raise RecipeError(
                f"tune = {text!r}: {step!r} {_AFRESH[step]}, so what --method {method} solves "
                f"would be lost. Use --method nearest, or leave {step!r} out."
            )
    if BIAS_ANALYTIC in steps and method not in _OWN_BIAS_NONE:
        raise RecipeError(
            f"tune = {text!r}: 'bias-analytic' takes out the shift that rounded weights give the "
            f"outputs, which the biases of --method {method} have taken out already. Use --method "
            "nearest, or the step 'bias-empirical'."
        )
    if method == "aciq" and {QAT, QAT_LAST, QAT_PAPER} & set(steps):
        raise RecipeError(
            f"tune = {text!r}: --method aciq gives each channel bits of its own, on which no "
            "weights are trained. Use another method, or the step 'bias'."
        )
