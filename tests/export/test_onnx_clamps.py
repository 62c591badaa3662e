"""Which clamps of floats a quantiser implies, by trying all values around them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from bitwright.export.onnx_clamps import drop_clamps


def graph_of(high: float, scale: float, zero: int, most: int) -> ir.Graph:
    """Clip to 0 .. high, QuantizeLinear, Clip to 0 .. most."""
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float[n] x) => (uint8[n] y)
    <float a = {{0.0}}, float b = {{{high!r}}}, float s = {{{scale!r}}}, uint8 z = {{{zero}}},
     uint8 l = {{0}}, uint8 h = {{{most}}}>
    {{ c = Clip (x, a, b) q = QuantizeLinear (c, s, z) y = Clip (q, l, h) }}"""
    return ir.from_onnx_text(text).graph


@given(
    high=st.floats(0.5, 8, width=32), scale=st.floats(0.0625, 1, width=32), zero=st.integers(0, 3),
    most=st.sampled_from([3, 7, 15]),
)  # fmt: skip
def test_a_clamp_goes_exactly_where_it_changes_no_integer(high, scale, zero, most):
    graph = graph_of(high, scale, zero, most)
    drop_clamps(graph)
    (quantizer,) = [node for node in graph if node.op_type == "QuantizeLinear"]
    dropped = quantizer.inputs[0].name == "x"
    far = np.array([-1e6, 1e6], dtype=np.float32)

    def integers(x: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(x / np.float32(scale)) + zero, 0, most)

    clamped = np.clip(far, np.float32(0), np.float32(high))
    assert dropped == bool((integers(far) == integers(clamped)).all())


def test_a_clamp_that_others_read_stays():
    graph = graph_of(6.0, 0.5, 0, 12)
    (clip,) = [node for node in graph if node.op_type == "Clip" and node.inputs[0].name == "x"]
    graph.append(ir.node("Neg", [clip.outputs[0]]))
    drop_clamps(graph)
    (quantizer,) = [node for node in graph if node.op_type == "QuantizeLinear"]
    assert quantizer.inputs[0] is clip.outputs[0]
