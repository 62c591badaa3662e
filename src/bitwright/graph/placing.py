"""Networks and batches on the device that computes with them; the originals stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from bitwright.engine.device import is_host
from bitwright.graph.execute import Flat, Open
from bitwright.graph.model_graph import ModelGraph, name_tensors, set_tensor, shallow_copy

Network = TypeVar("Network", bound=nn.Module)


def device_of(graph: ModelGraph) -> torch.device:
    """Where the network's own tensors are."""
    first = next(chain(graph.module.parameters(), graph.module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def same_device(graph: ModelGraph, flat: tuple[Any, ...]) -> tuple[Any, ...]:
    """A bound batch where the network is."""
    device = device_of(graph)
    return tuple(t.to(device) if isinstance(t, Tensor) else t for t in flat)


def module_on(module: Network, device: str) -> Network:
    """The network with its tensors on a device; itself on the host, else a copy."""
    if is_host(device):
        return module
    if not isinstance(module, fx.GraphModule):
        return deepcopy(module).to(device)
    copy = shallow_copy(module)
    for target, tensor in name_tensors(module).items():
        set_tensor(copy, target, tensor.to(device))
    return copy  # type: ignore[return-value]


def graph_on(graph: ModelGraph, device: str) -> ModelGraph:
    """A captured network on a device; itself on the host."""
    return graph if is_host(device) else replace(graph, module=module_on(graph.module, device))


def batches_on(graph: ModelGraph, batches: Open) -> Open:
    """The batches of a pass, each where the network is."""
    opened: Callable[[], Iterator[Flat]] = batches
    return lambda: (same_device(graph, flat) for flat in opened())
