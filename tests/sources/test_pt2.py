"""A torch.export file runs nothing: every way that is known is tried with a real file.

Each attack leaves a mark when it runs. `test_torch_itself_would_run_it` shows on torch's own loader
that the attacks work, so that the others prove something.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.errors import ModelError
from bitwright.sources.models import load_model
from bitwright.sources.pt2_words import is_expression, is_operator, is_structure

MODEL = "net/models/model.json"


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("shift", torch.ones(2))

    def forward(self, x):
        return {"scores": self.linear(x) + self.shift, "rows": x.reshape(x.shape[0], -1)}


@pytest.fixture
def path(tmp_path) -> Path:
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(Small(), (torch.ones(3, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return str(path)


def change(path: Path, edit) -> str:
    """The file with its program edited as JSON."""
    content = entries(path)
    program = json.loads(content[MODEL])
    edit(program, program["graph_module"]["graph"])
    return write(path, content | {MODEL: json.dumps(program).encode()})


def touch(mark: Path) -> str:
    return f"__import__('pathlib').Path({str(mark)!r}).touch()"


def in_expression(mark):
    def edit(program, graph):
        size = next(iter(graph["tensor_values"].values()))["sizes"]
        size[0] = {"as_expr": {"expr_str": touch(mark), "hint": None}}

    return edit


def in_argument_name(mark):
    def edit(program, graph):
        entry = program["graph_module"]["module_call_graph"][0]["signature"]
        entry["forward_arg_names"] = [f"x={touch(mark)}"]

    return edit


def in_guard(mark):
    def edit(program, graph):
        program["guards_code"] = [f"{touch(mark)} is None"]

    return edit


def in_call(mark):
    def edit(program, graph):
        node = {
            "target": "torch.os.mkdir",
            "inputs": [{"name": "", "arg": {"as_string": str(mark)}, "kind": 1}],
            "outputs": [{"as_none": True}],
            "metadata": {},
            "name": "made",
        }
        graph["nodes"].insert(0, node)

    return edit


def in_structure(mark):
    def edit(program, graph):
        (mark.parent / "imported_by_name.py").write_text(touch(mark))
        os.sys.path.insert(0, str(mark.parent))
        spec = json.loads(program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"])
        key = {"__enum__": True, "fqn": "imported_by_name:X", "name": "A"}
        spec[1]["context"] = json.dumps([key, "rows"])
        program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(spec)

    return edit


def in_buffer_name(mark):
    def edit(program, graph):
        for spec in program["graph_module"]["signature"]["input_specs"]:
            if "buffer" in spec:
                spec["buffer"]["buffer_name"] = f'shift"), {touch(mark)}, ("'

    return edit


ATTACKS = [
    in_expression, in_argument_name, in_guard, in_call, in_structure, in_buffer_name,
]  # fmt: skip


@pytest.fixture
def search_path(monkeypatch):
    monkeypatch.setattr("sys.path", list(os.sys.path))


@pytest.mark.parametrize("attack", [in_expression, in_guard, in_structure])
def test_torch_itself_would_run_it(path, tmp_path, attack, search_path):
    mark = tmp_path / "mark"
    file = change(path, attack(mark))
    with contextlib.suppress(Exception):
        torch.export.load(file).module()(torch.ones(3, 4))
    assert mark.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_a_program_is_run(path, tmp_path, attack, search_path):
    mark = tmp_path / "mark"
    file = change(path, attack(mark))
    if attack is in_guard:  # left out: the rest of the file is a good network
        load_model(file).module(torch.ones(3, 4))
    else:
        with pytest.raises(ModelError, match=r"models/model.json' of .*net.pt2' has .*refused"):
            load_model(file)
    assert not mark.exists()


def test_an_entry_that_is_there_twice_is_refused(path):
    content = entries(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(MODEL, content[MODEL])
    with pytest.raises(ModelError, match=r"holds the entry 'net/models/model.json' twice"):
        load_model(str(path))


def test_names_that_differ_in_case_are_no_second_entry(path):
    content = entries(path) | {"net/Models/model.json": b"{}"}
    with pytest.raises(ModelError, match=r"'Models/model.json', which is not known"):
        load_model(write(path, content))


def test_a_compiled_library_is_refused(path):
    content = entries(path) | {"net/data/aotinductor/model/wrapper.so": b"\x7fELF"}
    with pytest.raises(ModelError, match=r"holds a compiled library .*wrapper.so.*is refused"):
        load_model(write(path, content))


@pytest.mark.parametrize(
    "name", ["net/data/constants/custom_obj_0", "net/data/executorch/x", "net/models/b.json", "e/x"]
)
def test_unknown_entries_are_refused(path, name):
    with pytest.raises(ModelError, match=r"which is not known|holds several folders"):
        load_model(write(path, entries(path) | {name: b"x"}))


def test_a_compressed_entry_is_refused_before_it_is_read(path):
    content = entries(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        archive.writestr("net/data/weights/weight_9", bytes(10**8))
    with pytest.raises(ModelError, match="holds the compressed entry"):
        load_model(str(path))


@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_pickled_tensors_are_refused(path, kind):
    meta = {"path_name": "weight_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    name = f"net/data/{kind}/model_{kind}_config.json"
    content = entries(path) | {name: json.dumps({"config": {"evil": meta}}).encode()}
    with pytest.raises(ModelError, match=r"'evil' in .* is a pickled Python object"):
        load_model(write(path, content))


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 200_000, b'{"graph_module": ' * 500 + b"{}", b"[]", b"3"]
)
def test_a_program_that_is_none(path, content):
    with pytest.raises(ModelError, match=r"is no JSON|holds no object|is nested|field"):
        load_model(write(path, entries(path) | {MODEL: content}))


# ---- what must still load ----------------------------------------------------------------------


class Many(nn.Module):
    """What networks use: sequences, einsum, texts as arguments, sizes in arithmetic, no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("first-layer", nn.Conv1d(4, 4, 3, padding="same"))
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.register_buffer("mask", torch.ones(1), persistent=False)
        self.constant = torch.ones(4)

    def forward(self, x, *, scale=None):
        with torch.no_grad():
            x = torch.einsum("bct,cd->bdt", x, torch.eye(4) * self.mask)
        x = nn.functional.gelu(getattr(self, "first-layer")(x), approximate="tanh")
        y, state = self.gru(x.transpose(1, 2))
        y = y[:, : x.shape[2] // 2 + 1] + self.constant
        return (torch.div(y, 2, rounding_mode="floor"), [state, x.flatten(1)], {"a b": y.mean()})


@pytest.mark.parametrize("dynamic", [False, True])
def test_networks_of_many_kinds_load_and_compute_the_same(tmp_path, dynamic):
    network, x = Many().eval(), torch.randn(3, 4, 10)
    free = {"x": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}, "scale": None}
    program = torch.export.export(
        network, (x,), {"scale": None}, dynamic_shapes=free if dynamic else None
    )
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = load_model(str(tmp_path / "net.pt2")).module
    wanted, given = network(x, scale=None), loaded(x, scale=None)
    assert torch.equal(wanted[0], given[0]) and torch.equal(wanted[1][0], given[1][0])
    assert list(given[2]) == ["a b"]


def test_the_older_form_of_a_file_loads(path, tmp_path):
    """torch 2.6 and 2.7 wrote these entries, without a folder around them."""
    from torch._export.serde.serialize import SCHEMA_VERSION, serialize

    made = serialize(torch.export.export(Small(), (torch.ones(3, 4),)))
    old = {
        "version": ".".join(map(str, SCHEMA_VERSION)).encode(),
        "serialized_exported_program.json": made.exported_program,
        "serialized_state_dict.pt": made.state_dict,
        "serialized_constants.pt": made.constants,
        "serialized_example_inputs.pt": made.example_inputs,
    }
    loaded = load_model(write(tmp_path / "old.pt2", old))
    assert loaded.module(torch.ones(3, 4))["scores"].shape == (3, 2)


# ---- the little languages ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "s0.__class__", "(lambda: 1)()", "[s0 for s0 in (1,)]", "preview(s0)",
        "9**9**9", "Pow(Pow(s0, Integer(9)), Integer(9))", "2**1000", "Symbol('os.system')",
        "Float('1', precision=999999999)", "s0[0]", "f'{s0}'", "Integer(*s0)", "s0 if s1 else s2",
        "s0 := 3", "S(1)", "exec('1')", "(" * 900 + ")" * 900, "1" * 1999, "", "s0; s1",
    ],
)  # fmt: skip
def test_what_is_no_expression_of_sizes(text):
    assert not is_expression(text)


@pytest.mark.parametrize(
    "text",
    ["s77", "u0 + 1", "Mul(Integer(-1), Symbol('s0', positive=True, integer=True))", "Max(1, s0)",
     "FloorDiv(s0, 2)", "Pow(Symbol('s1', integer=True), Integer(2))", "s0**2 - 4 <= u1",
     "Float('0.5', precision=53)", "Equality(Symbol('u0', integer=True), Integer(3))"],
)  # fmt: skip
def test_expressions_of_sizes(text):
    assert is_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "torch.os.system", "torch.ops.load_library", "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default", "torch.ops.aten._print.default", "torch.hub.load",
        "torch.ops.aten.__class__.default", "math.factorial", "_operator.call", "builtins.exec",
        "_operator.attrgetter", "torch.ops.debugprims._load_tensor.default", "#x:y", 3,
        "torch.ops.higher_order.triton_kernel_wrapper_mutation", "torch.ops.aten.nothing.default",
    ],
)  # fmt: skip
def test_what_is_no_operator_of_tensors(text):
    assert not is_operator(text)


@pytest.mark.parametrize(
    "text",
    ["torch.ops.aten.conv2d.default", "torch.ops.aten.conv2d.padding", "_operator.mul",
     "torch.ops.aten.sym_size.int", "torch.ops.aten.index.Tensor", "torch.ops.aten.lstm.input",
     "torch.ops.aten.scaled_dot_product_attention.default", "torch.sym_max",
     "torch.ops.aten._assert_scalar.default", "torch.ops.aten.to.dtype_layout",
     "torch.ops.aten.empty.memory_format", "torch.ops.aten.split_with_sizes.default"],
)  # fmt: skip
def test_operators_of_tensors(text):
    assert is_operator(text)


def test_structures():
    def spec(kind, context) -> str:
        return json.dumps([1, {"type": kind, "context": context, "children_spec": []}])

    assert is_structure(spec("builtins.dict", '["x"]'), True)
    assert is_structure(spec("builtins.dict", '["a b"]'), False)
    assert not is_structure(spec("builtins.dict", '["x=1"]'), True)
    factory = {"default_factory_module": "os", "default_factory_name": "getcwd"}
    assert not is_structure(spec("collections.defaultdict", json.dumps(factory)), False)
    assert not is_structure(spec("builtins.dict", '[{"__enum__": true}]'), False)
    assert not is_structure("[" * 100_000, False)
