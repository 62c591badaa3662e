"""What a caller in Python hands over in place of names, and the words that a recipe has for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bitwright.errors import RecipeError
from bitwright.evaluation.metrics import metric_word
from bitwright.graph.choice import write_choices
from bitwright.graph.said import write_answer
from bitwright.graph.target import BUILT_IN, Target, load_target
from bitwright.methods.catalogue import METHODS
from bitwright.methods.problem import Method
from bitwright.numerics.ranges import RANGES, RangeRule
from bitwright.recipe.names import UNNAMED, is_unnamed, refuse_unnamed
from bitwright.tuning.steps import TuningStep

_WRITTEN = {"scheme", "menu", "keep", "budget", "prepare", "ties"}
_METHOD = ("name", "needs", "configured", "solve")
_RULE = ("of_stats", "of_rows")
_STEP = ("name", "apply")


@dataclass(frozen=True, eq=False)
class Objects:
    """Things of the caller's; None where the recipe names one."""

    method: Method | None = None
    refine_method: Method | None = None
    target: Target | None = None
    activation_range: RangeRule | None = None
    weight_range: RangeRule | None = None
    metric: Any = None
    loss: Any = None
    tune: tuple[TuningStep, ...] = ()

    def steps(self, words: Iterable[str]) -> tuple[str | TuningStep, ...]:
        """The tuning steps of a recipe, each object at its word.

        Raises:
            RecipeError: a word that says that it was an object, and no such object.
        """
        own = {_word(step): step for step in self.tune}
        found: list[str | TuningStep] = []
        for word in words:
            if is_unnamed(word) and word not in own:
                refuse_unnamed("tuning step", word, "tune=[...]")
            found.append(own.get(word, word))
        return tuple(found)


NO_OBJECTS = Objects()


def as_words(options: Mapping[str, Any]) -> tuple[dict[str, object], Objects]:
    """Options from Python as a recipe writes them, and the objects among them.

    Lists, mappings and choices become text. What is equal to something built in has its name.

    Raises:
        RecipeError: an object that is not of the kind that the option takes.
    """
    found, objects = dict(options), dict[str, Any]()
    for key in found.keys() & _WRITTEN:
        found[key] = write_choices(key, found[key])
    if "metric" in found:
        objects["metric"] = None if isinstance(found["metric"], str) else found["metric"]
        found["metric"] = metric_word(found["metric"])
    if "answer" in found:
        found["answer"] = write_answer(found["answer"])
    if "loss" in found and not isinstance(found["loss"], str):
        objects["loss"] = found["loss"]
        found["loss"] = metric_word(found["loss"])
    for key, kind in _KINDS.items():
        if key in found and not isinstance(found[key], str):
            thing = found[key]
            _check(key, thing, kind)
            found[key] = _name_built_in(thing) or _word(thing)
            objects[key] = thing if is_unnamed(found[key]) else None
    if "tune" in found and not isinstance(found["tune"], str):
        steps = _list_steps(found["tune"])
        found["tune"] = ",".join(s if isinstance(s, str) else _word(s) for s in steps)
        objects["tune"] = tuple(s for s in steps if not isinstance(s, str))
    return found, Objects(**objects)


_KINDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "method": ("a method", _METHOD),
    "refine_method": ("a method", _METHOD),
    "activation_range": ("a range rule", _RULE),
    "weight_range": ("a range rule", _RULE),
    "target": ("a Target", ()),
}


def _check(key: str, thing: Any, kind: tuple[str, tuple[str, ...]]) -> None:
    what, parts = kind
    lacking = [part for part in parts if not hasattr(thing, part)]
    wrong = not isinstance(thing, Target) if key == "target" else isinstance(thing, type)
    if wrong or lacking:
        lacks = f" It lacks {', '.join(lacking)}." if lacking else ""
        raise RecipeError(
            f"{key} is of type {type(thing).__name__}: give a name, or {what}.{lacks} See "
            "docs/extending.md."
        )
    # It is part of the store's keys, and one that can change would make them stale.
    made_as = getattr(type(thing), "__dataclass_params__", None)
    if made_as is None or not made_as.frozen:
        raise RecipeError(
            f"{key} is a {type(thing).__name__}, which can change: make its class a dataclass with "
            "frozen=True, so that what was solved by it can be told from what was not."
        )


def _list_steps(given: Any) -> tuple[Any, ...]:
    """The tuning steps of a list, or one alone."""
    steps = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for step in steps:
        lacking = [part for part in _STEP if not hasattr(step, part)]
        if not isinstance(step, str) and (lacking or isinstance(step, type)):
            raise RecipeError(
                f"tune holds {step!r}, of type {type(step).__name__}. Give names and objects with "
                "`name` and `apply(configuration, samples)`. See docs/extending.md."
            )
    words = [_word(step) for step in steps if not isinstance(step, str)]
    twice = next((word for word in words if words.count(word) > 1), None)
    if twice is not None:
        raise RecipeError(f"tune holds {twice!r} twice. Give each step a name of its own.")
    return steps


def _name_built_in(thing: Any) -> str | None:
    """The name of something that is built in."""
    if isinstance(thing, Target):
        same = thing.name in BUILT_IN and load_target(thing.name) == thing
        return thing.name if same else None
    built_in: Mapping[str, Any] = {**METHODS, **RANGES}
    return next((name for name, own in built_in.items() if own == thing), None)


def _word(thing: Any) -> str:
    """What a recipe writes for an object: its name, and that it was one."""
    name = str(getattr(thing, "name", "") or type(thing).__name__)
    return name.replace(",", " ") + UNNAMED
