"""The captured network as a value: a flat ATen graph, its units, and what was rewritten."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitwright.engine.note import Note
from bitwright.graph.answers import FIRST, Answer
from bitwright.graph.interface import Interface
from bitwright.numerics.affine import QParams


@dataclass(frozen=True)
class InputSpec:
    """One tensor that the network takes; a dimension that may vary is None.

    ``rows``: its entries index a table of so many rows, such as the tokens of an embedding.
    ``called``: what the file that the network comes from calls it, where there is one.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype
    rows: int | None = None
    called: str = ""

    @property
    def label(self) -> str:
        """What people and files call it."""
        return self.called or self.name

    def __str__(self) -> str:
        """Render as the user would write it, e.g. ``x: float32 [N, 3, 32, 32]``."""
        free = iter("NLMK")
        dims = ", ".join(next(free, "?") if d is None else str(d) for d in self.shape)
        return f"{self.label}: {str(self.dtype).removeprefix('torch.')} [{dims}]"


@dataclass(frozen=True)
class Unit:
    """One weighted operation, by its module path; several calls when its weight is shared.

    ``calls`` are the graph nodes that compute it, ``outputs`` the node after the fused activation
    of each call (the call itself where none follows). ``channel_axis`` is the weight's output axis,
    ``groups`` the convolution's groups, ``macs`` the multiply-accumulates of one sample.
    ``look_ups`` says how many of the calls, the last ones, only look rows of the weight up.
    """

    name: str
    kind: str
    calls: tuple[str, ...]
    outputs: tuple[str, ...]
    weight: str
    bias: str | None
    channel_axis: int
    groups: int
    activation: str | None
    shape: tuple[int, ...]
    macs: int
    positions: int
    look_ups: int = 0

    @property
    def products(self) -> tuple[str, ...]:
        """The calls that multiply by the weight."""
        return self.calls[: len(self.calls) - self.look_ups]

    @property
    def tied(self) -> bool:
        """Whether one weight is a table of embeddings and a layer: each counts for what it is."""
        return 0 < self.look_ups < len(self.calls)

    @property
    def params(self) -> int:
        """How many numbers the weight holds."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def weight_only(self) -> bool:
        """Whether the unit's input is an index, not a tensor that could be quantised."""
        return self.kind == "embedding"


@dataclass(frozen=True)
class FoldedBatchNorm:
    """What a folded batch-norm was: its input statistics and its affine map, for later tuning."""

    name: str
    gamma: Tensor
    beta: Tensor
    mean: Tensor
    var: Tensor
    eps: float


@dataclass(frozen=True)
class ModelGraph:
    """Immutable view of a captured network.

    ``module`` is an fx.GraphModule over ATen operators that takes and returns what the user's
    network does. Nothing after capture writes to it: a changed network is a new GraphModule that
    shares the tensors that did not change. ``answer`` tells which outputs are compared,
    ``outputs`` what the network calls each leaf of its result, ``loss`` is the user's own of them.
    Of a network from a file ``interface`` says how the file calls its ends, ``values`` what it
    calls each node's value. ``grids`` are those that a preparation learned for its inputs, by root
    and bits, in place of what a range rule finds.
    """

    module: fx.GraphModule
    units: tuple[Unit, ...]
    inputs: tuple[InputSpec, ...]
    folded: Mapping[str, FoldedBatchNorm]
    notes: tuple[Note, ...]
    answer: Answer = FIRST
    outputs: tuple[str, ...] = ()
    interface: Interface | None = None
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grids: Mapping[tuple[str, int], QParams] = field(default_factory=dict)
    loss: Callable[..., Any] | None = field(default=None, repr=False)

    def unit(self, name: str) -> Unit:
        """The unit of that name."""
        return next(u for u in self.units if u.name == name)

    def nodes(self) -> dict[str, fx.Node]:
        """The nodes of the graph by name, in execution order."""
        return {node.name: node for node in self.module.graph.nodes}

    def tensor(self, target: str) -> Tensor:
        """A weight or buffer of the graph by its attribute path."""
        return get_tensor(self.module, target)

    def digest(self) -> str:
        """Sha256 over the graph's text and every tensor: the identity used by caches."""
        sha = hashlib.sha256(str(self.module.graph).encode())
        for name, tensor in sorted(name_tensors(self.module).items()):
            sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            sha.update(
                tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
        return sha.hexdigest()


def get_tensor(module: nn.Module, target: str) -> Tensor:
    """The tensor at a dotted attribute path."""
    value = attribute(module, target)
    assert isinstance(value, Tensor), f"{target} is no tensor"
    return value.detach()


def attribute(module: nn.Module, target: str) -> object:
    """What stands at a dotted attribute path: a tensor, or the graph of a higher-order operator."""
    value: object = module
    for part in target.split("."):
        value = getattr(value, part, None)
    return value


def set_tensor(module: nn.Module, target: str, tensor: Tensor) -> None:
    """Put a tensor at a dotted attribute path as a buffer, replacing whatever stands there."""
    *path, leaf = target.split(".")
    owner = module
    for part in path:
        child = getattr(owner, part, None)
        if not isinstance(child, nn.Module):
            child = nn.Module()
            owner.add_module(part, child)
        owner = child
    owner._parameters.pop(leaf, None)
    owner._buffers.pop(leaf, None)
    owner.__dict__.pop(leaf, None)
    owner.register_buffer(leaf, tensor.detach())


def name_tensors(module: fx.GraphModule) -> dict[str, Tensor]:
    """Every tensor that the graph reads, by attribute path."""
    targets = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    found = {}
    for target in sorted(targets):
        value = attribute(module, target)
        if isinstance(value, Tensor):
            found[target] = value.detach()
    return found


def shallow_copy(module: fx.GraphModule) -> fx.GraphModule:
    """A new GraphModule whose graph can be edited; tensors are shared, not copied."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    graph._codegen = module.graph._codegen
    fresh = fx.GraphModule(module, graph)
    for target, tensor in name_tensors(module).items():
        # fx copies module references along the path: own the leaf modules before writing to them.
        set_tensor(fresh, target, tensor)
    return fresh


def drop_unused_tensors(module: fx.GraphModule) -> None:
    """Forget the tensors that the graph no longer reads."""
    used = set(name_tensors(module))
    for name, _ in list(module.named_buffers()):
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
