"""One streaming pass over the calibration data: statistics of every edge, nothing stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.engine.device import move
from bitwright.engine.note import Note
from bitwright.engine.threads import stream_out
from bitwright.errors import DataError
from bitwright.graph.execute import Inputs, bind, blame_batch, run
from bitwright.graph.model_graph import FoldedBatchNorm, ModelGraph
from bitwright.graph.placing import same_device
from bitwright.numerics.stats import ChannelStats, TensorStats

# A histogram read from this many values of a batch is as good as from all of them; the extremes
# and the moments are always taken from all.
HISTOGRAM_VALUES = 1 << 18

# The first batch-norm's input should have the mean and variance it was trained on. Measured on
# EfficientNet-Lite0 and ResNet-20/56 (docs/guide.md): right preprocessing stays below 0.2, a wrong
# mean and standard deviation gives 0.5 and more.
MISMATCH = 0.35


@dataclass(frozen=True)
class Observation:
    """What one pass saw: statistics of the watched edges, how many samples and batches."""

    stats: Mapping[str, TensorStats]
    samples: int
    notes: tuple[Note, ...]
    batches: int = 0


def observe(
    graph: ModelGraph,
    batches: Iterable[Inputs],
    watch: Iterable[str],
    progress: Callable[[int], None] = lambda _: None,
) -> Observation:
    """Statistics of the values of the watched nodes over all batches, in one pass.

    Memory is that of one batch a thread: statistics are merged and values dropped.

    Args:
        graph: the captured network.
        batches: inputs, streamed.
        watch: names of nodes.
        progress: told the number of samples after each batch.

    Raises:
        DataError: no data at all, or a value that is not finite in the network.
    """
    wanted = set(watch)
    norm = _first_norm(graph)
    seen = _Seen({})
    samples = count = 0

    def look(inputs: Inputs) -> _Seen:
        return _look(graph, inputs, wanted, None if norm is None else norm[0])

    # Each batch by one thread, joined in the order of the data.
    for part in stream_out(look, batches):
        seen = seen.merge(part)
        samples += part.samples
        count += 1
        progress(samples)
    if not samples:
        raise DataError("the calibration data are empty: no batch came. Check --data.")
    notes = _note_preprocessing(norm, seen.channels) if norm is not None else ()
    # The numbers that an attention mask adds would take up the whole grid: no range, no grid.
    kept = {name: stats for name, stats in seen.stats.items() if name not in seen.masks}
    kept |= _constant_stats(graph, wanted)
    return Observation(kept, samples, (*notes, *_mask_notes(seen.masks)), count)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What some batches told.

    Attributes:
        stats: of the watched values.
        masks: those of them that are attention masks.
        channels: of the first batch-norm's result.
        samples: how many there were.
    """

    stats: dict[str, TensorStats]
    masks: frozenset[str] = frozenset()
    channels: ChannelStats | None = None
    samples: int = 0

    def merge(self, other: _Seen) -> _Seen:
        """This and what later batches told."""
        stats = dict(self.stats)
        for name, own in other.stats.items():
            stats[name] = stats[name].merge(own) if name in stats else own
        mine, theirs = self.channels, other.channels
        both = mine.merge(theirs) if mine and theirs else mine or theirs
        return _Seen(stats, self.masks | other.masks, both, self.samples + other.samples)


def _look(graph: ModelGraph, inputs: Inputs, wanted: set[str], norm: str | None) -> _Seen:
    """One batch through the network."""
    flat = same_device(graph, bind(graph, inputs))
    found: dict[str, TensorStats] = {}
    masks: set[str] = set()
    channels: list[ChannelStats] = []

    def visit(node: fx.Node, value: object) -> None:
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            return
        if node.name in wanted:
            stats = TensorStats.of(value, max_histogram_elements=HISTOGRAM_VALUES)
            if stats.masked or _is_mask(value, stats):
                masks.add(node.name)
            else:
                _check_finite(node, stats)
            found[node.name] = stats
        if node.name == norm:
            channels.append(move(ChannelStats.of(value, axis=1), "cpu"))

    with blame_batch(flat):
        run(graph, flat, visit)
    samples = next(t.shape[0] for t in flat if isinstance(t, Tensor) and t.dim())
    return _Seen(found, frozenset(masks), channels[0] if channels else None, samples)


def _constant_stats(graph: ModelGraph, wanted: set[str]) -> dict[str, TensorStats]:
    """Statistics of stored tensors that are inputs of layers, such as tables of coordinates."""
    return {
        node.name: TensorStats.of(graph.tensor(str(node.target)))
        for node in graph.module.graph.nodes
        if node.op == "get_attr" and node.name in wanted
    }


def _is_mask(value: Tensor, stats: TensorStats) -> bool:
    """Whether all that is not finite is minus infinity, as attention masks have it."""
    return bool(stats.nonfinite) and not bool((value.isnan() | value.isposinf()).any())


def _mask_notes(masks: Iterable[str]) -> tuple[Note, ...]:
    return tuple(
        Note(name, "stays in float: it carries numbers of 1e30 and beyond, as attention masks have")
        for name in sorted(masks)
    )


def _check_finite(node: fx.Node, stats: TensorStats) -> None:
    if stats.nonfinite:
        raise DataError(
            f"{stats.nonfinite} values that are NaN or infinite appear inside the network, at "
            f"{node.name!r}, for finite inputs. Check the weights, and that the data are "
            "preprocessed as the network expects."
        )


def _first_norm(graph: ModelGraph) -> tuple[str, FoldedBatchNorm] | None:
    for unit in graph.units:
        if unit.name in graph.folded:
            return unit.calls[0], graph.folded[unit.name]
    return None


def _note_preprocessing(
    norm: tuple[str, FoldedBatchNorm], channels: ChannelStats | None
) -> tuple[Note, ...]:
    """Compare what the first folded batch-norm puts out with what it put out in training.

    In training its output had mean beta and standard deviation |gamma| in every channel.
    """
    if channels is None:
        return ()
    distance = norm_mismatch(norm[1], channels)
    if distance < MISMATCH:
        return ()
    return (
        Note(
            norm[1].name,
            f"the calibration data do not look like the training data: at the first batch-norm the "
            f"channels are off by {distance:.2f} standard deviations (up to {MISMATCH} is usual). "
            "The commonest cause is another mean and standard deviation, another value range "
            "(0..255 or 0..1) or another channel order (RGB or BGR) than in training.",
        ),
    )


def norm_mismatch(norm: FoldedBatchNorm, channels: ChannelStats) -> float:
    """Median over live channels of |mean - beta| / |gamma| + |log(std / |gamma|)|."""
    gamma = norm.gamma.abs().double()
    live = (gamma > 0.05 * gamma.median()) & (norm.var > 1e-4 * norm.var.median())
    if not bool(live.any()):
        return 0.0
    std = channels.var.clamp_min(1e-12).sqrt()
    shift = (channels.mean - norm.beta.double()).abs() / gamma
    ratio = torch.log(std / gamma).abs()
    return float((shift + ratio)[live].median())
