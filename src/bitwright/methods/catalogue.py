"""The literal catalogue of methods: a new one is one file and one line here."""

from __future__ import annotations

from bitwright.errors import RecipeError, unknown
from bitwright.methods.aciq import Aciq
from bitwright.methods.adaquant import AdaQuant, paper
from bitwright.methods.adaround import AdaRound
from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import Catalogue, Method
from bitwright.methods.quadratic import QuadraticSolver
from bitwright.recipe.names import refuse_unnamed
from bitwright.recipe.registered import load_registered

METHODS: Catalogue = {
    "nearest": Nearest(),
    "aciq": Aciq(),
    "quadratic": QuadraticSolver(),
    "adaquant": AdaQuant(),
    "adaquant-paper": paper(),
    "adaround": AdaRound(),
}


def method(name: str) -> Method:
    """The method of that name, built in or registered by another distribution.

    Raises:
        RecipeError: unknown name.
    """
    refuse_unnamed("method", name, "method=...")
    if name in METHODS:
        return METHODS[name]
    found: Method | None = load_registered("method", name)
    if found is None:
        raise RecipeError(unknown("method", name, METHODS, "--method"))
    return found
