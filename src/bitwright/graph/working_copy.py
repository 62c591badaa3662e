"""The network as it is worked on: float32 numbers in the processor's memory.

Networks are often stored in half precision or lie on another device. Statistics, solving and the
check against ONNX Runtime all want float32 on the CPU, so such a network is copied and converted;
the user's own stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from bitwright.errors import ModelError
from bitwright.graph.model_graph import Note

_SHORT = (torch.float16, torch.bfloat16)


def working_copy(model: nn.Module) -> tuple[nn.Module, tuple[Note, ...]]:
    """The network in float32 on the CPU, and what the user should know of the conversion.

    It is the network itself where that is so already, else a converted copy. What a graph captured
    before says of number types is converted as well; what a forward() says is not.
    """
    held = [*model.parameters(), *model.buffers()]
    foreign = {t.device.type for t in held} - {"cpu", "meta"}
    other = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if not foreign and not other:
        return model, ()
    try:
        copied = copy.deepcopy(model).to("cpu")
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"the network {type(model).__name__} holds {_names(other)} numbers"
            f"{''.join(f' on {d!r}' for d in sorted(foreign))} and cannot be copied "
            f"({type(error).__name__}: {error}). Call .float().cpu() on it first."
        ) from error
    if not other:
        return copied, ()
    copied = copied.float()
    if isinstance(copied, fx.GraphModule):
        _into_single(copied, frozenset((*other, *_SHORT)))
    note = Note(
        type(model).__name__,
        f"the network holds {_names(other)} numbers and was converted to float32, which is what "
        "it is compared with, in answers and in size.",
    )
    return copied, (note,)


def _names(kinds: Iterable[torch.dtype]) -> str:
    return ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds)) or "float32"


def _into_single(module: fx.GraphModule, left: frozenset[torch.dtype]) -> None:
    """Write float32 wherever a graph converts to, makes or expects one of the types in `left`."""

    def single(value: Any) -> Any:
        return torch.float32 if isinstance(value, torch.dtype) and value in left else value

    for node in module.graph.nodes:
        node.args = tuple(fx.node.map_aggregate(a, single) for a in node.args)
        node.kwargs = {k: fx.node.map_aggregate(v, single) for k, v in node.kwargs.items()}
    module.recompile()
