"""What can be named: methods, steps, recipes, targets, metrics; what each asks for and costs."""

from __future__ import annotations

from bitwright.errors import RecipeError, unknown
from bitwright.evaluation.metrics import METRICS, metric
from bitwright.graph.target import BUILT_IN, load_target
from bitwright.methods.catalogue import METHODS, method
from bitwright.methods.problem import Method
from bitwright.pipeline.check import make_recipe
from bitwright.prepare import names as rewrites
from bitwright.prepare.distil import Distillation
from bitwright.recipe import values as recipes
from bitwright.recipe.names import AUTO
from bitwright.recipe.registered import find_registered, load_registered
from bitwright.tuning.catalogue import ABOUT, REFINE, find_tuning_steps

ListedRows = list[dict[str, str]]
# What `--data none` is to the lists: data are made instead of given.
NO_DATA = "none"


def catalogue(what: str) -> ListedRows:
    """Rows of what can be named.

    Raises:
        RecipeError: nothing of that name is listed.
    """
    lists = {"methods": methods, "recipes": list_built_in, "targets": targets, "metrics": metrics}
    if what not in lists:
        raise RecipeError(unknown("list", what, lists))
    return lists[what]()


def methods() -> ListedRows:
    """Everything that can make a network quantised or put it right: by which key it is named."""
    return [
        *(
            _row(name, "method", (m.needs.data, m.needs.labels, m.needs.backward), m.needs.paper)
            | {"cost": m.needs.cost}
            for name, m in {**METHODS, **_list_registered("method")}.items()
        ),
        *(
            _row(name, "prepare", (name in rewrites.WITH_DATA, False, False), about.paper)
            | {"cost": f"{rewrites.COST}; {about.text}"}
            for name, about in rewrites.ABOUT.items()
        ),
        _row(NO_DATA, "data", (False, False, True), "arXiv 2001.00281")
        | {"cost": _word_distilling()},
        *(
            _row(name, "tune", (about.data, False, about.backward), about.paper)
            | {"cost": about.cost}
            for name, about in ABOUT.items()
        ),
    ]


def list_built_in() -> ListedRows:
    """The built-in recipes: what they ask for, and the keys that they set."""
    return [_recipe(name) for name in recipes.BUILT_IN]


def _recipe(name: str) -> dict[str, str]:
    made = make_recipe(name, {})
    own = [method(made.method)]
    steps = find_tuning_steps(made.tune)
    if REFINE in steps and made.refine_method:
        own.append(method(made.refine_method))
    distilled = made.data == NO_DATA
    backward = any(m.needs.backward for m in own) or any(ABOUT[s].backward for s in steps)
    # Ranges of inputs come from data as well, whatever the method.
    needs = (not distilled, made.labels, backward or distilled)
    row = _row(name, "recipe", needs, recipes.about(name))
    costs = [
        *([_word_distilling()] if distilled else []),
        *(rewrites.COST for _ in rewrites.prepare_steps(made.prepare)),
        *(m.needs.cost for m in own),
        *(ABOUT[s].cost for s in steps),
    ]
    row["cost"] = "; ".join(dict.fromkeys(costs))
    row["sets"] = ", ".join(f"{key} = {value}" for key, value in recipes.load_recipe(name).items())
    return row


def _word_distilling() -> str:
    """What it costs to make data that match the statistics of batch-norms."""
    made = Distillation()
    return f"{made.iterations} batches of {made.batch} samples through the float network"


def targets() -> ListedRows:
    """The built-in targets."""
    names = (*BUILT_IN, *find_registered("target"))
    open_ = {"name": AUTO, "description": "ort-cpu or ort-linear, as the network suggests"}
    return [open_, *({"name": n, "description": load_target(n).description} for n in names)]


def metrics() -> ListedRows:
    """The metrics of --eval."""
    own = [metric(name) for name in find_registered("metric")]
    return [{"name": m.name, "description": m.text} for m in (*METRICS.values(), *own)]


def _list_registered(kind: str) -> dict[str, Method]:
    """What other distributions register."""
    return {name: load_registered(kind, name) for name in find_registered(kind)}


def _row(name: str, key: str, needs: tuple[bool, bool, bool], paper: str) -> dict[str, str]:
    words = ["yes" if needed else "no" for needed in needs]
    return {
        "name": name,
        "key": key,
        **dict(zip(("data", "labels", "backward"), words, strict=True)),
        "paper": paper,
    }
