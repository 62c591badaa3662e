"""A loss of the user's own, of all outputs at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import RecipeError
from bitwright.graph.answers import Answer, Compared, name_parts, samples_of
from bitwright.recipe.names import refuse_unnamed
from bitwright.sources.guard import Foreign
from bitwright.sources.specs import load_object


def find_loss(given: str | Callable[..., Any]) -> Callable[..., Any] | None:
    """The user's function of a recipe's key `loss`, or none where it is empty.

    It takes two dictionaries of outputs by name, the float network's and another network's, and
    returns a tensor of one loss a sample: 0 where both are equal, differentiable in the second.

    Raises:
        RecipeError: it cannot be found, or does not take two arguments.
    """
    if isinstance(given, str):
        if not given:
            return None
        refuse_unnamed("loss", given, "loss=...")
        found: Any = load_object(given)
    else:
        found = given
    try:
        inspect.signature(found).bind(None, None)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"the loss {given!r} must be a function of two arguments, (reference, other): two "
            "dictionaries of outputs by their names. It returns one loss a sample."
        ) from error
    function: Callable[..., Any] = found
    return function


def lose_by(
    own: Callable[..., Any], answer: Answer, reference: Compared, other: Compared
) -> Tensor:
    """The user's loss of every sample, [samples].

    Raises:
        RecipeError: the function fails, or does not give one number a sample.
    """
    with Foreign(RecipeError, "the loss of your own"):
        found = own(name_parts(answer, reference), name_parts(answer, other))
    if not isinstance(found, Tensor) or found.shape != (samples_of(reference),):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise RecipeError(
            f"the loss of your own gave {shape} for {samples_of(reference)} samples. Let it return "
            "a tensor with one number a sample."
        )
    return found.to(torch.float64)
