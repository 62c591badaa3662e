"""TensorRT's rules: our files keep them, files made wrong on purpose do not, and say where."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import bitwright as bw
from bitwright.export.tensorrt_rules import find_breaches, name_of_node


class Network(torch.nn.Module):
    """What the rules speak of: a sum of two branches, both kinds of convolution, linear layers."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.deep = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = torch.nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.flat = torch.nn.Linear(6, 32)
        self.last = torch.nn.Linear(32, 5)

    def forward(self, x):
        found = torch.relu(self.first(x))
        found = torch.relu(self.up(found + self.deep(found))).mean((2, 3))
        return self.last(torch.nn.functional.gelu(self.flat(found)))


IMAGES = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Files of the target by scheme, with the simulation's agreement in ONNX Runtime."""
    torch.manual_seed(0)
    net, folder = Network().eval(), tmp_path_factory.mktemp("rules")
    found = {}
    for scheme in ("w8a8", "w4a8", "w4afloatg8", "w2a8"):
        result = bw.quantize(
            net,
            [IMAGES],
            recipe="fixed",
            scheme=scheme,
            target="tensorrt",
            method="nearest",
            mode="parallel",
        )
        path = folder / f"{scheme}.onnx"
        result.export(path)
        found[scheme] = onnx.load(str(path))
        assert result.verify(path)["passed"]
    return found


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8", "w4afloatg8", "w2a8"])
def test_our_files_keep_the_rules(written, scheme):
    model = written[scheme]
    assert find_breaches(model) == []
    kinds = {TensorProto.DataType.Name(t.data_type) for t in model.graph.initializer}
    assert kinds <= {"FLOAT", "INT8", "INT64", *(["INT4"] if "g8" in scheme else [])}
    assert ("INT4" in kinds) == ("g8" in scheme)


def test_other_targets_files_do_not(written, tmp_path):
    net = Network().eval()
    for target in ("ort-cpu", "ort-linear", "paper"):
        result = bw.quantize(
            net, [IMAGES], recipe="fixed", scheme="w8a8", target=target, method="nearest"
        )
        result.export(tmp_path / "other.onnx")
        assert find_breaches(onnx.load(str(tmp_path / "other.onnx")))


def test_the_opset_can_be_chosen(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    for opset in (13, 17, 24):
        result = bw.quantize(
            net.eval(),
            [IMAGES],
            recipe="fixed",
            scheme="w8a8",
            target="tensorrt",
            method="nearest",
            opset=opset,
        )
        result.export(tmp_path / "net.onnx")
        model = onnx.load(str(tmp_path / "net.onnx"))
        assert model.opset_import[0].version == opset and find_breaches(model) == []


# ---- files made wrong on purpose: what is done to the file, and which node it is ---------------


def node_of(model, operator, reads=""):
    """The first node of an operator that reads a name."""
    return next(
        n
        for n in model.graph.node
        if n.op_type == operator and any(reads in name for name in n.input)
    )


def put(model, name, array, kind=None):
    """Replace a stored tensor."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = np.asarray(array)
    if kind is None:
        tensor.CopyFrom(numpy_helper.from_array(array.astype(to_numpy(tensor)), name))
    else:
        tensor.CopyFrom(helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist()))


def to_numpy(tensor):
    return numpy_helper.to_array(tensor).dtype


def get(model, name):
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def own(model, node, place, array, kind):
    """Give a node a stored tensor of its own for an input."""
    name = f"{node.output[0]}.own{place}"
    array = np.asarray(array)
    model.graph.initializer.append(
        helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist())
    )
    while len(node.input) <= place:
        node.input.append("")
    node.input[place] = name
    return node


def unsigned_inputs(model):
    node = node_of(model, "QuantizeLinear")
    return own(model, node, 2, np.array(0), TensorProto.UINT8)


def no_zero_point(model):
    node = node_of(model, "QuantizeLinear")
    del node.input[2:]
    return node


def shifted_input(model):
    node = node_of(model, "QuantizeLinear")
    return own(model, node, 2, np.array(3), TensorProto.INT8)


def shifted_weight(model):
    node = node_of(model, "DequantizeLinear", "first.weight.q")
    return own(model, node, 2, np.arange(8), TensorProto.INT8)


def unsigned_weight(model):
    put(model, "first.weight.q", get(model, "first.weight.q").astype(int) + 128, TensorProto.UINT8)
    return node_of(model, "DequantizeLinear", "first.weight.q")


def wide_weight(model):
    put(model, "first.weight.q", get(model, "first.weight.q"), TensorProto.INT16)
    return node_of(model, "DequantizeLinear", "first.weight.q")


def integer_bias(model):
    conv = node_of(model, "Conv", "first.weight")
    model.graph.initializer.extend(
        [
            helper.make_tensor("b.q", TensorProto.INT32, [8], [1] * 8),
            helper.make_tensor("b.s", TensorProto.FLOAT, [8], [0.1] * 8),
        ]
    )
    made = helper.make_node("DequantizeLinear", ["b.q", "b.s"], ["b.float"], "b.float", axis=0)
    model.graph.node.insert(0, made)
    conv.input[2] = "b.float"
    return conv


def zero_scale(model):
    scale = get(model, "first.weight.scale").copy()
    scale[2] = 0.0
    put(model, "first.weight.scale", scale)
    return node_of(model, "DequantizeLinear", "first.weight.q")


def negative_scale(model):
    node = node_of(model, "QuantizeLinear")
    return own(model, node, 1, np.array(-0.5), TensorProto.FLOAT)


def infinite_scale(model):
    node = node_of(model, "QuantizeLinear")
    return own(model, node, 1, np.array(np.inf), TensorProto.FLOAT)


def computed_scale(model):
    node = node_of(model, "QuantizeLinear")
    made = helper.make_node("ReduceMax", [model.graph.input[0].name], ["seen"], "seen", keepdims=0)
    model.graph.node.insert(0, made)
    node.input[1] = "seen"
    return node


def scales_of_channels_for_an_input(model):
    node = node_of(model, "QuantizeLinear")
    own(model, node, 1, np.full(3, 0.1), TensorProto.FLOAT)
    return own(model, node, 2, np.zeros(3, np.int64), TensorProto.INT8)


def other_axis(model):
    node = node_of(model, "DequantizeLinear", "deep.weight.q")
    own(model, node, 1, np.full(1, 0.1), TensorProto.FLOAT)
    own(model, node, 1, np.full(3, 0.1), TensorProto.FLOAT)
    set_attribute(node, "axis", 2)
    return node


def other_axis_of_a_linear_layer(model):
    node = node_of(model, "DequantizeLinear", "flat.weight.q")
    own(model, node, 1, np.full(6, 0.1), TensorProto.FLOAT)
    set_attribute(node, "axis", 1)
    return node


def too_few_scales(model):
    node = node_of(model, "DequantizeLinear", "first.weight.q")
    return own(model, node, 1, np.full(5, 0.1), TensorProto.FLOAT)


def least_weight(model):
    q = get(model, "first.weight.q").copy()
    q.reshape(-1)[7] = -128
    put(model, "first.weight.q", q)
    return node_of(model, "DequantizeLinear", "first.weight.q")


def half_a_sum(model):
    add = node_of(model, "Add")
    maker = next(n for n in model.graph.node if n.output[0] == add.input[1])
    quantizer = next(n for n in model.graph.node if n.output[0] == maker.input[0])
    add.input[1] = quantizer.input[0]
    return add


def clamped_integers(model):
    node = node_of(model, "DequantizeLinear", model.graph.node[0].output[0])
    made = helper.make_node("Clip", [node.input[0]], ["clamped"], "clamped")
    node.input[0] = "clamped"
    model.graph.node.insert(1, made)
    return made


def packed_convolution(model):
    put(model, "first.weight.q", get(model, "first.weight.q") // 32, TensorProto.INT4)
    return node_of(model, "DequantizeLinear", "first.weight.q")


def packed_beside_integers(model):
    put(model, "flat.weight.q", get(model, "flat.weight.q") // 32, TensorProto.INT4)
    return node_of(model, "DequantizeLinear", "flat.weight.q")


def an_operator_that_is_not_imported(model):
    node = node_of(model, "QuantizeLinear")
    node.op_type = "DynamicQuantizeLinear"
    return node


def an_operator_of_one_runtime(model):
    node = node_of(model, "Gelu")
    node.domain = "com.microsoft"
    return node


def set_attribute(node, name, value):
    for index, entry in enumerate(node.attribute):
        if entry.name == name:
            del node.attribute[index]
            break
    node.attribute.append(helper.make_attribute(name, value))


WRONG = [
    (unsigned_inputs, "UINT8"),
    (no_zero_point, "UINT8"),
    (shifted_input, "zero point is 3"),
    (shifted_weight, "zero point is 1"),
    (unsigned_weight, "UINT8"),
    (wide_weight, "INT16"),
    (integer_bias, "bias"),
    (zero_scale, "not positive"),
    (negative_scale, "not positive"),
    (infinite_scale, "not positive"),
    (computed_scale, "not stored"),
    (scales_of_channels_for_an_input, "3 scales"),
    (other_axis, "axis 2"),
    (other_axis_of_a_linear_layer, "axis"),
    (too_few_scales, "shape"),
    (least_weight, "-128"),
    (half_a_sum, "sum"),
    (clamped_integers, "at once"),
    (packed_convolution, "INT4"),
    (packed_beside_integers, "INT4"),
    (an_operator_that_is_not_imported, "DynamicQuantizeLinear"),
    (an_operator_of_one_runtime, "com.microsoft"),
]


@pytest.mark.parametrize(("spoil", "word"), WRONG, ids=[spoil.__name__ for spoil, _ in WRONG])
def test_a_wrong_file_is_refused_by_name(written, spoil, word):
    model = onnx.ModelProto()
    model.CopyFrom(written["w8a8"])
    node = name_of_node(spoil(model))
    breaches = find_breaches(model)
    assert any(b.node == node and word in b.rule for b in breaches), breaches


@pytest.mark.parametrize("version", [12, 25])
def test_an_opset_that_is_not_read_is_refused(written, version):
    model = onnx.ModelProto()
    model.CopyFrom(written["w8a8"])
    model.opset_import[0].version = version
    assert any(str(version) in b.rule for b in find_breaches(model))


def test_blocks_that_do_not_fit_are_refused(written):
    model = onnx.ModelProto()
    model.CopyFrom(written["w4afloatg8"])
    node = node_of(model, "DequantizeLinear", "last.weight.q")
    set_attribute(node, "block_size", 5)
    assert [b.node for b in find_breaches(model)] == [name_of_node(node)]
    model.CopyFrom(written["w4afloatg8"])
    node = node_of(model, "DequantizeLinear", "last.weight.q")
    own(model, node, 1, np.full((5, 3), 0.1), TensorProto.FLOAT)
    assert [b.node for b in find_breaches(model)] == [name_of_node(node)]
