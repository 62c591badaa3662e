"""What a file computes from its constants alone, computed once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bitwright.sources.onnx_in.agree import FAILURES
from bitwright.sources.onnx_in.network import Constants, make_node
from bitwright.sources.onnx_in.parts import RANDOM, PartNode
from bitwright.sources.onnx_in.plain_form import Array, Op, PlainForm
from bitwright.sources.onnx_in.values import FEW, Host, OnnxValue, as_tensor

# What is written out must not be much larger than what it is made of.
_MOST = 1 << 22


def fold(form: PlainForm, file: str) -> PlainForm:
    """The graph without the operators that read constants alone; their results are constants."""
    constants = dict(form.constants)
    turned: dict[str, str] = {}
    left: list[Op] = []
    current = replace(form, constants=constants)
    store = Constants(current)
    for op in form.ops:
        known = bool(op.reads) and all(v in constants for v in op.reads)
        made = _compute(current, op, store, file) if known and op.kind not in RANDOM else None
        if made is None:
            left.append(op)
            continue
        constants.update(made)
        matrix = op.kind == "Transpose" and constants[op.outputs[0]].ndim == 2
        if matrix and op.attributes.get("perm", [1, 0]) == [1, 0]:
            turned[op.outputs[0]] = op.inputs[0]
        if op.kind == "Identity" and op.inputs[0] in turned:
            turned[op.outputs[0]] = turned[op.inputs[0]]
    return replace(current, ops=tuple(left), turned=turned)


def _compute(form: PlainForm, op: Op, store: Constants, file: str) -> dict[str, Array] | None:
    """The results of an operator on constants; None where they are too large to be written out."""
    before = sum(form.constants[v].size for v in op.reads)
    if op.kind in ("Identity", "Dropout") and not op.domain and len(op.outputs) == 1:
        return {op.outputs[0]: form.constants[op.inputs[0]]}
    module = make_node(form, op, store)
    names = op.outputs
    try:
        if module is None:
            part = PartNode(form, (op,), file)
            made: object = part()
            names = part.outputs
        else:
            with torch.no_grad():
                made = module()
    except FAILURES:
        return None
    results = made if isinstance(made, tuple) else (made,)
    arrays = {n: _array(v) for n, v in zip(names, results, strict=False) if n}
    if sum(a.size for a in arrays.values()) > max(4 * before + FEW * FEW, _MOST):
        return None
    return arrays


def _array(value: OnnxValue) -> Array:
    if isinstance(value, Host) and not value.array.size:
        return np.zeros(value.array.shape, dtype=np.int64)
    return as_tensor(value).detach().contiguous().numpy()
