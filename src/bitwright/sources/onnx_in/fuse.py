"""Operators that exporters write in several nodes, as one again.

A runtime, and a network captured from PyTorch, know GELU, SiLU, hard-swish, a linear layer with its
bias and layer norm as one operator each. Left in pieces they would be quantised inside.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitwright.sources.onnx_in.plain_form import Op, PlainForm, with_ops

DOMAIN = "bitwright.fused"


@dataclass
class Wiring:
    """Who makes and who reads each value."""

    form: PlainForm
    maker: dict[str, Op] = field(default_factory=dict)
    readers: dict[str, list[Op]] = field(default_factory=lambda: defaultdict(list))
    uses: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, form: PlainForm) -> Wiring:
        """The wiring of a graph."""
        made = cls(form)
        made.uses.update(form.outputs)
        for op in form.ops:
            made.maker.update(dict.fromkeys(op.outputs, op))
            for value in op.reads:
                made.readers[value].append(op)
                made.uses[value] += 1
        return made

    def before(self, value: str, kind: str) -> Op | None:
        """The standard operator of that kind that makes a value."""
        op = self.maker.get(value)
        return op if op is not None and op.kind == kind and not op.domain else None

    def number(self, value: str) -> float | None:
        """The number that a constant is."""
        array = self.form.constants.get(value)
        if array is None or array.size != 1 or array.dtype.kind not in "fiu":
            return None
        return float(array.reshape(-1)[0])

    def split(self, op: Op) -> tuple[str, float] | None:
        """(value, number) of an operator of which one operand is a number."""
        if len(op.inputs) != 2:
            return None
        first, second = op.inputs
        for value, other in ((first, second), (second, first)):
            number = self.number(other)
            if number is not None and self.number(value) is None:
                return value, number
        return None


@dataclass(frozen=True)
class Pattern:
    """One operator in place of several: what it is, what it reads, and what it stands for."""

    kind: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    parts: tuple[Op, ...]


def fuse(form: PlainForm) -> PlainForm:
    """The graph with each pattern in one operator, named by the node that begins it or, of
    functions without weights, by the node that ends it."""
    for match in (_linear, _gelu, _swish, _hard_swish, _layer_norm):
        form = _apply(form, match)
    return form


def _apply(form: PlainForm, match: Callable[[Wiring, Op], Pattern | None]) -> PlainForm:
    wiring = Wiring.of(form)
    gone: set[int] = set()
    made: dict[int, Op] = {}
    for op in form.ops:
        if id(op) in gone or op.domain not in ("", DOMAIN):
            continue
        found = match(wiring, op)
        if found is None or any(id(part) in gone or id(part) in made for part in found.parts):
            continue
        if not _closed(wiring, found.parts):
            continue
        gone.update(id(part) for part in found.parts if part is not op)
        made[id(op)] = _one(op, found)
    return with_ops(form, [made.get(id(op), op) for op in form.ops if id(op) not in gone])


def _closed(wiring: Wiring, parts: tuple[Op, ...]) -> bool:
    """Whether nobody else reads what the parts make; the last part makes the result."""
    inner = {v for part in parts[:-1] for v in part.outputs}
    read = Counter(v for part in parts for v in part.reads if v in inner)
    return all(wiring.uses[value] == read[value] for value in inner)


def _one(op: Op, found: Pattern) -> Op:
    named = found.parts[0] if found.kind == "Linear" else op
    protos = tuple(p for part in found.parts for p in part.protos)
    indices = tuple(i for part in found.parts for i in part.indices)
    return Op(
        named.name, found.kind, DOMAIN, found.inputs, op.outputs, found.attributes, protos, indices
    )


# ---- patterns: each is asked at the operator that makes the result ---------------------------


def _linear(wiring: Wiring, op: Op) -> Pattern | None:
    """x @ W + b."""
    if op.kind != "Add":
        return None
    for value, other in (op.inputs, op.inputs[::-1]):
        product = wiring.before(value, "MatMul")
        bias = wiring.form.constants.get(other)
        if product is None or bias is None or bias.ndim != 1:
            continue
        weight = wiring.form.constants.get(product.inputs[1])
        if weight is not None and weight.ndim == 2 and weight.shape[1] == bias.shape[0]:
            return Pattern("Linear", (*product.inputs, other), {}, (product, op))
    return None


def _gelu(wiring: Wiring, op: Op) -> Pattern | None:
    """0.5 x (1 + erf(x / sqrt 2)), in the orders in which exporters multiply."""
    if op.kind != "Mul":
        return None
    parts: list[Op] = [op]
    factors, half = _factors(wiring, op, parts)
    if len(factors) != 2 or abs(half - 0.5) > 1e-6:
        return None
    for x, value in (tuple(factors), tuple(factors[::-1])):
        plus = wiring.before(value, "Add")
        one = wiring.split(plus) if plus else None
        erf = wiring.before(one[0], "Erf") if one and one[1] == 1.0 else None
        scaled = wiring.maker.get(erf.inputs[0]) if erf else None
        found = wiring.split(scaled) if scaled and scaled.kind in ("Div", "Mul") else None
        if plus is None or erf is None or scaled is None or found is None or found[0] != x:
            continue
        wanted = np.sqrt(2.0) if scaled.kind == "Div" else np.sqrt(0.5)
        if abs(found[1] - wanted) < 1e-4:
            return Pattern("Gelu", (x,), {}, (scaled, erf, plus, *parts[::-1]))
    return None


def _factors(wiring: Wiring, op: Op, parts: list[Op], depth: int = 0) -> tuple[list[str], float]:
    """The values that a product of up to three factors multiplies, and its number."""
    values: list[str] = []
    number = 1.0
    for value in op.inputs:
        own, inner = wiring.number(value), wiring.before(value, "Mul")
        if own is not None:
            number *= own
        elif inner is not None and depth < 1 and wiring.split(inner) is not None:
            parts.append(inner)
            found, factor = _factors(wiring, inner, parts, depth + 1)
            values += found
            number *= factor
        else:
            values.append(value)
    return values, number


def _swish(wiring: Wiring, op: Op) -> Pattern | None:
    """x sigmoid(x)."""
    if op.kind != "Mul" or len(op.inputs) != 2:
        return None
    for x, value in (op.inputs, op.inputs[::-1]):
        gate = wiring.before(value, "Sigmoid")
        if gate is not None and gate.inputs[0] == x:
            return Pattern("Silu", (x,), {}, (gate, op))
    return None


def _hard_swish(wiring: Wiring, op: Op) -> Pattern | None:
    """x hard_sigmoid(x) of slope 1/6 and offset 1/2."""
    if op.kind != "Mul" or len(op.inputs) != 2:
        return None
    for x, value in (op.inputs, op.inputs[::-1]):
        gate = wiring.before(value, "HardSigmoid")
        if gate is None or gate.inputs[0] != x:
            continue
        if abs(gate.attributes.get("alpha", 0.2) - 1 / 6) < 1e-4:
            return Pattern("HardSwish", (x,), {}, (gate, op))
    return None


def _layer_norm(wiring: Wiring, op: Op) -> Pattern | None:
    """(x - mean) / sqrt(var + eps) gain + bias over the last axis."""
    if op.kind != "Add":
        return None
    for value, bias in (op.inputs, op.inputs[::-1]):
        scaled = wiring.before(value, "Mul")
        if scaled is None or bias not in wiring.form.constants:
            continue
        gain = next((v for v in scaled.inputs if v in wiring.form.constants), None)
        ratio = next((v for v in scaled.inputs if v not in wiring.form.constants), "")
        core = _normalised(wiring, ratio)
        if gain is None or core is None:
            continue
        arrays = wiring.form.constants[gain], wiring.form.constants[bias]
        if arrays[0].ndim == 1 and arrays[0].shape == arrays[1].shape:
            x, eps, parts = core
            attributes = {"axis": -1, "epsilon": eps}
            return Pattern("LayerNorm", (x, gain, bias), attributes, (*parts, scaled, op))
    return None


def _normalised(wiring: Wiring, value: str) -> tuple[str, float, tuple[Op, ...]] | None:
    """x, eps and the operators of (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)."""
    ratio = wiring.before(value, "Div")
    centred = wiring.before(ratio.inputs[0], "Sub") if ratio else None
    root = wiring.before(ratio.inputs[1], "Sqrt") if ratio else None
    if ratio is None or centred is None or root is None:
        return None
    mean = wiring.before(centred.inputs[1], "ReduceMean")
    plus = wiring.before(root.inputs[0], "Add")
    found = wiring.split(plus) if plus else None
    variance = wiring.before(found[0], "ReduceMean") if found else None
    square = wiring.maker.get(variance.inputs[0]) if variance else None
    if None in (mean, plus, found, variance, square):
        return None
    assert mean and plus and found and variance and square
    x = centred.inputs[0]
    other = wiring.maker.get(square.inputs[0])
    same = other is centred or (other is not None and other.kind == "Sub"
                                and other.inputs == centred.inputs)  # fmt: skip
    is_square = square.kind == "Pow" and wiring.number(square.inputs[1]) == 2.0
    is_square |= square.kind == "Mul" and square.inputs[0] == square.inputs[1]
    last = all(_over_last(wiring, op) for op in (mean, variance))
    if not (same and is_square and last and mean.inputs[0] == x):
        return None
    extra = () if other is centred or other is None else (other,)
    return x, found[1], (mean, centred, *extra, square, variance, plus, root, ratio)


def _over_last(wiring: Wiring, op: Op) -> bool:
    axes = op.attributes.get("axes")
    if axes is None and len(op.inputs) > 1:
        array = wiring.form.constants.get(op.inputs[1])
        axes = None if array is None else array.reshape(-1).tolist()
    return axes == [-1] and op.attributes.get("keepdims", 1) == 1
