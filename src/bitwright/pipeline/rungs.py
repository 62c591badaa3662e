"""The cheapest remedies of one scheme that does not keep its promise, in the order of their price.

None of them costs a bit or a microsecond in use, but the last: units that are kept finer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bitwright.errors import RecipeError
from bitwright.graph.choice import FLOAT, Choice, parse_scheme
from bitwright.graph.target import Target
from bitwright.pipeline.check import check_recipe
from bitwright.pipeline.lossless import COMPLEXITY
from bitwright.recipe.values import Recipe
from bitwright.tuning.catalogue import BIAS_EMPIRICAL

RANGES = ("minmax", "percentile", "mse")
SOLVED = "quadratic"
# Weights and inputs of the finer choices, from the cheapest up; float is the last.
FINER = ("w8a8", "w8a16")


def list_ranges(recipe: Recipe) -> Iterator[tuple[str, dict[str, str]]]:
    """The other rules for the ranges of inputs."""
    if parse_scheme(recipe.scheme).a_bits:
        for rule in RANGES:
            if rule != recipe.activation_range:
                yield f"ranges by {rule}", {"activation_range": rule}


def solve_rounding(recipe: Recipe) -> tuple[str, dict[str, str]] | None:
    """Rounding solved in sequence, where units are rounded to nearest or solved by themselves."""
    wanted = {"method": SOLVED, "mode": "sequential"}
    known = recipe.method in ("nearest", "aciq", SOLVED)
    if not known or (recipe.method == SOLVED and recipe.mode == "sequential"):
        return None
    return "rounding solved in sequence", wanted


def equalize_and_correct(recipe: Recipe) -> tuple[str, dict[str, str]] | None:
    """Channels made equal across layers, and the shift of the outputs taken out."""
    wanted = {
        "prepare": _add(recipe.prepare, "equalize"),
        "tune": _add(recipe.tune, BIAS_EMPIRICAL),
    }
    changed = {key: text for key, text in wanted.items() if text != getattr(recipe, key)}
    return ("channels equalised, biases corrected", changed) if changed else None


def keep_finer(recipe: Recipe, target: Target) -> tuple[str, dict[str, str]] | None:
    """A menu of the scheme and what is finer, for the least set of units that need it."""
    scheme = parse_scheme(recipe.scheme)
    if scheme.group or recipe.allocation or scheme.is_float:
        return None
    finer = [c for c in map(parse_scheme, FINER) if _fits(c, target) and _is_finer(c, scheme)]
    menu = ",".join(map(str, (scheme, *finer))) + ",float"
    return "the least set of units kept finer", {
        "menu": menu,
        "minimize": recipe.minimize or COMPLEXITY,
    }


def apply(recipe: Recipe, settings: dict[str, str], target: Target) -> Recipe | None:
    """The recipe with a remedy, where both go together."""
    try:
        return check_recipe(replace(recipe, **settings), target)  # type: ignore[arg-type]
    except RecipeError:
        return None


def _add(listed: str, name: str) -> str:
    parts = [part.strip() for part in listed.split(",") if part.strip()]
    return listed if name in parts else ",".join((*parts, name))


def _fits(choice: Choice, target: Target) -> bool:
    inputs = not target.inputs or choice.a_bits in target.input_bits
    return inputs and choice.w_bits in target.weight_bits


def _is_finer(choice: Choice, scheme: Choice) -> bool:
    more = choice.w_bits >= scheme.sum_bits and choice.a_bits >= scheme.a_bits
    return more and choice != scheme and choice != FLOAT
