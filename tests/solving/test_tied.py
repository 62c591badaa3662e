"""Tied weights: one tensor is the table of embeddings and the output layer, and stays one."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import bitwright as bw

VOCABULARY, WIDTH = 32, 16


class LanguageModel(nn.Module):
    """As small as a language model can be: a table, a layer, and the table again."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.middle = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=bias)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        h = h + torch.relu(self.middle(h))
        return self.head(self.norm(h))


def network(bias: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return LanguageModel(bias).eval()


def sentences() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randint(0, VOCABULARY, (8, 7)) for _ in range(8)]


def answers_of_file(path: Path, tokens: Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: tokens.numpy()})[0])


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        ("nearest", "parallel"),
        ("quadratic", "parallel"),
        ("quadratic", "sequential"),
        ("adaquant", "parallel"),
        ("adaquant", "sequential"),
        ("adaround", "parallel"),
    ],
)
def test_every_method_solves_tied_weights_and_the_file_holds_them_once(
    method: str, mode: str, tmp_path: Path
) -> None:
    data = sentences()
    result = bw.quantize(
        network(), data, recipe="fixed", method=method, mode=mode, scheme="w4a8", batch=8
    )
    assert [unit.name for unit in result.graph.units] == ["head", "middle"]
    assert set(result.assignment.weights) == {"head", "middle"}
    run = result.save(tmp_path / "run")
    assert run.read_json("verify.json")["passed"]

    with safe_open(str(run["model.safetensors"]), "pt") as file:
        names = list(file.keys())
        packed = file.get_tensor("head.q")
    assert packed.numel() == VOCABULARY * WIDTH // 2
    assert not any("embed" in name or name == "float.head.weight" for name in names)

    stored = {i.name: i for i in onnx.load(run["model.onnx"]).graph.initializer}
    tables = [i for i in stored.values() if sorted(i.dims) == [WIDTH, VOCABULARY]]
    assert [i.name for i in tables] == ["head.weight.q"]
    assert len(tables[0].raw_data) == VOCABULARY * WIDTH // 2
    found = answers_of_file(run["model.onnx"], data[0])
    with torch.no_grad():
        expected = result.model(data[0]).numpy()
    assert np.abs(found - expected).max() < 1e-4
    assert torch.equal(bw.load(tmp_path / "run", model=network())(data[0]), result.model(data[0]))


def test_a_bias_beside_tied_weights_enters_the_layer_and_not_the_table() -> None:
    net, data = network(bias=True), sentences()
    with torch.no_grad():
        net.head.bias.copy_(torch.randn(VOCABULARY))
    for mode in ("parallel", "sequential"):
        result = bw.quantize(
            net,
            data,
            recipe="fixed",
            method="quadratic",
            mode=mode,
            scheme="w8a8",
            batch=8,
            target="ort-cpu",
        )
        assert result.metrics["relative_noise"] < 1e-3


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_bits_are_allocated_with_tied_weights(mode: str) -> None:
    result = bw.quantize(
        network(), sentences(), recipe="fixed", method="quadratic", mode=mode, batch=8,
        menu="w8a8,w4a8", budget="bops<=0.04",
    )  # fmt: skip
    assert result.allocation["choices"].keys() == {"head", "middle"}


@pytest.mark.parametrize("tune", ["lapq", "brecq", "qat-kld"])
def test_steps_after_the_bits_leave_tied_weights_tied(tune: str) -> None:
    result = bw.quantize(
        network(), sentences()[:2], recipe="fixed", scheme="w4a8", batch=8, tune=tune
    )
    tables = [p for p in result.model.buffers() if tuple(p.shape) == (VOCABULARY, WIDTH)]
    assert len(tables) == 1


def test_the_rows_of_a_tied_table_stay_nearer_than_for_the_layer_alone() -> None:
    """Solved together: what the layer gains must not be paid by the embeddings."""
    net, data = network(), sentences()
    tied = bw.quantize(
        net, data, recipe="fixed", method="quadratic", mode="parallel", scheme="w3a8", batch=8
    )
    net.head.weight = nn.Parameter(net.embed.weight.detach().clone())
    alone = bw.quantize(
        net, data, recipe="fixed", method="quadratic", mode="parallel", scheme="w3a8", batch=8
    )
    assert tied.errors["head"] < alone.errors["head"]
