"""What every output of a network means, found from its name, its shape and its last operators."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx

from bitwright.errors import RecipeError, unknown
from bitwright.graph import heads as of
from bitwright.graph.answers import SEVERAL, SPANS, Answer
from bitwright.graph.heads import EMBEDDING, NONE, SCORES, Head
from bitwright.graph.operators import plain_name
from bitwright.graph.said import Said

# States that networks hand out beside their answers, for whoever builds on them.
_STATES = re.compile(
    r"(^|_)(hidden_states?|attentions?|past_key_values?|encoder_last_hidden_state|"
    r"last_hidden_state|pooler_output|states?)$"
)
_BY_NAME: tuple[tuple[str, str], ...] = (
    (of.BOXES, r"box(es)?|bbox(es)?|loc|locs|ltrb|bbox_regression"),
    (of.HEATMAPS, r"heat_?maps?|hm|keypoints?|kpts?|joints"),
    (of.PROBABILITIES, r"probs?|probabilit(y|ies)"),
    (of.EMBEDDING, r"embeds?|embeddings?|descriptors?"),
    (of.MASK, r"masks?|mattes?|alphas?"),
    (of.IMAGE, r"images?|imgs?|rgb|recons?|reconstructions?|restored|denoised|sr"),
    (
        of.REGRESSION,
        r"depths?|disparit(y|ies)|regressions?|reg|values?|ages?|prices?|poses?|flows?|offsets?|"
        r"wh|forecasts?|pitch|quantiles?|center(ness|s)?|angles?",
    ),
    (SCORES, r"logits?|scores?|cls|class(es)?|conf|labels?|objectness|seg|segmentation|aux|tokens"),
)
_MOVES = {
    "view", "reshape", "_unsafe_view", "permute", "transpose", "flatten", "unflatten", "squeeze",
    "unsqueeze", "contiguous", "clone", "alias", "slice", "select", "_to_copy", "to", "t", "expand",
}  # fmt: skip
_SQUASHES = {"softmax", "_softmax", "log_softmax", "_log_softmax", "sigmoid", "hardsigmoid"}
_LARGE_IMAGE = 4


@dataclass(frozen=True, eq=False)
class Leaf:
    """One leaf of a network's result: its name, value on the example, and the node that made it."""

    name: str
    place: int
    value: Any
    node: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value."""
        return tuple(self.value.shape)

    @property
    def word(self) -> str:
        """The last part of its name, as those are written that are known."""
        last = re.sub(r"\.?\d+$", "", self.name).rpartition(".")[2] or self.name
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last).lower()


@dataclass(frozen=True, eq=False)
class NetworkResult:
    """What an answer is found from.

    Attributes:
        leaves: the leaves of the result.
        inputs: the example inputs.
        free: places of outputs whose size the values decide.
        calls: the names of the nodes that units compute.
    """

    leaves: Sequence[Leaf]
    inputs: Sequence[Tensor]
    free: Set[int]
    calls: Set[str]


def find_answer(classic: Answer, seen: NetworkResult, said: Sequence[Said] = ()) -> Answer:
    """What of a result is compared: one answer as ever, or several outputs each in its own way.

    A span and an embedding of text stay the one answer that they are; so do class scores where
    they are all that the network says. Every other output counts, but for those that follow from
    others, that no unit reaches, or that cannot be compared sample by sample.

    Args:
        classic: the answer that names alone tell.
        seen: the network's result and where it comes from.
        said: what the user says of some outputs, which overrules what is found.

    Raises:
        RecipeError: the user names an output that there is not, or that cannot be so.
    """
    if not classic.leaves:
        return classic
    found = {leaf.place: _judge(leaf, seen) for leaf in seen.leaves}
    if classic.kind != SCORES and not said:
        return replace(classic, outputs=tuple(_beside(classic, h) for h in found.values()))
    if classic.kind != SCORES:
        found = {place: _beside(classic, head) for place, head in found.items()}
    own = {place: declare(found[place], leaf, s) for place, leaf, s in _match(seen.leaves, said)}
    kept = [leaf for leaf in seen.leaves if found[leaf.place].kind != NONE]
    for leaf in _follow(kept, classic.leaves[0], seen.calls):
        why = "it follows from other outputs, or no unit reaches it"
        found[leaf.place] = replace(found[leaf.place], kind=NONE, why=why)
    found |= own
    parts = tuple(
        part
        for place, head in found.items()
        for part in ((head,) if place in own else _cut(head, seen.leaves))
    )
    return settle(classic, pair_up(parts, seen.leaves))


def _beside(classic: Answer, head: Head) -> Head:
    """An output of a network whose names say what its one answer is."""
    if head.leaf in classic.leaves:
        return replace(head, kind=classic.kind, axis=None, form="", why="by its name")
    return replace(head, kind=NONE, why="it stands beside the answer")


def _match(leaves: Sequence[Leaf], said: Sequence[Said]) -> Iterator[tuple[int, Leaf, Said]]:
    """The outputs of which something is said."""
    known = {leaf.name: leaf for leaf in leaves}
    for one in said:
        if one.name not in known:
            raise RecipeError(unknown("output", one.name, known, "--answer"))
        yield known[one.name].place, known[one.name], one


def declare(found: Head, leaf: Leaf, said: Said) -> Head:
    """An output as the user says that it is.

    Raises:
        RecipeError: it cannot be that.
    """
    why = "as --answer says"
    if said.kind == NONE:
        return replace(found, kind=NONE, why=why)
    value = leaf.value
    if found.kind == NONE and (not isinstance(value, Tensor) or not value.is_floating_point()):
        raise RecipeError(f"--answer {said.name}={said.kind}: {found.why}. Say {said.name}=none.")
    axis = said.axis
    if axis is not None and not -value.dim() <= axis < value.dim():
        raise RecipeError(
            f"--answer {said.name}={said.kind}:{axis}: the output has {value.dim()} axes, "
            f"{tuple(value.shape)}. Give one of them."
        )
    if said.kind == of.BOXES and axis is None:
        axis = _axis_of_four(leaf.shape)
    if said.kind == of.HEATMAPS and value.dim() != 4:
        raise RecipeError(
            f"--answer {said.name}=heatmaps: maps are [samples, maps, height, width], and the "
            f"output is {tuple(value.shape)}. Say what it is instead."
        )
    form = said.form or form_of(said.kind, value)
    return Head(leaf.name, leaf.place, said.kind, axis, form, said.weight, why=why)


def settle(classic: Answer, outputs: tuple[Head, ...]) -> Answer:
    """One answer where only class scores are left that are read as ever, else several."""
    heads = [head for head in outputs if head.kind != NONE]
    if not heads:
        return replace(classic, outputs=outputs)
    first = heads[0]
    if len(heads) == 1 and first.axis is None and first.cut is None:
        if first.kind in (SCORES, of.PROBABILITIES):
            return Answer(SCORES, (first.leaf,), outputs)
        if first.kind == EMBEDDING:
            return Answer(EMBEDDING, (first.leaf,), outputs)
    if {head.kind for head in heads} == {classic.kind} and classic.kind == SPANS:
        return replace(classic, outputs=outputs)
    return Answer(SEVERAL, tuple(dict.fromkeys(head.leaf for head in heads)), outputs)


def _judge(leaf: Leaf, seen: NetworkResult) -> Head:
    """What one output means, or why it cannot be compared."""
    reason = _why_not(leaf, seen)
    if reason:
        return Head(leaf.name, leaf.place, NONE, why=reason)
    signs = (*_by_name(leaf), *_by_operator(leaf, seen.inputs), *_by_shape(leaf, seen.leaves))
    for kind, why in signs[:1]:
        axis = _axis_of_four(leaf.shape) if kind == of.BOXES else None
        return Head(leaf.name, leaf.place, kind, axis, form_of(kind, leaf.value), why=why)
    return Head(leaf.name, leaf.place, SCORES, why="for want of another sign")


def _why_not(leaf: Leaf, seen: NetworkResult) -> str:
    """Why an output cannot be compared sample by sample; empty where it can."""
    value = leaf.value
    if not isinstance(value, Tensor):
        return "it is no tensor"
    if not value.dtype.is_floating_point:
        return "its values are whole numbers"
    if leaf.place in seen.free or not value.numel():
        return "the values of the input decide its size"
    if isinstance(leaf.node, fx.Node) and leaf.node.op == "get_attr":
        return "it is a stored tensor"
    if not value.dim() or not seen.inputs or value.shape[0] != seen.inputs[0].shape[0]:
        return "it has no line for each sample"
    if _STATES.search(leaf.word) and len(seen.leaves) > 1:
        return "inner states by its name"
    return ""


def _by_name(leaf: Leaf) -> Iterator[tuple[str, str]]:
    why = "by its name"
    last = plain_name(leaf.node) if isinstance(leaf.node, fx.Node) else ""
    for kind, words in _BY_NAME:
        if not re.search(rf"(^|_)({words})$", leaf.word):
            continue
        if kind == of.BOXES and _axis_of_four(leaf.shape) is None:
            kind = of.REGRESSION
        if kind in (of.HEATMAPS, of.IMAGE) and len(leaf.shape) != 4:
            kind = of.REGRESSION
        if kind in (SCORES, of.PROBABILITIES):
            squash = plain_name(_behind_moves(leaf.node)) if last else ""
            if squash in ("sigmoid", "hardsigmoid"):
                kind = of.LABELS
            elif squash in ("softmax", "_softmax"):
                kind = of.PROBABILITIES
        yield kind, why
        return


def _by_operator(leaf: Leaf, inputs: Sequence[Tensor]) -> Iterator[tuple[str, str]]:
    if not isinstance(leaf.node, fx.Node):
        return
    node = _behind_moves(leaf.node)
    if plain_name(node) == "cat" and node.all_input_nodes:
        node = _behind_moves(node.all_input_nodes[0])
    last, shape = plain_name(node), leaf.shape
    channels = shape[1] if len(shape) == 4 else shape[-1]
    why = f"its last operator is {last}"
    if last in ("sigmoid", "hardsigmoid"):
        image = any(t.shape == leaf.value.shape for t in inputs) and channels > 1
        yield (of.IMAGE if image else of.MASK if len(shape) == 4 else of.LABELS), why
    elif last in ("softmax", "_softmax"):
        yield of.PROBABILITIES, why
    elif last in ("pixel_shuffle", "tanh") and len(shape) == 4 and channels <= _LARGE_IMAGE:
        yield of.IMAGE, why
    elif last == "exp":
        four = channels == 4 and len(shape) == 3
        yield (of.BOXES if four else of.REGRESSION), why
    elif last in ("relu", "softplus", "tanh", "elu") and len(shape) < 4:
        yield of.REGRESSION, why
    elif last in ("add", "sub") and len(shape) == 4 and _adds_input(node):
        yield of.IMAGE, "it is the input with something added"


def _by_shape(leaf: Leaf, leaves: Sequence[Leaf]) -> Iterator[tuple[str, str]]:
    shape = leaf.shape
    channels = 1 if len(shape) == 1 else shape[1] if len(shape) == 4 else shape[-1]
    if channels == 1:
        yield of.REGRESSION, "it is one number" + (" a pixel" if len(shape) == 4 else "")
        return
    others = [other for other in leaves if other is not leaf and isinstance(other.value, Tensor)]
    if len(shape) == 3 and any(
        len(other.shape) == 3 and _axis_of_four(shape) is not None
        and other.shape[3 - (_axis_of_four(shape) or 1)] == shape[3 - (_axis_of_four(shape) or 1)]
        for other in others
    ):  # fmt: skip
        yield of.BOXES, "four numbers for each row of scores"


def _axis_of_four(shape: Sequence[int]) -> int | None:
    """The axis of box coordinates."""
    if len(shape) == 4:
        return 1 if shape[1] % 4 == 0 else None
    if len(shape) in (2, 3) and shape[-1] == 4:
        return len(shape) - 1
    return 1 if len(shape) == 3 and shape[1] == 4 else None


def form_of(kind: str, value: Tensor) -> str:
    """Whether scores are probabilities, and how boxes are written, by the values themselves."""
    if kind in of.BY_SIGN:
        inside = bool(((value >= 0) & (value <= 1)).all())
        return of.PROBABILITY if inside else of.LOGIT
    if kind == of.PROBABILITIES:
        return of.PROBABILITY
    if kind != of.BOXES:
        return ""
    axis = _axis_of_four(value.shape)
    if axis is None or value.shape[axis] != 4:
        return of.OFFSETS
    first, second = value.movedim(axis, -1)[..., :2], value.movedim(axis, -1)[..., 2:]
    if bool((second >= first).all()):
        return of.CORNERS
    return of.CENTRES if bool((second >= 0).all()) else of.OFFSETS


def _behind_moves(node: fx.Node) -> fx.Node:
    """The node that computed the values which views and permutations hand on."""
    while plain_name(node) in _MOVES and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _adds_input(node: fx.Node) -> bool:
    return any(_behind_moves(source).op == "placeholder" for source in node.all_input_nodes)


def _follow(leaves: Sequence[Leaf], primary: int, calls: Set[str]) -> list[Leaf]:
    """The outputs that say nothing new: what they are made of passes through other outputs.

    The primary answer always stays; of scores and what a softmax makes of them the primary one.
    """
    nodes = {leaf.place: leaf.node for leaf in leaves if isinstance(leaf.node, fx.Node)}
    left = [leaf for leaf in leaves if leaf.place != primary]
    found = [leaf for leaf in leaves if leaf.place not in nodes and leaf.place != primary]
    main = nodes.get(primary)
    raw: fx.Node | None = None
    if main is not None and plain_name(_behind_moves(main)) in _SQUASHES:
        raw = _behind_moves(_behind_moves(main).all_input_nodes[0])
    for leaf in left:
        own = nodes.get(leaf.place)
        if own is None:
            continue
        others = {node for place, node in nodes.items() if place != leaf.place and node is not own}
        twin = own in [node for place, node in nodes.items() if place < leaf.place]
        same = raw is not None and _behind_moves(own) is raw
        if twin or same or not _reaches_unit(own, others, calls):
            found.append(leaf)
    return found


def _reaches_unit(start: fx.Node, stop: Set[fx.Node], calls: Set[str]) -> bool:
    """Whether some unit is behind a value by a way that passes none of the others."""
    todo, done = [start], set(stop)
    while todo:
        node = todo.pop()
        if node in done:
            continue
        done.add(node)
        if node.name in calls:
            return True
        todo += node.all_input_nodes
    return False


def _cut(head: Head, leaves: Sequence[Leaf]) -> Iterator[Head]:
    """The parts of an output that is boxes and their scores side by side, as YOLO's is."""
    node = next(leaf.node for leaf in leaves if leaf.place == head.leaf)
    value = next(leaf.value for leaf in leaves if leaf.place == head.leaf)
    if head.kind == NONE or not isinstance(node, fx.Node) or value.dim() != 3:
        yield head
        return
    node = _behind_moves(node)
    parts = node.args[0] if plain_name(node) == "cat" else ()
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if not isinstance(parts, (list, tuple)) or len(parts) != 2 or not isinstance(axis, int):
        yield head
        return
    axis %= value.dim()
    squashed = plain_name(_behind_moves(parts[1])) in _SQUASHES  # type: ignore[arg-type]
    if not axis or not squashed or value.shape[axis] <= 5:
        yield head
        return
    why = "boxes and their scores side by side"
    boxes = value.narrow(axis, 0, 4)
    form = form_of(of.BOXES, boxes.movedim(axis, -1))
    rest = Head(f"{head.name}[4:]", head.leaf, of.LABELS, axis, of.PROBABILITY, why=why,
                cut=(axis, 4, value.shape[axis]))  # fmt: skip
    yield Head(f"{head.name}[:4]", head.leaf, of.BOXES, axis, form, cut=(axis, 0, 4), why=why)
    yield rest


def pair_up(outputs: tuple[Head, ...], leaves: Sequence[Leaf]) -> tuple[Head, ...]:
    """Boxes and the scores of the same rows, told of each other; scores along the boxes' axis."""
    values = {leaf.place: leaf.value for leaf in leaves}
    found = list(outputs)
    for i, boxes in enumerate(found):
        if boxes.kind != of.BOXES or boxes.axis is None or values[boxes.leaf].dim() != 3:
            continue
        rows = values[boxes.leaf].shape[3 - boxes.axis]
        for j, scores in enumerate(found):
            shape = tuple(values[scores.leaf].shape) if scores.kind != NONE else ()
            fits = len(shape) == 3 and not scores.partner
            if not fits or scores.kind not in (SCORES, of.PROBABILITIES, of.LABELS):
                continue
            axis = next((a for a in (boxes.axis, 3 - boxes.axis) if shape[3 - a] == rows), None)
            if axis is not None:
                own = axis if axis == 1 else None
                partner = scores.name if boxes.form != of.OFFSETS else ""
                found[i] = replace(boxes, partner=partner)
                back = boxes.name if partner else ""
                found[j] = replace(scores, partner=back, axis=scores.axis or own)
                break
    return tuple(found)
