"""From a batch's inputs to the tensor that answers are read from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bitwright.graph.answers import Outcome
from bitwright.graph.execute import bind, blame_batch
from bitwright.graph.model_graph import ModelGraph
from bitwright.sources.lengths import MASK


def forward_of(graph: ModelGraph, module: nn.Module, device: str = "cpu") -> Any:
    """A function from a batch's inputs to what answers are read from."""
    whole = outcome_of(graph, module, device)
    return lambda inputs: whole(inputs).answer


def outcome_of(
    graph: ModelGraph, module: nn.Module, device: str = "cpu"
) -> Callable[[Any], Outcome]:
    """A function from a batch's inputs to what the network gives, whole and as an answer."""
    names = {spec.name for spec in graph.inputs}

    def forward(inputs: Any) -> Outcome:
        flat = bind(graph, inputs)
        mask = None
        with blame_batch(flat):
            if isinstance(inputs, Mapping):
                values = {k: v.to(device) for k, v in inputs.items() if k in names}
                result, mask = module(**values), values.get(MASK)
            else:
                result = module(*(t.to(device) for t in flat if isinstance(t, Tensor)))
            answer = graph.answer.of(result, mask)
        answer, result = pytree.tree_map_only(Tensor, Tensor.cpu, (answer, result))
        return Outcome(answer, result, graph.answer)

    return forward
