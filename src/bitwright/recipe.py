"""The run as one frozen, versioned value, read from and written to TOML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from bitwright.errors import RecipeError, unknown
from bitwright.export.opset import check, need_of_choices
from bitwright.graph.choice import Choice, parse_keep, parse_menu, parse_scheme
from bitwright.graph.target import load_target
from bitwright.names import METHODS, MODES, RANGES, RECIPES, SOLVERS, check_metric, check_name
from bitwright.prepare.names import prepare_steps
from bitwright.run.device import parse_device
from bitwright.run.texts import parse_toml, read_text
from bitwright.search.budget import parse_budgets
from bitwright.search.cost import DEGRADATIONS
from bitwright.search.ties import parse_ties
from bitwright.tuning.catalogue import REFINE, check_tuning, tuning_steps

VERSION = 1
BUILT_IN = RECIPES
BY_OUTPUT = "output"
# Samples and pairs that there can be.
_MOST_COUNTED = 10**9
# Methods that solve weights with several grids a channel.
GROUPED = ("nearest", "quadratic")
# TOML, torch and the file formats count in 64 bits.
MOST = 1 << 63
_LONGEST = 200


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a run's result; execution details such as --out are not here.

    Attributes:
        version: of this schema.
        model, weights: MODEL and the file of its weights, where that is separate.
        data, eval: D of the calibration and of the evaluation; "" for no evaluation.
        method: how each unit is solved.
        mode: on the float network's activations (parallel) or on those of the quantised units
            before it (sequential); methods that need no data know no difference.
        scheme: bits of every unit that `keep` does not name.
        keep: PATTERN=SCHEME rules.
        menu: the choices among which each unit's bits are allocated; "" for `scheme` everywhere.
            `scheme` is then the base at which the sensitivity of every unit is measured.
        budget, minimize, solver: what the allocation may spend, what it makes small under a
            budget of the loss, and how it is found.
        lossless: the share of answers that may differ from the float network's on calibration rows
            kept apart; the cheapest configuration of the menu that keeps to it is searched for, in
            `minimize` (BOPs, where that is empty). 0: no such search.
        table_samples: calibration samples on which the table is measured; 0 for all.
        labels: the table's loss is the cross-entropy with the calibration data's labels; without,
            it is the divergence from the float network, and labels are not looked at.
        ties: patterns of units that take the same choice (`a:PATTERN`: the same input bits).
        pairwise: so many pairs of units are measured together, and correct the allocation.
        prepare: rewrites of the float network before anything is observed, in order: `equalize`,
            `equalize-relu`, `absorb-bias`, `factorize`, `ocs`; "" for none.
        tune: steps after the bits are chosen, in order: `bn` and `bn-paper` (batch-norm tuning as
            we and as the paper do it), `bias` (learned), `bias-analytic` and `bias-empirical`
            (the mean shift taken out, as batch-norms or the samples tell it), `refine` (solved
            again in sequence, kept where the samples held out for it find that better); `lapq`
            (all ranges together), `brecq` (rounding learned block by block), `qat-kld`,
            `qat-kld-last` (all weights trained, with and without early stopping) and
            `qat-kld-paper` (the same on the published schedule); "" for none.
        refine_method: how `refine` solves; "" for `method`.
        target: what the runtime can do.
        metric: what --eval measures.
        calib: calibration samples used at most; 0 for all.
        activation_range, weight_range: how ranges are chosen; "output" tries several input ranges
            at the unit's own output (methods with data), the default minimises the tensor's error.
        batch: samples in a forward pass.
        size, mean, std, crop: preprocessing of image folders where the model brings none, or
            instead of it; 0, empty and -1 mean not stated.
        opset: of model.onnx; 0 for the one that its types need.
        dynamic: height and width of images stay free, where the network allows it.
        device: cpu, cuda, cuda:N or mps.
        seed: of everything random.
    """

    version: int = VERSION
    model: str = ""
    weights: str = ""
    data: str = ""
    eval: str = ""
    method: str = "nearest"
    mode: str = "sequential"
    scheme: str = "w8a8"
    keep: str = ""
    menu: str = ""
    budget: str = ""
    minimize: str = ""
    solver: str = "ip"
    lossless: float = 0.0
    table_samples: int = 256
    labels: bool = False
    ties: str = ""
    pairwise: int = 0
    prepare: str = ""
    tune: str = ""
    refine_method: str = ""
    target: str = "paper"
    metric: str = "top1"
    calib: int = 1000
    activation_range: str = "mse"
    weight_range: str = "mse"
    batch: int = 25
    size: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop: float = -1.0
    opset: int = 0
    dynamic: bool = False
    device: str = "cpu"
    seed: int = 0

    def validated(self) -> Recipe:
        """The recipe itself if every value makes sense.

        Raises:
            RecipeError: naming the value and the known ones.
        """
        if self.version != VERSION:
            raise RecipeError(
                f"the recipe has version {self.version}; this bitwright reads {VERSION}. Remove "
                "the key 'version' and check the keys against 'bitwright list recipes'."
            )
        check_name("method", self.method, METHODS, "--method")
        check_name("mode", self.mode, MODES, "--mode")
        choice = parse_scheme(self.scheme)
        keep = parse_keep(self.keep)
        target = load_target(self.target)
        _check_bits(
            choice.w_bits, choice.a_bits, target.weight_bits, target.input_bits, target.name
        )
        for _, kept in keep:
            _check_bits(
                kept.w_bits, kept.a_bits, target.weight_bits, target.input_bits, target.name
            )
        _check_groups((choice, *(kept for _, kept in keep)), (self.method, self.refine_method))
        self._check_allocation()
        self._check_opset()
        prepare_steps(self.prepare)
        check_tuning(self.tune, self.method)
        if self.refine_method and REFINE not in tuning_steps(self.tune):
            raise RecipeError(
                f"refine_method is {self.refine_method!r}, but tune = {self.tune!r} does not "
                "refine. Add the step 'refine' to tune, or leave refine_method out."
            )
        if self.refine_method:
            check_name("method", self.refine_method, METHODS, "refine_method")
        again = self.refine_method in ("", self.method)
        if again and REFINE in tuning_steps(self.tune) and self.mode == "sequential":
            raise RecipeError(
                "tune has the step 'refine', which solves in sequence what --mode sequential has "
                f"already solved so by {self.method}. Leave 'refine' out, use --mode parallel, or "
                "name another refine_method."
            )
        check_metric(self.metric)
        check_name("range rule", tensor_rule(self), RANGES, "--activation-range")
        check_name("range rule", self.weight_range, RANGES, "--weight-range")
        if self.calib < 0 or self.batch < 1 or self.table_samples < 0:
            raise RecipeError(
                f"calib is {self.calib}, table_samples {self.table_samples}, batch {self.batch}: "
                "samples are counted from 1 (0 takes all; a batch has at least one)."
            )
        parse_device(self.device)
        if not 0 <= self.seed < MOST:
            raise RecipeError(f"seed is {self.seed}: it is a whole number from 0 to 2^63 - 1.")
        self._check_sizes()
        return self

    def _check_sizes(self) -> None:
        """Whether numbers are of a size that anything can have."""
        for key in ("calib", "table_samples", "batch", "pairwise"):
            if getattr(self, key) > _MOST_COUNTED:
                raise RecipeError(
                    f"{key} is {getattr(self, key)}: that many there are not. Give at most "
                    f"{_MOST_COUNTED} (0 takes all samples)."
                )

    def _check_allocation(self) -> None:
        """Whether menu and budget make sense together."""
        target = load_target(self.target)
        for choice in parse_menu(self.menu) if self.menu else ():
            if choice.group:
                raise RecipeError(
                    f"--menu holds {choice}: a menu has no groups. Give them by --scheme or --keep."
                )
            _check_bits(
                choice.w_bits, choice.a_bits, target.weight_bits, target.input_bits, target.name
            )
        check_name("solver", self.solver, SOLVERS, "--solver")
        parse_budgets(self.budget)
        parse_ties(self.ties)
        self._check_search_options()
        if self.lossless:
            self._check_lossless()
        elif bool(self.menu) != bool(self.budget):
            given, lacking = ("menu", "budget") if self.menu else ("budget", "menu")
            example = "'size<=0.13'" if self.menu else "'w8a8,w4a4'"
            raise RecipeError(
                f"--{given} {getattr(self, given)!r} is given without --{lacking}: bits are "
                f"allocated from a menu under a budget. Add --{lacking} {example}."
            )

    def _check_opset(self) -> None:
        """Whether every choice that may be deployed can be stored in a file of the opset."""
        choices = parse_menu(self.menu) if self.menu else (parse_scheme(self.scheme),)
        choices += tuple(choice for _, choice in parse_keep(self.keep))
        if not load_target(self.target).inputs:
            choices = tuple(replace(choice, a_bits=0) for choice in choices)
        check(self.opset, need_of_choices(choices))

    def _check_lossless(self) -> None:
        if not 0.0 < self.lossless < 1.0:
            raise RecipeError(
                f"lossless is {self.lossless:g}: it is the share of answers that may differ from "
                "the float network's, such as 0.001."
            )
        if self.budget or not self.menu:
            problem = f"with --budget {self.budget!r}" if self.budget else "without --menu"
            raise RecipeError(
                f"--lossless {self.lossless:g} is given {problem}: it looks for the least cost "
                "among the choices of a menu. Give --menu, such as 'w4a8x{1..3}', and no --budget."
            )
        if self.minimize in DEGRADATIONS:
            raise RecipeError(
                f"--lossless with --minimize {self.minimize}: name a cost, such as bops or size."
            )

    def _check_search_options(self) -> None:
        """What shapes the search for bits makes no sense without one."""
        if self.pairwise < 0:
            raise RecipeError(f"pairwise is {self.pairwise}: pairs are counted from 0.")
        if self.menu:
            return
        for key in ("labels", "ties", "pairwise"):
            if getattr(self, key):
                raise RecipeError(
                    f"{key} is {getattr(self, key)!r}, but without --menu and --budget no bits are "
                    "searched for. Leave it out, or add --menu 'w8a8,w4a4' --budget 'size<=0.13'."
                )


def _check_groups(choices: Iterable[Choice], methods: Iterable[str]) -> None:
    """Whether every method that is used solves weights with several grids a channel."""
    grouped = [choice for choice in choices if choice.group]
    for name in methods:
        if grouped and name and name not in GROUPED:
            raise RecipeError(
                f"method {name!r} solves no groups, and the scheme is {grouped[0]}. Use "
                f"--method {' or '.join(GROUPED)}, or leave the g out."
            )


def tensor_rule(recipe: Recipe) -> str:
    """The rule for edges that no method chooses: `output` leaves those to mse."""
    return "mse" if recipe.activation_range == BY_OUTPUT else recipe.activation_range


def _check_bits(
    w_bits: int, a_bits: int, weights: tuple[int, ...], inputs: tuple[int, ...], target: str
) -> None:
    for what, bits, allowed in (("weights", w_bits, weights), ("inputs", a_bits, inputs)):
        if bits and bits not in allowed:
            raise RecipeError(
                f"target {target!r} holds no {what} of {bits} bits. It holds "
                f"{', '.join(map(str, allowed))}."
            )


_NAMES = {f.name: f for f in fields(Recipe)}


def update(recipe: Recipe, values: Mapping[str, Any], place: str) -> Recipe:
    """The recipe with some keys set.

    Raises:
        RecipeError: unknown key (with the nearest known one) or a value of the wrong type.
    """
    clean = {}
    for key, value in values.items():
        if key not in _NAMES:
            raise RecipeError(unknown("recipe key", key, _NAMES, place))
        clean[key] = _typed(key, value, place)
    return replace(recipe, **clean)


def _typed(key: str, value: Any, place: str) -> Any:
    default = getattr(Recipe(), key)
    if isinstance(default, tuple):
        if isinstance(value, (list, tuple)) and all(map(_is_number, value)):
            return tuple(float(v) for v in value)
    elif isinstance(default, float):
        if _is_number(value):
            return float(value)
    elif isinstance(default, int) and not isinstance(default, bool):
        if isinstance(value, int) and not isinstance(value, bool) and -MOST <= value < MOST:
            return value
    elif isinstance(value, type(default)):
        return value
    raise RecipeError(
        f"{place}: {key!r} has the value {_brief(value)}; it must be {_wanted(default)}."
    )


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -MOST <= value < MOST if isinstance(value, int) else math.isfinite(value)


def _wanted(default: Any) -> str:
    kinds = {
        bool: "true or false",
        int: "a whole number below 2^63",
        float: "a finite number",
        tuple: "a list of finite numbers",
    }
    return kinds.get(type(default), "a text")


def _brief(value: Any) -> str:
    """The value as it stands in a message: its start, where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep; an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def about(name: str) -> str:
    """What the first line of a built-in recipe says of it."""
    text = (resources.files("bitwright") / "recipes" / f"{name}.toml").read_text()
    return text.splitlines()[0].removeprefix("# ")


def load_recipe(name: str) -> dict[str, Any]:
    """The keys that a built-in recipe or a TOML file sets.

    Raises:
        RecipeError: unknown name, missing file, or not TOML.
    """
    if name in BUILT_IN:
        text = (resources.files("bitwright") / "recipes" / f"{name}.toml").read_text()
    else:
        path = Path(name)
        if path.suffix != ".toml":
            raise RecipeError(
                unknown("recipe", name, BUILT_IN, "--recipe") + " Or give a TOML file."
            )
        if not path.exists():
            raise RecipeError(f"recipe file {name!r} does not exist. Check the path.")
        text = read_text(path, RecipeError, "Give a recipe as 'bitwright quantize' writes it.")
    return parse_toml(text, f"recipe {name!r}", RecipeError)


def make_recipe(name: str, overrides: Mapping[str, Any]) -> Recipe:
    """A recipe from defaults, then a named recipe or file, then the options of the command."""
    recipe = update(Recipe(), load_recipe(name), f"recipe {name}")
    if overrides.get("scheme") and not any(map(overrides.get, ("menu", "budget", "lossless"))):
        # Whoever asks for one scheme asks for no allocation.
        recipe = replace(recipe, menu="", budget="")
    return update(recipe, overrides, "the options").validated()


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML with every default resolved; reading it gives the same recipe.

    >>> update(Recipe(), tomllib.loads(to_toml(Recipe(seed=3))), "here") == Recipe(seed=3)
    True
    """
    lines = ["# A bitwright run. 'bitwright quantize --recipe THIS' repeats it, bit for bit."]
    for key, value in asdict(recipe).items():
        shown = list(value) if isinstance(value, tuple) else value
        lines.append(f"{key} = {json.dumps(shown, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
