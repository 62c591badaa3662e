"""Whether a recipe makes sense, each value by itself and together; torch is not needed for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from bitwright.allocation.cost import COSTS, DEGRADATIONS, kind_of
from bitwright.allocation.devices import check_devices, read_devices
from bitwright.allocation.given import inline_bits, parse_given
from bitwright.allocation.ties import parse_ties
from bitwright.engine.device import parse_device
from bitwright.errors import RecipeError, unknown
from bitwright.export.opset import check, need_of_choices
from bitwright.graph.choice import Choice, parse_keep, parse_menu, parse_scheme
from bitwright.graph.said import parse_answer
from bitwright.graph.target import Target, load_target
from bitwright.prepare.names import prepare_steps
from bitwright.recipe.durations import parse_duration
from bitwright.recipe.names import (
    METHODS,
    MODES,
    QUICK,
    RANGES,
    SOLVERS,
    TABLES,
    check_metric,
    check_name,
)
from bitwright.recipe.promises import parse_promise
from bitwright.recipe.values import (
    MOST,
    VERSION,
    Recipe,
    give_bits,
    load_recipe,
    tensor_rule,
    update,
)
from bitwright.tuning.catalogue import REFINE, check_tuning, find_tuning_steps

# Methods that solve weights with several grids a channel.
GROUPED = ("nearest", "quadratic")
# Samples and pairs that there can be.
_MOST_COUNTED = 10**9


def make_recipe(name: str, overrides: Mapping[str, Any], target: Target | None = None) -> Recipe:
    """A recipe from defaults, then a named recipe or file, then the options of the command.

    Args:
        name: of the recipe, or its file.
        overrides: the options.
        target: the caller's own, where the options only say that it is an object.
    """
    recipe = update(Recipe(), inline_bits(load_recipe(name)), f"recipe {name}")
    overrides = inline_bits(overrides)
    if overrides.get("scheme") and not any(map(overrides.get, ("menu", "budget", "lossless"))):
        # Whoever asks for one scheme asks for no allocation.
        recipe = replace(recipe, menu="", budget="")
    if overrides.get("allocation"):
        recipe = give_bits(recipe, "")
    return check_recipe(update(recipe, overrides, "the options"), target)


def check_recipe(recipe: Recipe, target: Target | None = None) -> Recipe:
    """The recipe itself if every value makes sense.

    Args:
        recipe: all keys.
        target: the caller's own, where the recipe only says that it is an object.

    Raises:
        RecipeError: naming the value and the known ones.
    """
    if recipe.version != VERSION:
        raise RecipeError(
            f"the recipe has version {recipe.version}; this bitwright reads {VERSION}. Remove "
            "the key 'version' and check the keys against 'bitwright list recipes'."
        )
    check_name("method", recipe.method, METHODS, "--method")
    check_name("mode", recipe.mode, MODES, "--mode")
    choice = parse_scheme(recipe.scheme)
    keep = parse_keep(recipe.keep)
    target = target or load_target(recipe.target)
    _check_bits(choice, target)
    given = parse_given(recipe.allocation) if recipe.allocation else {}
    others = (*(kept for _, kept in keep), *given.values())
    for own in others:
        _check_bits(own, target)
    chosen = tuple(c if c.is_float or c.group else _grouped(c, target) for c in (choice, *others))
    _check_groups(chosen, (recipe.method, recipe.refine_method))
    _check_allocation(recipe, target)
    _check_opset(recipe, target)
    prepare_steps(recipe.prepare)
    check_tuning(recipe.tune, recipe.method)
    if recipe.refine_method and REFINE not in find_tuning_steps(recipe.tune):
        raise RecipeError(
            f"refine_method is {recipe.refine_method!r}, but tune = {recipe.tune!r} does not "
            "refine. Add the step 'refine' to tune, or leave refine_method out."
        )
    if recipe.refine_method:
        check_name("method", recipe.refine_method, METHODS, "refine_method")
    again = recipe.refine_method in ("", recipe.method)
    if again and REFINE in find_tuning_steps(recipe.tune) and recipe.mode == "sequential":
        raise RecipeError(
            "tune has the step 'refine', which solves in sequence what --mode sequential has "
            f"already solved so by {recipe.method}. Leave 'refine' out, use --mode parallel, or "
            "name another refine_method."
        )
    check_metric(recipe.metric)
    _check_answer(recipe)
    check_name("range rule", tensor_rule(recipe), RANGES, "--activation-range")
    check_name("range rule", recipe.weight_range, RANGES, "--weight-range")
    if recipe.calib < 0 or recipe.batch < 1 or recipe.table_samples < 0:
        raise RecipeError(
            f"calib is {recipe.calib}, table_samples {recipe.table_samples}, batch {recipe.batch}: "
            "samples are counted from 1 (0 takes all; a batch has at least one)."
        )
    _check_time(recipe)
    parse_device(recipe.device)
    if not 0 <= recipe.seed < MOST:
        raise RecipeError(f"seed is {recipe.seed}: it is a whole number from 0 to 2^63 - 1.")
    _check_sizes(recipe)
    return recipe


def _check_time(recipe: Recipe) -> None:
    """Whether a time can be read, and is one that a forecast is made for."""
    if not recipe.time:
        return
    parse_duration(recipe.time)
    for key in ("promise", "lossless"):
        if getattr(recipe, key):
            raise RecipeError(
                f"--time {recipe.time} is given with --{key} {getattr(recipe, key)!r}: how many "
                "configurations that looks at is not known beforehand. Leave one of them out."
            )
    if recipe.data == "none":
        raise RecipeError(
            f"--time {recipe.time} is given with --data none: it chooses among numbers of samples. "
            "Leave it out, or give --data D."
        )


def _check_answer(recipe: Recipe) -> None:
    """Whether what is said of the outputs can be read, and one loss is named at most."""
    parse_answer(recipe.answer)
    if recipe.loss and recipe.labels:
        raise RecipeError(
            f"--labels and --loss {recipe.loss!r} name two losses. Leave one of them out."
        )


def _check_sizes(recipe: Recipe) -> None:
    """Whether numbers are of a size that anything can have."""
    for key in ("calib", "table_samples", "batch", "pairwise"):
        if getattr(recipe, key) > _MOST_COUNTED:
            raise RecipeError(
                f"{key} is {getattr(recipe, key)}: that many there are not. Give at most "
                f"{_MOST_COUNTED} (0 takes all samples)."
            )


def _check_allocation(recipe: Recipe, target: Target) -> None:
    """Whether menu and budget make sense together."""
    if recipe.allocation and (recipe.menu or recipe.budget):
        raise RecipeError(
            "--allocation gives the bits of every unit, --menu and --budget search for them. "
            "Leave out the one or the others."
        )
    if recipe.menu and target.blocks:
        raise RecipeError(
            f"--menu {recipe.menu!r} is given with target {target.name!r}, whose weights are in "
            "groups, and a menu has none. Give one scheme, and others by --keep."
        )
    for choice in parse_menu(recipe.menu) if recipe.menu else ():
        if choice.group:
            raise RecipeError(
                f"--menu holds {choice}: a menu has no groups. Give them by --scheme or --keep."
            )
        _check_bits(choice, target)
    check_name("solver", recipe.solver, SOLVERS, "--solver")
    check_devices([recipe.budget], recipe.minimize, recipe.latencies)
    parse_ties(recipe.ties)
    _check_search_options(recipe)
    # Whether the tables are there and of this target is told now, and not after minutes of work.
    read_devices(recipe.latencies, target.name)
    if recipe.lossless:
        _check_lossless(recipe)
    elif recipe.promise:
        _check_promise(recipe)
    elif bool(recipe.menu) != bool(recipe.budget):
        given, lacking = ("menu", "budget") if recipe.menu else ("budget", "menu")
        example = "'size<=0.13'" if recipe.menu else "'w8a8,w4a4'"
        raise RecipeError(
            f"--{given} {getattr(recipe, given)!r} is given without --{lacking}: bits are "
            f"allocated from a menu under a budget. Add --{lacking} {example}."
        )


def _check_opset(recipe: Recipe, target: Target) -> None:
    """Whether every choice that may be deployed can be stored in a file of the opset."""
    choices = parse_menu(recipe.menu) if recipe.menu else (parse_scheme(recipe.scheme),)
    if recipe.allocation:
        choices = tuple(parse_given(recipe.allocation).values())
    choices += tuple(choice for _, choice in parse_keep(recipe.keep))
    if not target.inputs:
        choices = tuple(replace(choice, a_bits=0) for choice in choices)
    check(recipe.opset, need_of_choices(choices, target))


def _check_lossless(recipe: Recipe) -> None:
    if recipe.promise:
        raise RecipeError(
            f"--lossless {recipe.lossless:g} is given with --promise {recipe.promise!r}: as a "
            f"promise it is 'agreement>={1 - recipe.lossless:g}'. Leave one of them out."
        )
    if not 0.0 < recipe.lossless < 1.0:
        raise RecipeError(
            f"lossless is {recipe.lossless:g}: it is the share of answers that may differ from "
            "the float network's, such as 0.001."
        )
    if recipe.budget or not recipe.menu:
        problem = f"with --budget {recipe.budget!r}" if recipe.budget else "without --menu"
        raise RecipeError(
            f"--lossless {recipe.lossless:g} is given {problem}: it looks for the least cost "
            "among the choices of a menu. Give --menu, such as 'w4a8x{1..3}', and no --budget."
        )
    if recipe.minimize in DEGRADATIONS:
        raise RecipeError(
            f"--lossless with --minimize {recipe.minimize}: name a cost, such as bops or size."
        )


def _check_promise(recipe: Recipe) -> None:
    """Whether a promise can be read, and what stands beside it goes with it."""
    parse_promise(recipe.promise, recipe.metric.rpartition(":")[2])
    if recipe.budget:
        raise RecipeError(
            f"--promise {recipe.promise!r} is given with --budget {recipe.budget!r}: a promise "
            "spends as little as it can. Leave --budget out, and name the cost by --minimize."
        )
    if recipe.minimize in DEGRADATIONS:
        raise RecipeError(
            f"--promise with --minimize {recipe.minimize}: name a cost, such as bops or size."
        )
    if recipe.minimize and kind_of(recipe.minimize) not in COSTS:
        raise RecipeError(unknown("cost", recipe.minimize, COSTS, "--minimize"))
    if recipe.data == "none":
        raise RecipeError(
            f"--promise {recipe.promise!r} is judged by samples, and --data is none. Give --data D."
        )


def _check_search_options(recipe: Recipe) -> None:
    """What shapes the search for bits makes no sense without one."""
    if recipe.pairwise < 0:
        raise RecipeError(f"pairwise is {recipe.pairwise}: pairs are counted from 0.")
    check_name("table", recipe.table, TABLES, "--table")
    if recipe.menu:
        _check_quick(recipe)
        return
    for key in ("labels", "ties", "pairwise", "latencies", "table"):
        if getattr(recipe, key) not in (0, "", "measured"):
            raise RecipeError(
                f"{key} is {getattr(recipe, key)!r}, but without --menu and --budget no bits are "
                "searched for. Leave it out, or add --menu 'w8a8,w4a4' --budget 'size<=0.13'."
            )


def _check_quick(recipe: Recipe) -> None:
    """Whether an estimated table is of the loss that is asked for, from errors that are known."""
    reason = remedy = ""
    if recipe.method in ("nearest", "aciq"):
        reason = f"--method {recipe.method} looks at no data, and so tells no errors of outputs"
        remedy = "Use --method quadratic"
    elif recipe.labels or recipe.pairwise:
        key = "labels" if recipe.labels else "pairwise"
        reason = f"--{key} measures losses that it does not estimate"
        remedy = f"Leave out --{key}"
    if reason and recipe.table == QUICK:
        raise RecipeError(
            f"--table quick estimates most losses from the errors of the solutions; {reason}. "
            f"{remedy}, or --table measured."
        )


def _grouped(choice: Choice, target: Target) -> Choice:
    """A choice with the groups that a target gives to weights whose scheme names none."""
    return replace(choice, group=target.blocks)


def _check_groups(choices: Iterable[Choice], methods: Iterable[str]) -> None:
    """Whether every method that is used solves weights with several grids a channel."""
    grouped = [choice for choice in choices if choice.group]
    for name in methods:
        if grouped and name and name not in GROUPED:
            raise RecipeError(
                f"method {name!r} solves no groups, and the scheme is {grouped[0]}. Use "
                f"--method {' or '.join(GROUPED)}, or leave the g out."
            )


def _check_bits(choice: Choice, target: Target) -> None:
    wanted = (
        ("weights", choice.w_bits, target.weight_bits),
        ("inputs", choice.a_bits, target.input_bits),
    )
    for what, bits, allowed in wanted:
        if bits and bits not in allowed:
            raise RecipeError(
                f"target {target.name!r} holds no {what} of {bits} bits. It holds "
                f"{', '.join(map(str, allowed))}."
            )
