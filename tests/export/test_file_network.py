"""A file called as its network is: keyword inputs, and outputs in the network's own structure."""

from __future__ import annotations

import pytest
import torch

import bitwright as bw
from bitwright.export.file_network import FileNetwork
from bitwright.export.runtimes import RuntimeRefusal
from networks import TwoTowers, normal, seeded


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    data = [{"first": normal(20, 4), "second": normal(20, 6, seed=1)}]
    made = bw.quantize(seeded(TwoTowers).eval(), data, recipe="fixed")
    return made, made.export(tmp_path_factory.mktemp("file") / "model.onnx")


def test_the_networks_own_structure(exported):
    made, path = exported
    network = FileNetwork(path, made.graph, "onnxruntime")
    named = {"first": normal(5, 4, seed=2), "second": normal(5, 6, seed=3)}
    own, wanted = network(**named), made.model(**named)
    assert set(own) == {"hidden", "logits"} and own["hidden"][1].shape == (5, 4)
    torch.testing.assert_close(own["logits"], wanted["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own["hidden"][0], wanted["hidden"][0], rtol=1e-4, atol=1e-5)


def test_what_the_runtime_refuses(exported, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(RuntimeRefusal):
        FileNetwork(broken, exported[0].graph, "onnxruntime")
