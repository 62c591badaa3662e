"""A file as a network: called as the float one is, and answered by the runtime that users have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bitwright.export.onnx_file import output_places
from bitwright.export.runtimes import RuntimeRefusal, require_runtime
from bitwright.graph.execute import bind
from bitwright.graph.model_graph import ModelGraph


class FileNetwork(nn.Module):
    """`model.onnx` in a runtime, all optimisations on; gives what the network's `forward` gives.

    Raises:
        RuntimeRefusal: the runtime does not load the file.
        InputError: the runtime is not installed.
    """

    def __init__(self, path: Path, graph: ModelGraph, runtime: str, threads: int = 0) -> None:
        super().__init__()
        self.graph = graph
        self.runtime = require_runtime(runtime)
        self.places = output_places(graph.module)
        # As users run it: with the types that the runtime takes by itself.
        self.loaded = self.runtime.load(path, optimized=True, threads=threads, precise=False)
        self._structure: tuple[list[Any], pytree.TreeSpec] | None = None

    def forward(self, *args: Tensor, **named: Tensor) -> Any:
        """Run a batch; the tensors come in the structure that the float network returns.

        Raises:
            RuntimeRefusal: the runtime does not run it, or gives no such outputs.
        """
        flat = [t for t in bind(self.graph, named or args) if isinstance(t, Tensor)]
        arrays = [t.contiguous().cpu().numpy() for t in flat]
        found = self.loaded.run(dict(zip(self.loaded.inputs, arrays, strict=False)))
        leaves, spec = self._structure_of(args, named)
        if len(leaves) != len(self.places):
            raise RuntimeRefusal("the file gives other outputs than the network")
        made = [
            leaf if place is None else torch.from_numpy(found[place])
            for leaf, place in zip(leaves, self.places, strict=True)
        ]
        return pytree.tree_unflatten(made, spec)

    def _structure_of(
        self, args: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> tuple[list[Any], pytree.TreeSpec]:
        """What the float network returns of a sample: its leaves, and how they hang together."""
        if self._structure is None:
            result = self.graph.module(*args, **named)
            self._structure = pytree.tree_flatten(result)
        return self._structure
