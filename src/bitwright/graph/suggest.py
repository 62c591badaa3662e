"""Which target a network suggests, from what does its work."""

from __future__ import annotations

from bitwright.graph.model_graph import ModelGraph
from bitwright.recipe.names import CONVOLUTIONAL, LINEAR


def suggest_target(graph: ModelGraph) -> tuple[str, str]:
    """The target that ONNX Runtime runs fast, and the reason in a few words.

    Integer kernels of convolutions stay integer from one to the next, so that sums and pools
    between them are quantised as well (`ort-cpu`). Those of linear layers give floats, and the
    sums between the layers of a transformer are served badly by one grid (`ort-linear`). So the
    kind that does more of the multiplications decides; where nothing tells, linear layers do.
    """
    work = {True: 0, False: 0}
    for unit in graph.units:
        work[unit.kind.startswith("conv")] += unit.macs
    share = work[True] / max(sum(work.values()), 1)
    if share > 0.5:
        return CONVOLUTIONAL, f"convolutions do {share:.0%} of the multiplications"
    return LINEAR, f"linear layers do {1 - share:.0%} of the multiplications"
