"""The network as it is worked on: in eval mode, float32 numbers in the processor's memory.

Networks are often stored in half precision, lie on another device or come from training.
Statistics, solving and the check against ONNX Runtime all want float32 on the CPU, and answers that
do not depend on the other samples of a batch; so such a network is copied and converted, and the
user's own stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from bitwright.engine.note import Note
from bitwright.errors import ModelError

_SHORT = (torch.float16, torch.bfloat16)


def make_working_copy(model: nn.Module) -> tuple[nn.Module, tuple[Note, ...]]:
    """The network in eval mode and float32 on the CPU, and what the user should know of it.

    It is the network itself where that is so already, else a converted copy. What a graph captured
    before says of number types is converted as well; what a forward() says is not.
    """
    _check_names(model)
    model, modes = _in_eval_mode(model)
    held = [*model.parameters(), *model.buffers()]
    foreign = {t.device.type for t in held} - {"cpu", "meta"}
    other = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if not foreign and not other:
        return model, modes
    try:
        copied = copy.deepcopy(model).to("cpu")
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"the network {type(model).__name__} holds {_names(other)} numbers"
            f"{''.join(f' on {d!r}' for d in sorted(foreign))} and cannot be copied "
            f"({type(error).__name__}: {error}). Call .float().cpu() on it first."
        ) from error
    if not other:
        return copied, modes
    copied = copied.float()
    if isinstance(copied, fx.GraphModule):
        _into_single(copied, frozenset((*other, *_SHORT)))
    note = Note(
        type(model).__name__,
        f"the network holds {_names(other)} numbers and was converted to float32, which is what "
        "it is compared with, in answers and in size.",
    )
    return copied, (*modes, note)


def _check_names(model: nn.Module) -> None:
    """Refuse names of modules that no graph can carry: names become code, files and lines."""
    for name, _ in model.named_modules():
        if not name.isprintable():
            raise ModelError(
                f"the network {type(model).__name__} has a module called {name!r}: a line break or "
                "control character in a name cannot be kept in files. Rename this module."
            )


def _in_eval_mode(model: nn.Module) -> tuple[nn.Module, tuple[Note, ...]]:
    """The network if it is in eval mode, else a copy that is and holds the same tensors."""
    training = [name for name, module in model.named_modules() if module.training]
    if not training or _is_exported(model):
        return model, ()
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    try:
        copied = copy.deepcopy(model, shared).eval()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"the network {type(model).__name__} is in training mode and cannot be copied "
            f"({type(error).__name__}: {error}). Call .eval() on it first."
        ) from error
    parts = f", in {', '.join(training[:3])}{' ...' if training[3:] else ''}" if training[0] else ""
    note = Note(
        type(model).__name__,
        f"the network is in training mode{parts}: a copy of it in eval mode was taken, in which "
        "batch-norms use what they remember of training and dropout does nothing. Call .eval() on "
        "the network to say that this is what you mean.",
    )
    return copied, (note,)


def _is_exported(model: nn.Module) -> bool:
    """Whether the mode is written into a graph of ATen operators, as torch.export does."""
    return isinstance(model, fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in model.graph.nodes
    )


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
