"""How much stays float in which operators, counted by hand."""

from __future__ import annotations

import pytest
from torch import nn

import bitwright as bw
from bitwright.graph.choice import FLOAT, Choice
from bitwright.graph.float_weights import float_weights
from networks import normal, seeded


class Recurrent(nn.Module):
    def __init__(self, kind) -> None:
        super().__init__()
        self.body = kind(8, 16) if kind is nn.LSTMCell else kind(8, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        if isinstance(self.body, nn.LSTMCell):
            return self.head(self.body(x[:, 0])[0])
        return self.head(self.body(x)[0][:, -1])


@pytest.mark.parametrize(
    ("kind", "name", "gates"),
    [(nn.LSTM, "lstm", 4), (nn.GRU, "gru", 3), (nn.LSTMCell, "lstm_cell", 4)],
)
def test_recurrent_weights_are_counted_by_their_operator(kind, name, gates):
    graph = bw.capture(seeded(lambda: Recurrent(kind)).eval(), (normal(2, 3, 8),))
    own = gates * 16 * (8 + 16 + 2)
    total = own + 16 * 4 + 4
    found = float_weights(graph, {"head": Choice(8, 8)})
    assert found["operators"][name] == pytest.approx(own / total)
    assert found["share"] == pytest.approx((own + 4) / total)
    assert found["size"] == pytest.approx((own + 4 + 16) / total)
    assert float_weights(graph, {"head": FLOAT})["share"] == 1.0
    result = bw.quantize(seeded(lambda: Recurrent(kind)).eval(), [normal(4, 3, 8)], recipe="fixed")
    (reason,) = (op["reason"] for op in result.census["float_ops"] if op["op"] == name)
    assert "stored weights" in reason
