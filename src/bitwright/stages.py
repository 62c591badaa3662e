"""The stages of a run as plain functions: a researcher composes them, the pipeline calls them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.graph.choice import Choice, assign, parse_keep, parse_menu, parse_scheme
from bitwright.graph.execute import bind, blaming
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.simulate import Assignment, IntegerBias, QuantizedTensor
from bitwright.graph.sites import Site
from bitwright.graph.target import Target, load_target
from bitwright.methods.problem import UnitProblem, UnitSolution
from bitwright.numerics.affine import QParams, quantize_bias
from bitwright.numerics.exact import exact_bias, exact_range
from bitwright.numerics.ranges import RangeRule
from bitwright.numerics.stats import TensorStats
from bitwright.prepare.steps import apply_steps
from bitwright.recipe import Recipe
from bitwright.sources.batches import Dataset, rebatch, take
from bitwright.sources.lengths import MASK, batched

CHAIN_BITS = 8
VERIFY_BATCH = 8


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


def fits(unit: Unit, group: int) -> bool:
    """Whether groups of that size divide a linear layer's inputs."""
    width = unit.shape[1 - unit.channel_axis]
    return len(unit.shape) == 2 and width % group == 0 and width > group


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


def input_grids(
    sites: Iterable[Site],
    stats: Mapping[str, TensorStats],
    choices: Mapping[str, Choice],
    target: Target,
    rule: RangeRule,
) -> dict[tuple[str, str], QParams]:
    """The grid of every quantised edge, from the statistics of its root."""
    made: dict[tuple[str, int], QParams] = {}
    edges: dict[tuple[str, str], QParams] = {}
    for site in sites:
        bits = CHAIN_BITS if site.unit is None else choices[site.unit].a_bits
        if not bits or site.root not in stats:
            continue
        key = (site.root, bits)
        if key not in made:
            grid = target.input_grid(bits)
            low, high = rule.of_stats(stats[site.root], grid, target.input_symmetric)
            made[key] = exact_range(low, high, grid, target.input_symmetric, site.clamped)
        edges[site.source, site.reader] = made[key]
    return edges


def task_grids(
    graph: ModelGraph,
    menu: Mapping[str, tuple[Choice, ...]],
    sites: Iterable[Site],
    stats: Mapping[str, TensorStats],
    target: Target,
    rule: RangeRule,
) -> dict[tuple[str, Choice], tuple[QParams | None, ...]]:
    """The input grids of every choice of every unit, one a call; None where the input is float."""
    own = [site for site in sites if site.unit is not None]
    places = {(s.unit, s.call): (s.source, s.reader) for s in own}
    by_bits: dict[int, dict[tuple[str, str], QParams]] = {}
    for bits in sorted({c.a_bits for choices in menu.values() for c in choices if c.a_bits}):
        same = {unit.name: Choice(8, bits) for unit in graph.units}
        wanted = [s for s in own if any(c.a_bits == bits for c in menu[str(s.unit)])]
        by_bits[bits] = input_grids(wanted, stats, same, target, rule)
    return {
        (unit.name, choice): tuple(
            by_bits.get(choice.a_bits, {}).get(places.get((unit.name, call), ("", "")))
            for call in range(len(unit.calls))
        )
        for unit in graph.units
        for choice in menu[unit.name]
    }


def sites_in_use(sites: Iterable[Site], menu: Mapping[str, tuple[Choice, ...]]) -> tuple[Site, ...]:
    """The sites that matter: none of float units, and no chain where nothing is quantised."""
    if all(choice.is_float for choices in menu.values() for choice in choices):
        return ()
    quantized = {name for name, choices in menu.items() if not all(c.is_float for c in choices)}
    return tuple(s for s in sites if s.unit is None or s.unit in quantized)


def active_sites(
    sites: Iterable[Site], graph: ModelGraph, choices: Mapping[str, Choice]
) -> tuple[Site, ...]:
    """The sites in use under one configuration."""
    return sites_in_use(sites, {unit.name: (choices[unit.name],) for unit in graph.units})


def problem(
    graph: ModelGraph,
    unit: Unit,
    choice: Choice,
    target: Target,
    inputs: tuple[QParams | None, ...],
    seed: int,
    method: str = "",
) -> UnitProblem:
    """What a method sees of one unit."""
    text = f"{seed}|{unit.name}|{choice}|{method}"
    own_seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return UnitProblem(
        unit=unit,
        name=unit.name,
        kind=unit.kind,
        weight=graph.tensor(unit.weight),
        bias=graph.tensor(unit.bias) if unit.bias else None,
        channel_axis=unit.channel_axis,
        groups=unit.groups,
        choice=choice,
        grid=target.weight_grid(choice.sum_bits),
        symmetric=target.weight_symmetric,
        per_channel=target.weight_per_channel,
        inputs=inputs,
        seed=own_seed,
    )


def assemble(
    graph: ModelGraph,
    solved: Mapping[str, UnitSolution],
    edges: Mapping[tuple[str, str], QParams],
    target: Target,
) -> Assignment:
    """Solutions and grids as one assignment, biases in the target's form."""
    axes = {unit.name: unit.channel_axis for unit in graph.units}
    weights = {
        name: QuantizedTensor(s.q, s.weight, s.channel_bits, axes[name], s.points)
        for name, s in solved.items()
    }
    biases: dict[str, Tensor | IntegerBias] = {}
    for unit in graph.units:
        solution = solved.get(unit.name)
        if solution is None or solution.bias is None:
            continue
        biases[unit.name] = _bias(unit, solution, target)
    return Assignment(weights, biases, dict(edges))


def deployed_bias(unit: Unit, solution: UnitSolution, target: Target) -> Tensor:
    """The bias as the deployed network adds it."""
    bias = _bias(unit, solution, target)
    return bias if isinstance(bias, Tensor) else bias.q.float() * bias.scale


def _bias(unit: Unit, solution: UnitSolution, target: Target) -> Tensor | IntegerBias:
    assert solution.bias is not None
    known = [qp for qp in solution.inputs if qp is not None]
    if len(known) != 1 or len(unit.calls) != 1:
        return solution.bias
    if solution.weight.scale.numel() > solution.bias.numel():  # in groups: no one lattice of sums
        return solution.bias
    scale = (known[0].scale * solution.weight.scale).reshape(-1)
    # One scale for all, or (grouped transposed convolutions) one for each channel of a group.
    scale = scale.repeat(solution.bias.numel() // scale.numel())
    if target.bias_bits != 32:
        spare = 16 - known[0].grid.bits - solution.weight.grid.bits
        return exact_bias(solution.bias, scale, max(0, spare))
    q = quantize_bias(solution.bias, scale)
    # A channel whose weights all but vanish has a scale so small that its bias does not fit.
    return solution.bias if q is None else IntegerBias(q, scale)


def verification_batches(dataset: Dataset, limit: int) -> Iterator[Any]:
    """The inputs of a verification, few at a time: two runtimes hold activations beside us.

    Texts come by turns padded, as they will be in use, and without: many lengths and sizes, one
    among them.
    """
    for index, batch in enumerate(rebatch(take(dataset, limit), VERIFY_BATCH)):
        if index % 2 and dataset.trim:
            alone = Dataset(dataset.spec, partial(iter, (batch,)), trim=True)
            yield from (part.inputs for part in batched(alone, VERIFY_BATCH))
        else:
            yield batch.inputs


def flat_example(graph: ModelGraph, inputs: Any) -> tuple[Tensor, ...]:
    """Two samples as the graph's flat inputs, for export."""
    flat = [t for t in bind(graph, inputs) if isinstance(t, Tensor)]
    return tuple(torch.cat([t, t])[:2] if t.shape[0] < 2 else t[:2] for t in flat)


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
