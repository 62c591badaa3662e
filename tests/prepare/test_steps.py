"""The key `prepare`: names, their order, and what makes no sense."""

from __future__ import annotations

import pytest

import bitwright as bw
from bitwright.errors import RecipeError
from bitwright.prepare.names import ABOUT, WITH_DATA, prepare_steps
from bitwright.prepare.steps import STEPS
from networks import pictures, small_network


def test_every_step_has_its_name_and_is_described():
    assert {*STEPS, *WITH_DATA} == set(ABOUT)
    for name, step in STEPS.items():
        assert step.name == name and hash(step) == hash(STEPS[name])
    for name in ABOUT:
        assert ABOUT[name].paper and ABOUT[name].text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("equalise", r"unknown step 'equalise' in --prepare. Did you mean 'equalize'"),
        ("equalize,equalize", r"names a step twice"),
        ("equalize,factorize", r"'equalize' and 'factorize' both choose the scale"),
        ("smooth,ocs", r"ocs halves weights.*smooth.*Keep one of them"),
        ("balance,equalize-learned", r"'balance' and 'equalize-learned' both choose the scale"),
        ("ocs,equalize-learned", r"ocs halves weights.*equalize-learned.*Keep one of them"),
        ("ocs,equalize", r"splits channels before 'equalize'.*Put ocs last"),
        ("absorb-bias,equalize", r"absorbs biases before 'equalize' makes them high"),
    ],
)
def test_what_makes_no_sense(text, message):
    with pytest.raises(RecipeError, match=message):
        prepare_steps(text)
    with pytest.raises(RecipeError, match=message):
        bw.quantize(small_network(), [pictures(8)], recipe="fixed", prepare=text)


def test_the_float_side_of_the_figures_is_the_users_network():
    result = bw.quantize(
        small_network(),
        [pictures(64)],
        recipe="fixed",
        scheme="w8a8",
        prepare="equalize-relu,absorb-bias",
    )
    # Quantised figures are against the network that was given, not against the rewritten one.
    assert 0.9 < result.metrics["agreement"] <= 1.0
    assert result.graph.digest()
