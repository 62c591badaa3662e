"""The stages of a run as plain functions: a researcher composes them, the pipeline calls them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from bitwright.graph.choice import Choice, assign, parse_keep, parse_menu, parse_scheme
from bitwright.graph.execute import bind, blaming
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.target import load_target
from bitwright.graph.units import fits
from bitwright.prepare.steps import apply_steps
from bitwright.recipe import Recipe
from bitwright.sources.batches import Dataset, take
from bitwright.sources.lengths import MASK, batched


def choices_of(graph: ModelGraph, recipe: Recipe) -> dict[str, Choice]:
    """The bits of every unit: the scheme, overruled by --keep; inputs that stay float have none."""
    names = [unit.name for unit in graph.units]
    asked = assign(names, parse_scheme(recipe.scheme), parse_keep(recipe.keep))
    inputs = load_target(recipe.target).inputs
    return {unit.name: _possible(unit, asked[unit.name], inputs) for unit in graph.units}


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
    # A scheme that no user can write marks the units that no rule names.
    free = Choice(-1, -1)
    ruled = assign(names, free, parse_keep(recipe.keep))
    inputs = load_target(recipe.target).inputs
    menu = {}
    for unit in graph.units:
        wanted = parse_menu(recipe.menu)
        if not inputs or unit.weight_only:
            wanted = tuple(replace(c, a_bits=0) for c in wanted)
        kept = ruled[unit.name] != free
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


def forward_of(graph: ModelGraph, module: nn.Module, device: str = "cpu") -> Any:
    """A function from a batch's inputs to the tensor that answers are read from."""
    names = {spec.name for spec in graph.inputs}

    def forward(inputs: Any) -> Tensor:
        flat = bind(graph, inputs)
        with blaming(flat):
            if isinstance(inputs, Mapping):
                values = {k: v.to(device) for k, v in inputs.items() if k in names}
                return graph.answer.of(module(**values), values.get(MASK)).cpu()
            given = (t.to(device) for t in flat if isinstance(t, Tensor))
            return graph.answer.of(module(*given)).cpu()

    return forward
