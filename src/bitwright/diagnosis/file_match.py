"""Which tensors of two files are the same one: by structure, and by name where that leaves off.

The files need not be of one producer. Operators are matched from the inputs onwards: two of one
kind that compute with matched values give matched values. What quantising a network changes is
allowed for: quantisers are seen through, batch norms and biases may be joined to the operator
before them, and a clamp may be left to the quantiser behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from bitwright.diagnosis.file_graph import LINEAR, FileGraph, Step, Tap, linear_chain, stored_array
from bitwright.errors import InputError

STRUCTURE, NAME = "structure", "name"
_CLAMP = "Relu"
_COMMUTE = ("Add", "Mul", "Max", "Min")
# After so many names that were each tried alone, the others are taken as they are.
_NAMES_ALONE = 50


@dataclass(frozen=True, eq=False)
class MatchedTensor:
    """A tensor of the first file and the one of the second that it is.

    Attributes:
        name: in the first file; `other`: in the second.
        kind: what makes it.
        by: structure or name.
        taps: how each is looked at.
        read: the second's behind its own quantiser, where it has one.
        enters: names, in the first file, of the matched tensors that it is made of.
    """

    name: str
    other: str
    kind: str
    by: str
    taps: tuple[Tap, Tap]
    read: Tap | None = None
    enters: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Matching:
    """All that was matched, in the first file's order, and the operators that were not."""

    tensors: tuple[MatchedTensor, ...]
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    alone: tuple[tuple[str, ...], tuple[str, ...]]


@dataclass
class _State:
    """Labels that equal tensors share, and the pairs in the order in which they were found."""

    a: FileGraph
    b: FileGraph
    labels: tuple[dict[str, str], dict[str, str]] = field(default_factory=lambda: ({}, {}))
    pairs: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    done: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))

    def join(self, one: str, other: str, by: str, read: str = "") -> None:
        """Two values are the same tensor; `read`: the other's name where it is not its own."""
        if one in self.pairs:
            return
        label = self.labels[0].get(one) or self.labels[1].get(other) or one
        self.labels[0].setdefault(one, label)
        self.labels[1].setdefault(other, label)
        self.pairs[one] = (other, by, read)

    def key(self, side: int, step: Step) -> tuple[str, ...] | None:
        """An operator's kind and the labels of what it computes with; None before all are known."""
        graph, labels = (self.a, self.b)[side], self.labels[side]
        wanted = [n for n in step.operands if n not in graph.constants]
        found = [labels.get(n, "") for n in wanted]
        if not found or not all(found):
            return None
        return (step.kind, *(sorted(found) if step.kind in _COMMUTE else found))


def match_files(a: FileGraph, b: FileGraph) -> Matching:
    """Match the tensors of two files.

    Raises:
        InputError: they have no inputs or outputs in common.
    """
    inputs = _match_ends("input", a.inputs, b.inputs)
    outputs = _match_ends("output", a.outputs, b.outputs)
    state = _State(a, b)
    for one, other in inputs:
        state.labels[0][one] = state.labels[1][other] = one
        state.pairs[one] = (other, NAME if one == other else STRUCTURE, "")
    _settle(state)
    _by_name(state)
    alone = tuple(
        tuple(s.node.name or s.result for s in graph.steps if s.index not in done)
        for graph, done in zip((a, b), state.done, strict=True)
    )
    return Matching(tuple(_tensors(state)), inputs, outputs, (alone[0], alone[1]))


def _match_ends(what: str, a: Sequence[str], b: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Inputs or outputs of two files: by name, and by their places where no name is the same."""
    shared = [name for name in a if name in b]
    if shared:
        if len(shared) < len(a) and what == "input":
            lacking = next(name for name in a if name not in b)
            raise InputError(
                f"the second file has no input {lacking!r}: it takes {', '.join(b)}. Both files "
                "are run on the same samples, so their inputs have to be the same."
            )
        return tuple((name, name) for name in shared)
    if len(a) != len(b) or not a:
        raise InputError(
            f"the files have no {what} in common: {', '.join(a) or 'none'} and "
            f"{', '.join(b) or 'none'}. Give two files of the same network."
        )
    return tuple(zip(a, b, strict=True))


def _settle(state: _State) -> None:
    """Match operators until nothing new is found."""
    while _forward(state) or _clamps(state) or _backward(state):
        pass


def _forward(state: _State) -> bool:
    """Operators of one kind on the same values."""
    groups: tuple[dict[tuple[str, ...], list[Step]], ...] = (defaultdict(list), defaultdict(list))
    for side, graph in enumerate((state.a, state.b)):
        for step in graph.steps:
            if step.index not in state.done[side]:
                key = state.key(side, step)
                if key is not None:
                    groups[side][key].append(step)
    moved = False
    for key, ours in groups[0].items():
        for one, other in _couple(state, ours, groups[1].get(key, [])):
            _take(state, one, other)
            moved = True
    return moved


def _take(state: _State, one: Step, other: Step, by: str = STRUCTURE) -> None:
    """Two operators are the same: so are their results."""
    state.done[0].add(one.index)
    state.done[1].add(other.index)
    if one.kind in LINEAR:
        mine, theirs = linear_chain(state.a, one), linear_chain(state.b, other)
        if [kind for kind, _ in mine] != [kind for kind, _ in theirs]:
            _finish_chain(state, 0, mine)
            _finish_chain(state, 1, theirs)
            state.join(mine[-1][1], theirs[-1][1], by)
            return
    for value, own in zip(one.node.output, other.node.output, strict=False):
        if value and own:
            state.join(value, own, by)


def _finish_chain(state: _State, side: int, chain: Sequence[tuple[str, str]]) -> None:
    """What was joined to an operator is no operator that lacks its like."""
    graph = (state.a, state.b)[side]
    state.done[side].update(graph.by_result[value].index for _, value in chain)


def _couple(
    state: _State, ours: Sequence[Step], theirs: Sequence[Step]
) -> Iterator[tuple[Step, Step]]:
    """Which of several operators on the same values are the same: names, weights, then order."""
    left = list(theirs)
    waiting = []
    for one in ours:
        same = next((o for o in left if o.result == one.result), None) or next(
            (o for o in left if one.node.name and o.node.name == one.node.name), None
        )
        if same is None:
            waiting.append(one)
            continue
        left.remove(same)
        yield one, same
    for one in waiting:
        if not left:
            return
        best = left[0]
        if len(left) > 1 or len(waiting) > 1:
            mine = _weights(state.a, one)
            best = min(left, key=lambda o: _distance(mine, _weights(state.b, o)))
            if _distance(mine, _weights(state.b, best)) == np.inf and len(waiting) != len(left):
                continue
        left.remove(best)
        yield one, best


def _weights(graph: FileGraph, step: Step) -> list[np.ndarray]:
    """The stored operands of an operator."""
    found = (stored_array(graph, name) for name in step.operands if name in graph.constants)
    return [value for value in found if value is not None]


def _distance(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """How far the weights of two operators lie apart, of their size; infinite of other shapes."""
    if not a and not b:
        return 0.0
    if not a or not b or a[0].shape != b[0].shape or a[0].dtype.kind not in "fiu":
        return float(np.inf)
    one, other = a[0].astype(np.float64), b[0].astype(np.float64)
    return float(np.linalg.norm(one - other)) / max(float(np.linalg.norm(one)), 1e-30)


def _clamps(state: _State) -> bool:
    """Clamps that one file leaves to the quantiser behind them."""
    moved = False
    for side in (0, 1):
        other = (state.b, state.a)[side]
        back = {label: name for name, label in reversed(state.labels[1 - side].items())}
        for step in (state.a, state.b)[side].steps:
            label = state.labels[side].get(step.operands[0], "") if step.operands else ""
            if step.kind != _CLAMP or step.index in state.done[side] or label not in back:
                continue
            value = back[label]
            if any(reader.kind == _CLAMP for reader in other.readers.get(value, ())):
                continue
            read = other.read_form(value)
            if not read:
                continue
            moved = True
            state.done[side].add(step.index)
            state.labels[side].setdefault(step.result, label)
            if side == 0:
                state.pairs.setdefault(step.result, (value, STRUCTURE, read))
                if read == value:  # there are the clamped integers and nothing else
                    state.pairs.pop(step.operands[0], None)
            else:
                _move_clamped(state, step, value, read)
    return moved


def _move_clamped(state: _State, step: Step, value: str, read: str) -> None:
    """A clamp of the second file alone: behind it stands what the first one's quantiser gives."""
    if read == value:
        state.pairs[value] = (step.result, STRUCTURE, "")


def _backward(state: _State) -> bool:
    """What matched operators compute with, where one of the two has no match yet."""
    makers = {one: other for one, (other, _, _) in state.pairs.items()}
    moved = False
    for one, other in makers.items():
        mine, theirs = state.a.by_result.get(one), state.b.by_result.get(other)
        if mine is None or theirs is None or mine.kind != theirs.kind:
            continue
        wide = len(mine.operands) == len(theirs.operands)
        if not wide or mine.kind in _COMMUTE:
            continue
        for value, own in zip(mine.operands, theirs.operands, strict=True):
            new = value not in state.labels[0] and own not in state.labels[1]
            if new and value not in state.a.constants and own not in state.b.constants:
                state.join(value, own, STRUCTURE)
                _mark_done(state, value, own)
                moved = True
    return moved


def _mark_done(state: _State, one: str, other: str) -> None:
    for side, (graph, name) in enumerate(((state.a, one), (state.b, other))):
        if name in graph.by_result:
            state.done[side].add(graph.by_result[name].index)


def _by_name(state: _State) -> None:
    """Values of one name that one kind of operator makes."""
    tried = 0
    for step in state.a.steps:
        for name in step.node.output:
            other = state.b.by_result.get(name)
            if other is None or name in state.pairs or other.kind != step.kind:
                continue
            if name in state.labels[1] or step.index in state.done[0]:
                continue
            _take(state, step, other, NAME)
            tried += 1
            if tried <= _NAMES_ALONE:
                _settle(state)
    _settle(state)


def _tensors(state: _State) -> Iterator[MatchedTensor]:
    order = [*state.a.inputs, *(n for s in state.a.steps for n in s.node.output if n)]
    # Where a quantiser clamps too, what it adds is no rounding.
    clamped = {other for other, _, read in state.pairs.values() if read}
    for name in order:
        if name not in state.pairs:
            continue
        other, by, read = state.pairs[name]
        made = _match_taps(state, name, other, read)
        if made is not None:
            step = state.a.by_result.get(name)
            yield MatchedTensor(
                name, made[1].value, step.kind if step else "input", by, made[:2],
                None if read or other in clamped else made[2],
                tuple(_entering(state, name)),
            )  # fmt: skip


def _match_taps(
    state: _State, name: str, other: str, read: str
) -> tuple[Tap, Tap, Tap | None] | None:
    """How both are looked at, and the second behind its quantiser: integers are beside integers."""
    mine, theirs = state.a.tap(name), state.b.tap(read or other)
    if mine is None or theirs is None:
        return None
    ours, own = state.a.as_read.get(name, ""), state.b.as_read.get(other, "")
    if theirs.scale is not None and mine.scale is None and ours:
        return Tap(ours), theirs, None
    if mine.scale is not None and theirs.scale is None and own:
        return mine, Tap(own), None
    return mine, theirs, Tap(own) if own and theirs.scale is None else None


def _entering(state: _State, name: str) -> Iterator[str]:
    """The nearest matched tensors above one: what its difference enters with."""
    step = state.a.by_result.get(name)
    todo = list(step.operands) if step else []
    seen = set()
    while todo:
        value = todo.pop(0)
        if value in seen or value in state.a.constants:
            continue
        seen.add(value)
        if value in state.pairs:
            yield value
        else:
            above = state.a.by_result.get(value)
            todo += above.operands if above else []
