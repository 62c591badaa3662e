"""One batch through the float network before anything is solved: what is wrong is said early."""

from __future__ import annotations

from torch import Tensor

from bitwright.engine.note import Note
from bitwright.graph.execute import bind, blame_batch, run
from bitwright.graph.heads import SCORES
from bitwright.graph.model_graph import ModelGraph
from bitwright.sources.batches import Dataset
from bitwright.sources.lengths import batch_by_length

_SHOWN = 5


def try_data(graph: ModelGraph, dataset: Dataset, batch: int, place: str = "") -> tuple[Note, ...]:
    """What a user should know of data, from their first batch in the network.

    Raises:
        DataError: no batch, or one that the network does not take.
    """
    if dataset.is_none:
        return ()
    first = next(iter(batch_by_length(dataset, batch)))
    flat = bind(graph, first.inputs, place or dataset.spec)
    with blame_batch(flat):
        result = run(graph, flat)
    notes = tuple(Note(dataset.spec, text) for text in dataset.notes)
    if not dataset.classes:
        return notes
    scores = graph.answer.raw(result) if graph.answer.kind == SCORES else None
    return (*notes, Note(dataset.spec, _of_folders(dataset.classes, scores)))


def _of_folders(names: tuple[str, ...], scores: Tensor | None) -> str:
    """Which label each class folder has, and whether there are as many as the network scores."""
    shown = [f"{label} {name!r}" for label, name in enumerate(names)]
    if len(shown) > _SHOWN:
        shown[_SHOWN - 1 : -1] = ["..."]
    text = (
        f"labels are the places of the folders in the order of their names, as strings: "
        f"{', '.join(shown)}."
    )
    if scores is None or scores.dim() < 2:
        return text
    classes = scores.shape[1 if scores.dim() == 4 else -1]
    if classes == len(names):
        return text
    fault = (
        f"unless these are the network's first {len(names)} classes, the labels are wrong"
        if len(names) < classes
        else "no answer can be right in the last of them"
    )
    return (
        f"{text} The network scores {classes} classes and there are {len(names)} folders: {fault}. "
        "Make a folder for each class, in the order of training (empty ones count), or give labels "
        "by FILE.py:FUNCTION."
    )
