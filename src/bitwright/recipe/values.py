"""The run as one frozen, versioned value, read from and written to TOML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from bitwright.engine.texts import parse_toml, read_text
from bitwright.errors import RecipeError, unknown
from bitwright.recipe.names import AUTO, RECIPES

VERSION = 1
# The keys that `time` decides.
SETTLED_BY_TIME = (
    "calib", "table_samples", "table", "method", "mode", "tune", "refine_method", "time",
)  # fmt: skip
BUILT_IN = RECIPES
BY_OUTPUT = "output"
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
        allocation: the bits of every unit as JSON, {"UNIT": "w4a8", ...}, in place of `scheme`; a
            file of such or of `bitwright allocate` may be named, and is read. `keep` overrules it.
        menu: the choices among which each unit's bits are allocated; "" for `scheme` everywhere.
            `scheme` is then the base at which the sensitivity of every unit is measured.
        budget, minimize, solver: what the allocation may spend, what it makes small under a
            budget of the loss, and how it is found.
        latencies: tables of latencies that were measured elsewhere, `DEVICE=FILE.csv, ...`: each is
            the measure `latency[DEVICE]`; a file without a name stands for `latency`.
        lossless: the share of answers that may differ from the float network's on calibration rows
            kept apart; the cheapest configuration of the menu that keeps to it is searched for, in
            `minimize` (BOPs, where that is empty). 0: no such search.
        table: whether every choice of every unit is measured, or (`quick`) one of each and the rest
            estimated from gradients and the errors of the solutions; for large menus.
        promise: what is to be certain of the file, such as `agreement>=99%` or `drop<=0.5%`: the
            cheapest configuration whose file keeps it, by samples kept apart; "" for none.
        table_samples: calibration samples on which the table is measured; 0 for all.
        labels: the table's loss is the cross-entropy with the calibration data's labels; without,
            it is the divergence from the float network, and labels are not looked at.
        ties: patterns of units that take the same choice (`a:PATTERN`: the same input bits).
            Those of queries, keys and values of one attention do, unless `apart` stands here.
        pairwise: how many pairs of units are measured together; they correct the allocation.
        prepare: rewrites of the float network before anything is observed, in order: `equalize`,
            `equalize-relu`, `absorb-bias`, `factorize`, `ocs`; those that look at the calibration
            data come last: `balance`, `equalize-learned`, `smooth`; "" for none.
        tune: steps after the bits are chosen, in order: `bn` and `bn-paper` (batch-norm tuning,
            ours and that of Hubara et al. 2020), `bias` (learned), `scales` (those of weights and
            activations learned with the biases), `bias-analytic` and `bias-empirical`
            (the mean shift taken out, as batch-norms or the samples tell it), `refine` (solved
            again in sequence, kept where the samples held out for it find that better); `lapq`
            (all ranges together), `brecq` (rounding learned block by block), `qat-kld`,
            `qat-kld-last` (all weights trained, with and without early stopping) and
            `qat-kld-paper` (the same on the published schedule); "" for none.
        refine_method: how `refine` solves; "" for `method`.
        target: what the runtime can do; `auto` lets the network decide.
        metric: what --eval measures.
        answer: what each output means, `NAME=KIND, ...`; overrules what is found
            (docs/outputs.md).
        loss: a loss of the user's own for table and tuning, `FILE.py:FUNCTION`; "" for the one
            that fits the outputs.
        calib: calibration samples used at most; 0 for all.
        activation_range, weight_range: how ranges are chosen; "output" tries several input ranges
            at the unit's own output (methods with data), the default minimises the tensor's error.
        batch: samples in a forward pass.
        size, mean, std, crop: preprocessing of image folders where the model brings none, or
            instead of it; 0, empty and -1 mean not stated.
        onnx: an export of the network by the user, into which the solution is written.
        opset: of model.onnx; 0 for the one that its types need.
        dynamic: height and width of images stay free, where the network allows it.
        portable: the same sums on processors that add pairs of products in 16 bits (x86 without
            VNNI): weights of 8 bits give way where two neighbours could exceed them.
        time: how long the run may take, such as `2min`: of what fits, what earns most is done
            (fewer samples, a quick table, no gradients, nearest rounding). Settled once the network
            is captured: the recipe that a run writes says what was chosen, and no time.
        device: cpu, cuda, cuda:N or mps.
        seed: of everything random.
    """

    version: int = VERSION
    model: str = ""
    weights: str = ""
    data: str = ""
    eval: str = ""
    method: str = "quadratic"
    mode: str = "sequential"
    scheme: str = "w8a8"
    keep: str = ""
    allocation: str = ""
    menu: str = ""
    budget: str = ""
    minimize: str = ""
    solver: str = "ip"
    latencies: str = ""
    lossless: float = 0.0
    table: str = "measured"
    promise: str = ""
    table_samples: int = 256
    labels: bool = False
    ties: str = ""
    pairwise: int = 0
    prepare: str = ""
    tune: str = ""
    refine_method: str = ""
    target: str = AUTO
    metric: str = "top1"
    answer: str = ""
    loss: str = ""
    calib: int = 1000
    activation_range: str = "mse"
    weight_range: str = "mse"
    batch: int = 25
    size: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop: float = -1.0
    onnx: str = ""
    opset: int = 0
    dynamic: bool = False
    portable: bool = False
    time: str = ""
    device: str = "cpu"
    seed: int = 0


def tensor_rule(recipe: Recipe) -> str:
    """The rule for edges that no method chooses: `output` leaves those to mse."""
    return "mse" if recipe.activation_range == BY_OUTPUT else recipe.activation_range


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
        clean[key] = _check_type(key, value, place)
    return replace(recipe, **clean)


def _check_type(key: str, value: Any, place: str) -> Any:
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
        f"{place}: {key!r} has the value {_brief(value)}; it must be {_word_wanted(default)}."
    )


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -MOST <= value < MOST if isinstance(value, int) else math.isfinite(value)


def _word_wanted(default: Any) -> str:
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
    text = (resources.files("bitwright") / "recipe" / f"{name}.toml").read_text()
    return text.splitlines()[0].removeprefix("# ")


def load_recipe(name: str) -> dict[str, Any]:
    """The keys that a built-in recipe or a TOML file sets.

    Raises:
        RecipeError: unknown name, missing file, or not TOML.
    """
    if name in BUILT_IN:
        text = (resources.files("bitwright") / "recipe" / f"{name}.toml").read_text()
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


def give_bits(recipe: Recipe, allocation: str) -> Recipe:
    """The recipe with bits that were given: what searches for bits is left out."""
    return replace(
        recipe, allocation=allocation, keep="", menu="", budget="", minimize="", latencies="",
        table="measured",
        lossless=0.0, promise="", labels=False, ties="", pairwise=0,
    )  # fmt: skip


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML with every default resolved; reading it gives the same recipe.

    >>> import tomllib
    >>> update(Recipe(), tomllib.loads(to_toml(Recipe(seed=3))), "here") == Recipe(seed=3)
    True
    """
    lines = ["# A bitwright run. 'bitwright quantize --recipe THIS' repeats it, bit for bit."]
    for key, value in asdict(recipe).items():
        shown = list(value) if isinstance(value, tuple) else value
        lines.append(f"{key} = {json.dumps(shown, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
