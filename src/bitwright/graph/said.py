"""What a user says that the outputs mean: `boxes=box, scores=scores:1, depth=regression*2`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.errors import RecipeError, unknown

KINDS = (
    "scores", "probabilities", "labels", "boxes", "mask", "image", "regression", "embedding",
    "tokens", "heatmaps", "none",
)  # fmt: skip
# Other words for the same.
ALIASES: Mapping[str, str] = {
    "box": "boxes", "score": "scores", "logits": "scores", "classes": "scores",
    "probability": "probabilities", "softmax": "probabilities", "multilabel": "labels",
    "sigmoid": "labels", "masks": "mask", "images": "image", "number": "regression",
    "numbers": "regression", "depth": "regression", "vector": "embedding", "token": "tokens",
    "text": "tokens", "heatmap": "heatmaps", "keypoints": "heatmaps", "ignore": "none",
}  # fmt: skip
FORMS = ("xyxy", "cxcywh", "offsets", "logit", "probability")
_ITEM = re.compile(
    r"^(?P<name>[^=]+?)\s*=\s*(?P<kind>\w+)(?::(?P<how>[\w-]+))?(?:\s*\*\s*(?P<weight>\S+))?$"
)
_PLACE, _EXAMPLE = "--answer", "'boxes=box, scores=scores:1, depth=regression*2'"


@dataclass(frozen=True)
class Said:
    """What a user says of one output.

    Attributes:
        name: the output's, as `bitwright doctor` lists it.
        kind: of KINDS.
        axis: of its classes or channels, where that was said.
        form: how its numbers are written, of FORMS, where that was said.
        weight: of its loss.
    """

    name: str
    kind: str
    axis: int | None = None
    form: str = ""
    weight: float = 1.0


def parse_answer(text: str) -> tuple[Said, ...]:
    """What is said of each output.

    >>> parse_answer("boxes=box:cxcywh, scores=scores:1*2")[1].weight
    2.0

    Raises:
        RecipeError: a part that is not NAME=KIND, or an unknown kind.
    """
    found: list[Said] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = _ITEM.match(part)
        if match is None:
            raise RecipeError(
                f"{_PLACE}: {part!r} is not understood. Write NAME=KIND, NAME=KIND:AXIS or "
                f"NAME=KIND*WEIGHT, such as {_EXAMPLE}."
            )
        if match["name"] in [said.name for said in found]:
            raise RecipeError(f"{_PLACE} names {match['name']!r} twice. Leave one of them out.")
        found.append(_read(match))
    return tuple(found)


def _read(match: re.Match[str]) -> Said:
    kind = ALIASES.get(match["kind"], match["kind"])
    if kind not in KINDS:
        raise RecipeError(unknown("kind of output", match["kind"], KINDS, _PLACE))
    how, axis, form = match["how"] or "", None, ""
    if re.fullmatch(r"-?\d{1,2}", how):
        axis = int(how)
    elif how in FORMS:
        form = how
    elif how:
        raise RecipeError(
            f"{_PLACE}: {how!r} behind {match['kind']!r} is neither an axis (1, -1) nor one of "
            f"{', '.join(FORMS)}. Correct it, or leave it out."
        )
    return Said(match["name"], kind, axis, form, _read_weight(match))


def _read_weight(match: re.Match[str]) -> float:
    if match["weight"] is None:
        return 1.0
    try:
        weight = float(match["weight"])
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise RecipeError(
            f"{_PLACE}: the weight {match['weight']!r} of {match['name']!r} is no positive number. "
            f"Write it as in {_EXAMPLE}; an output of no weight is NAME=none."
        )
    return weight


def write_answer(given: str | Mapping[str, str]) -> str:
    """What is said of the outputs, as text.

    >>> write_answer({"boxes": "box", "scores": "scores:1"})
    'boxes=box, scores=scores:1'
    """
    if isinstance(given, str):
        return given
    if not isinstance(given, Mapping):
        raise RecipeError(
            f"answer is of type {type(given).__name__}: give a text such as {_EXAMPLE}, or a "
            "mapping of outputs to kinds. A loss of your own is loss=."
        )
    return ", ".join(f"{name}={kind}" for name, kind in given.items())
