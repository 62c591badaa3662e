"""The stages of a run as plain functions: a researcher composes them, the pipeline calls them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bitwright.allocation.given import of_units, parse_given
from bitwright.errors import RecipeError
from bitwright.graph.choice import Choice, assign, parse_keep, parse_menu, parse_scheme
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.target import load_target
from bitwright.graph.units import fits
from bitwright.prepare.steps import apply_steps
from bitwright.recipe.values import Recipe
from bitwright.sources.batches import Dataset, take
from bitwright.sources.lengths import batched

# A scheme that no user can write marks the units that no rule names.
_FREE = Choice(-1, -1)


def choices_of(graph: ModelGraph, recipe: Recipe) -> dict[str, Choice]:
    """The bits of every unit: the scheme, overruled by --keep; inputs that stay float have none.

    In place of the scheme stands an allocation, where one is given.

    Raises:
        RecipeError: a pattern that matches no unit; an allocation that is not of this network.
    """
    names = [unit.name for unit in graph.units]
    kept = assign(names, _FREE, parse_keep(recipe.keep))
    target = load_target(recipe.target)
    scheme = parse_scheme(recipe.scheme)
    given = of_units(names, parse_given(recipe.allocation)) if recipe.allocation else {}
    found = {}
    for unit in graph.units:
        free = kept[unit.name] == _FREE
        asked = given.get(unit.name, scheme) if free else kept[unit.name]
        found[unit.name] = _possible(unit, asked, target.inputs)
        if free and given and found[unit.name] != asked:
            raise RecipeError(
                f"--allocation gives unit {unit.name!r} {asked}, which target {target.name!r} does "
                f"not hold there: it can be {found[unit.name]}. Correct it."
            )
    return found


def _possible(unit: Unit, choice: Choice, inputs: bool) -> Choice:
    """The choice without input bits where the input stays float, without groups where none fit.

    Groups are for linear layers whose inputs they divide; elsewhere a channel has one scale.
    """
    if not inputs or unit.weight_only:
        choice = replace(choice, a_bits=0)
    if not choice.group or (unit.kind in ("linear", "addmm") and fits(unit, choice.group)):
        return choice
    return replace(choice, group=0)


def rewrite(graph: ModelGraph, recipe: Recipe) -> ModelGraph:
    """The float network after those of the recipe's rewrites that need no data."""
    target = load_target(recipe.target)
    return apply_steps(graph, recipe.prepare, choices_of(graph, recipe), target)


def menu_of(graph: ModelGraph, recipe: Recipe) -> dict[str, tuple[Choice, ...]]:
    """What each unit may become: the menu, or the one choice that --keep or the scheme gives."""
    base = choices_of(graph, recipe)
    if not recipe.menu:
        return {name: (choice,) for name, choice in base.items()}
    names = [unit.name for unit in graph.units]
    ruled = assign(names, _FREE, parse_keep(recipe.keep))
    inputs = load_target(recipe.target).inputs
    menu = {}
    for unit in graph.units:
        wanted = parse_menu(recipe.menu)
        if not inputs or unit.weight_only:
            wanted = tuple(replace(c, a_bits=0) for c in wanted)
        kept = ruled[unit.name] != _FREE
        menu[unit.name] = (base[unit.name],) if kept else tuple(dict.fromkeys(wanted))
    return menu


def stream(dataset: Dataset, recipe: Recipe, limit: bool = True) -> Iterator[Any]:
    """The inputs of the calibration set in batches of the recipe's size, at most `calib` samples.

    Small batches are deliberate: activations of 25 photos stay near the caches, and memory does not
    depend on the batches that the user's loader makes.
    """
    limited = take(dataset, recipe.calib) if limit and recipe.calib else dataset
    for batch in batched(limited, recipe.batch):
        yield batch.inputs
