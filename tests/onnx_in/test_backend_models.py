"""ONNX's own test models of the operators in the table: inputs and expected outputs come with them.

The models come from `onnx.backend.test`, each of one operator in one form, so what is expected is
neither ours nor ONNX Runtime's.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper

from bitwright.errors import ModelError
from bitwright.sources.onnx_in.agree import Failed, distance, run_nodes
from bitwright.sources.onnx_in.check import LEAST, MOST
from bitwright.sources.onnx_in.network import Constants, build
from bitwright.sources.onnx_in.parts import PartNode
from bitwright.sources.onnx_in.plain_form import plain_form
from bitwright.sources.onnx_in.table import TABLE
from bitwright.sources.onnx_in.values import DTYPES

# As far as the last bits go: ONNX states the outputs of these with few digits, or computes in
# another order.
CLOSE = 1e-5
_FEW = 64


def collect() -> list[Any]:
    """The cases of single operators of the table, on plain numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return [case for case in collect_testcases(None) if _is_covered(case)]


def _is_covered(case: Any) -> bool:
    model = case.model
    if model is None or len(model.graph.node) != 1 or not model.graph.input:
        return False
    values = (*model.graph.input, *model.graph.output)
    opset = max((e.version for e in model.opset_import if not e.domain), default=0)
    node = model.graph.node[0]
    plain = all(v.type.tensor_type.elem_type in DTYPES for v in values)
    return plain and node.op_type in TABLE and not node.domain and LEAST <= opset <= MOST


def outcome(case: Any) -> str:
    """`same`, `opaque`, or what differs."""
    model = type(case.model)()
    model.CopyFrom(case.model)
    given, wanted = case.data_sets[0]
    inputs = dict(zip((v.name for v in model.graph.input), map(as_array, given), strict=False))
    # Sizes and axes are numbers in files; what is not the first input and short is stored.
    for name, array in list(inputs.items())[1:]:
        if array.dtype.kind in "iub" and array.size <= _FEW:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    form = plain_form(model, case.name)
    try:
        module = build(Constants(form), case.name)
    except ModelError:
        return "opaque"  # ONNX Runtime does not know this form
    if any(isinstance(m, PartNode) for m in module.modules()):
        return "opaque"
    feeds = [torch.from_numpy(np.array(single(inputs[v.name]))) for v in form.inputs]
    made = run_nodes(module, feeds)
    if isinstance(made, Failed):
        return "opaque" if made.why.startswith("OpaqueError") else made.why
    gaps = [distance(single(as_array(w)), m) for w, m in zip(wanted, made, strict=False)]
    short = any(v.type.tensor_type.elem_type in (10, 16) for v in model.graph.output)
    return "same" if all(g <= (2e-2 if short else CLOSE) for g in gaps) else f"by {max(gaps):.3g}"


def as_array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if hasattr(value, "data_type") else np.asarray(value)


def single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


# Operators of which some form in these cases becomes a part: a mean that is asked for, the last of
# equal places, coordinates of a resize that torch has not.
PARTLY_OPAQUE = {
    "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "ConstantOfShape", "ConvTranspose",
    "Dropout", "GatherND", "LayerNormalization", "MaxPool", "Pad", "Resize", "ScatterElements",
    "ScatterND", "Upsample",
}  # fmt: skip
# Types that torch does not compute with, and empty reductions, fail and become parts as well.
_FAILS = ("NotImplementedError", "IndexError")
# ONNX Runtime differs from these cases as we do: a window that begins in the padding is left out.
_OTHERWISE = {"test_averagepool_2d_ceil_last_window_starts_on_pad"}


def test_onnx_cases_of_the_table_are_met():
    found: Counter[str] = Counter()
    wrong, opaque = {}, set()
    for case in collect():
        result = outcome(case)
        result = "opaque" if result.startswith(_FAILS) else result
        found[result if result in ("same", "opaque") else "wrong"] += 1
        if result == "opaque":
            opaque.add(case.model.graph.node[0].op_type)
        elif result != "same" and case.name not in _OTHERWISE:
            wrong[case.name] = result
    assert wrong == {}
    assert found["same"] > 550
    unsigned = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Greater", "Less", "GreaterOrEqual",
                "LessOrEqual", "ReduceMax", "ReduceMin", "BitwiseAnd", "BitwiseNot"}  # fmt: skip
    assert opaque <= PARTLY_OPAQUE | unsigned
