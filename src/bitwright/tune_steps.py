"""The steps of a recipe's `tune`: their names, what each asks for, and which go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.errors import RecipeError, unknown

BN, BN_PAPER, BIAS, SCALES, REFINE = "bn", "bn-paper", "bias", "scales", "refine"
BIAS_ANALYTIC, BIAS_EMPIRICAL = "bias-analytic", "bias-empirical"
LAPQ, BRECQ = "lapq", "brecq"
QAT, QAT_LAST, QAT_PAPER = "qat-kld", "qat-kld-last", "qat-kld-paper"


@dataclass(frozen=True)
class AboutStep:
    """What the list of methods says of a step."""

    data: bool
    backward: bool
    paper: str
    cost: str


ABOUT: Mapping[str, AboutStep] = {
    LAPQ: AboutStep(True, False, "arXiv 1911.07190", "200 forward passes over 128 samples"),
    BRECQ: AboutStep(True, True, "arXiv 2102.05426", "1000 batches of 8 through each block"),
    QAT: AboutStep(True, True, "arXiv 1911.12491", "300 batches through the whole network"),
    QAT_LAST: AboutStep(True, True, "arXiv 1911.12491", "the same, without early stopping"),
    QAT_PAPER: AboutStep(True, True, "arXiv 1911.12491", "ten passes through the whole network"),
    BN: AboutStep(True, False, "arXiv 2006.10518", "some forward passes"),
    BN_PAPER: AboutStep(True, False, "arXiv 2006.10518", "ten forward passes"),
    BIAS: AboutStep(True, True, "arXiv 2006.10518", "200 batches through the whole network"),
    SCALES: AboutStep(True, True, "arXiv 1902.08153", "200 batches through the whole network"),
    BIAS_ANALYTIC: AboutStep(False, False, "arXiv 1906.04721", "milliseconds"),
    BIAS_EMPIRICAL: AboutStep(True, False, "arXiv 1906.04721", "some forward passes"),
    REFINE: AboutStep(True, False, "arXiv 2006.10518", "that of refine_method, in sequence"),
}
STEPS = tuple(ABOUT)
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


def tuning_steps(text: str) -> tuple[str, ...]:
    """The tuning steps of a recipe.

    >>> tuning_steps("bn, bias")
    ('bn', 'bias')

    Raises:
        RecipeError: an unknown step.
    """
    steps = tuple(part.strip() for part in text.split(",") if part.strip())
    for step in steps:
        if step not in STEPS:
            raise RecipeError(unknown("step", step, STEPS, "--tune"))
    return steps


def check_tuning(text: str, method: str) -> None:
    """Whether the steps make sense in this order and after this method.

    Raises:
        RecipeError: naming the two that do not go together, why, and what to do.
    """
    steps = tuning_steps(text)
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
