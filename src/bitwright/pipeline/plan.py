"""What a recipe means, read once: the plan that every stage of a run follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bitwright.allocation.budget import Budget, parse_budgets
from bitwright.allocation.cost import COSTS, DEGRADATIONS
from bitwright.allocation.devices import parse_devices
from bitwright.allocation.given import of_units, parse_given
from bitwright.errors import RecipeError
from bitwright.evaluation.metrics import Metric, metric
from bitwright.evaluation.own_loss import find_loss
from bitwright.graph.choice import FLOAT, Choice, assign, parse_keep, parse_menu, parse_scheme
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.target import Target, load_target
from bitwright.graph.units import fits
from bitwright.methods.catalogue import method
from bitwright.methods.problem import Method
from bitwright.numerics.ranges import RangeRule, range_rule
from bitwright.pipeline.objects import NO_OBJECTS, Objects
from bitwright.prepare.names import prepare_steps
from bitwright.prepare.steps import apply_steps
from bitwright.recipe.names import is_unnamed, refuse_unnamed
from bitwright.recipe.values import BY_OUTPUT, Recipe, tensor_rule
from bitwright.sources.batches import Dataset, take
from bitwright.sources.lengths import batch_by_length
from bitwright.tuning.catalogue import find_tuning_steps
from bitwright.tuning.steps import TuningStep

# A scheme that no user can write marks the units that no rule names.
_FREE = Choice(-1, -1)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a recipe means: its words read, and what they name fetched. No stage reads them again.

    Attributes:
        recipe: the words.
        target: what the runtime can do.
        method, refine: how units are solved, and solved again by the step `refine`.
        scheme, keep, given: the bits of units: of all, by pattern, and of single ones.
        menu, budgets: the choices of a search for bits, and what they may spend.
        prepare: the names of the rewrites, in order.
        tune: the steps after the bits are chosen: names, and objects of the caller's.
        rule, by_output: how ranges of inputs are chosen; whether at the unit's own output.
        metric: what labelled data are measured by.
        objects: what the caller handed over in place of names.
    """

    recipe: Recipe
    target: Target
    method: Method
    refine: Method | None
    scheme: Choice
    keep: tuple[tuple[str, Choice], ...]
    given: Mapping[str, Choice]
    menu: tuple[Choice, ...]
    budgets: tuple[Budget, ...]
    prepare: tuple[str, ...]
    tune: tuple[str | TuningStep, ...]
    rule: RangeRule
    by_output: bool
    metric: Metric
    loss: Callable[..., Any] | None
    objects: Objects = field(default=NO_OBJECTS, repr=False)

    @classmethod
    def of(cls, recipe: Recipe, objects: Objects = NO_OBJECTS) -> Plan:
        """Read a recipe that `make_recipe` has checked.

        Args:
            recipe: the words.
            objects: what stands for the words that say that they were objects.

        Raises:
            RecipeError: such a word without its object.
        """
        _check_rules(recipe, objects)
        devices = parse_devices(recipe.latencies)
        weights = objects.weight_range or recipe.weight_range
        refine = objects.refine_method or recipe.refine_method
        return cls(
            recipe=recipe,
            target=objects.target or load_target(recipe.target),
            method=_configure(objects.method or recipe.method, weights),
            refine=_configure(refine, weights) if refine else None,
            scheme=parse_scheme(recipe.scheme),
            keep=parse_keep(recipe.keep),
            given=parse_given(recipe.allocation) if recipe.allocation else {},
            menu=parse_menu(recipe.menu) if recipe.menu else (),
            budgets=parse_budgets(recipe.budget, known=(*COSTS, *DEGRADATIONS, *devices)),
            prepare=prepare_steps(recipe.prepare),
            tune=objects.steps(find_tuning_steps(recipe.tune)),
            rule=range_rule(objects.activation_range or tensor_rule(recipe)),
            by_output=recipe.activation_range == BY_OUTPUT,
            metric=metric(objects.metric or recipe.metric),
            loss=find_loss(objects.loss or recipe.loss),
            objects=objects,
        )

    @classmethod
    def to_read(cls, recipe: Recipe) -> Plan:
        """The plan of a run that is only read: what solved, tuned and measured it is not asked for.

        Raises:
            RecipeError: a target that was an object.
        """
        unnamed: dict[str, Any] = {
            key: getattr(Recipe(), key)
            for key in ("method", "refine_method", "activation_range", "weight_range")
            if is_unnamed(getattr(recipe, key))
        }
        return cls.of(replace(recipe, tune="", loss="", metric=Recipe().metric, **unnamed))

    def under(self, recipe: Recipe) -> Plan:
        """The plan of another recipe, with the same objects."""
        return Plan.of(recipe, self.objects)

    @property
    def sequential(self) -> bool:
        """Whether units are solved on what those before them give, once their bits are known.

        A lossless configuration is deployed as it was measured.
        """
        in_order = self.recipe.mode == "sequential" and self.method.needs.data
        return in_order and not self.recipe.lossless


def _check_rules(recipe: Recipe, objects: Objects) -> None:
    """Whether each range rule that was an object is there."""
    for key in ("activation_range", "weight_range"):
        if getattr(objects, key) is None:
            refuse_unnamed("range rule", getattr(recipe, key), f"{key}=...")


def _configure(given: str | Method, weights: str | RangeRule) -> Method:
    return (method(given) if isinstance(given, str) else given).configured(weights)


def choices_of(graph: ModelGraph, plan: Plan) -> dict[str, Choice]:
    """The bits of every unit: the scheme, overruled by --keep; inputs that stay float have none.

    In place of the scheme stands an allocation, where one is given.

    Raises:
        RecipeError: a pattern that matches no unit; an allocation that is not of this network.
    """
    names, target = [unit.name for unit in graph.units], plan.target
    kept = assign(names, _FREE, plan.keep)
    given = of_units(names, plan.given) if plan.given else {}
    found = {}
    for unit in graph.units:
        free = kept[unit.name] == _FREE
        asked = given.get(unit.name, plan.scheme) if free else kept[unit.name]
        found[unit.name] = _possible(unit, asked, target)
        if free and given and found[unit.name] != asked:
            raise RecipeError(
                f"--allocation gives unit {unit.name!r} {asked}, which target {target.name!r} does "
                f"not hold there: it can be {found[unit.name]}. Correct it."
            )
    return found


def _possible(unit: Unit, choice: Choice, target: Target) -> Choice:
    """The choice without input bits where the input stays float, without groups where none fit.

    Groups are for linear layers whose inputs they divide; elsewhere a channel has one scale. A
    table that is only looked up stays float where the target has no quantised ones.
    """
    if unit.weight_only and not target.tables:
        return FLOAT
    if not target.inputs or unit.weight_only:
        choice = replace(choice, a_bits=0)
    if target.blocks and not choice.is_float:
        return _in_blocks(unit, choice, target)
    if not choice.group or (unit.kind in ("linear", "addmm") and fits(unit, choice.group)):
        return choice
    return replace(choice, group=0)


def _in_blocks(unit: Unit, choice: Choice, target: Target) -> Choice:
    """A linear layer's weights in blocks, as a target's kernels take them; else the input is float.

    What has no such kernel has one grid a channel.
    """
    linear = unit.kind in ("linear", "addmm") and choice.points == 1 and not unit.weight_only
    width = unit.shape[1 - unit.channel_axis] if linear else 0
    block = target.block_of(width, choice.group)
    return replace(choice, a_bits=choice.a_bits if block else 0, group=block)


def rewrite(graph: ModelGraph, plan: Plan) -> ModelGraph:
    """The float network after those of the recipe's rewrites that need no data."""
    return apply_steps(graph, plan.prepare, choices_of(graph, plan), plan.target)


def menu_of(graph: ModelGraph, plan: Plan) -> dict[str, tuple[Choice, ...]]:
    """What each unit may become: the menu, or the one choice that --keep or the scheme gives."""
    base = choices_of(graph, plan)
    if not plan.menu:
        return {name: (choice,) for name, choice in base.items()}
    ruled = assign([unit.name for unit in graph.units], _FREE, plan.keep)
    menu = {}
    for unit in graph.units:
        wanted = plan.menu
        if not plan.target.inputs or plan.target.blocks or unit.weight_only:
            wanted = tuple(_possible(unit, c, plan.target) for c in wanted)
        kept = ruled[unit.name] != _FREE
        menu[unit.name] = (base[unit.name],) if kept else tuple(dict.fromkeys(wanted))
    return menu


def stream(dataset: Dataset, recipe: Recipe, limit: bool = True) -> Iterator[Any]:
    """The inputs of the calibration set in batches of the recipe's size, at most `calib` samples.

    Small batches are deliberate: activations of 25 photos stay near the caches, and memory does not
    depend on the batches that the user's loader makes.
    """
    limited = take(dataset, recipe.calib) if limit and recipe.calib else dataset
    for batch in batch_by_length(limited, recipe.batch):
        yield batch.inputs
