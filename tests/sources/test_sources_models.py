from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.errors import ModelError
from bitwright.sources.models import check_weights, load_model


def spec(tmp_path, body: str) -> str:
    path = tmp_path / "net.py"
    path.write_text("import torch\nfrom torch import nn\n" + body, encoding="utf-8")
    return f"{path}:f"


# ---- functions -------------------------------------------------------------------------------


def test_a_function_gives_a_network_as_it_returns_it(tmp_path):
    body = "def f():\n    n = nn.Linear(3, 2)\n    n.example_inputs = (torch.zeros(2, 3),)\n"
    body += "    return n"
    text = spec(tmp_path, body)
    loaded = load_model(text)
    assert loaded.module.training and loaded.spec == text and loaded.trained
    assert loaded.takes.most == 1
    assert loaded.example_inputs[0].shape == (2, 3)
    assert loaded.preprocess is None and loaded.program is None


@pytest.mark.parametrize(
    ("value", "kind", "count"),
    [
        ("torch.zeros(2, 3)", tuple, 1),
        ("[torch.zeros(2, 3), torch.zeros(2)]", tuple, 2),
        ("{'x': torch.zeros(2, 3)}", dict, 1),
    ],
)
def test_example_inputs_in_every_form(tmp_path, value, kind, count):
    body = f"def f():\n    n = nn.ReLU()\n    n.example_inputs = {value}\n    return n"
    example = load_model(spec(tmp_path, body)).example_inputs
    assert isinstance(example, kind) and len(example) == count


def test_a_class_is_a_function_too():
    assert isinstance(load_model("torch.nn:Identity").module, nn.Identity)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def f(): nn.ReLU()", "returned NoneType, not a network.*Is the return missing"),
        ("def f(): return nn.ReLU", "returned type, not a network"),
        (
            "def g():\n    raise KeyError('w')\ndef f():\n    return g()",
            r"calling .*net.py:f failed at .*net.py:4: KeyError: 'w'",
        ),
        (
            "def f():\n    return torch.load('/nowhere.pt')",
            r"failed at .*net.py:4: FileNotFoundError",
        ),
        (
            "def f():\n    n = nn.ReLU(); n.example_inputs = 3; return n",
            "example_inputs of .*net.py:f is int, not a tensor",
        ),
        (
            "def f():\n    n = nn.Linear(2, 2); n.weight.data[0, 0] = float('nan'); return n",
            "1 of 4 values of parameter 'weight' of .*net.py:f are NaN",
        ),
    ],
)
def test_wrong_functions(tmp_path, body, message):
    with pytest.raises(ModelError, match=message):
        load_model(spec(tmp_path, body))


def test_the_cause_is_kept(tmp_path):
    with pytest.raises(ModelError) as caught:
        load_model(spec(tmp_path, "def f(): return 1 / 0"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_interrupts_pass_through(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        load_model(spec(tmp_path, "def f(): raise KeyboardInterrupt"))


def test_weights_go_with_libraries_alone(tmp_path):
    with pytest.raises(ModelError, match=r"--weights w.pt cannot be used with"):
        load_model(spec(tmp_path, "def f(): return nn.ReLU()"), weights=Path("w.pt"))


# ---- check_weights ---------------------------------------------------------------------------


def test_check_weights():
    net = nn.BatchNorm1d(3)
    check_weights(net)
    net.running_var[1] = float("inf")
    with pytest.raises(ModelError, match="1 of 3 values of buffer 'running_var' of the network"):
        check_weights(net)


def test_masks_may_hold_minus_infinity():
    net = nn.Module()
    net.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    check_weights(net)
    net.mask[0] = float("nan")
    with pytest.raises(ModelError, match="buffer 'mask'"):
        check_weights(net)


def test_weights_without_values():
    with pytest.raises(ModelError, match="parameter 'weight' of net has no values"):
        check_weights(nn.Linear(2, 2, device="meta"), "net")


# ---- torch.export files ----------------------------------------------------------------------


def export(tmp_path, args=(), kwargs=None):
    program = torch.export.export(nn.Linear(4, 2), args, kwargs)
    torch.export.save(program, tmp_path / "net.pt2")
    return str(tmp_path / "net.pt2")


def test_pt2(tmp_path):
    loaded = load_model(export(tmp_path, (torch.ones(2, 4),)))
    assert loaded.example_inputs[0].shape == (2, 4) and loaded.program is not None
    assert loaded.module(torch.ones(2, 4)).shape == (2, 2)


def test_pt2_with_keyword_inputs(tmp_path):
    loaded = load_model(export(tmp_path, (), {"input": torch.ones(2, 4)}))
    assert list(loaded.example_inputs) == ["input"]


def test_wrong_pt2(tmp_path):
    with pytest.raises(ModelError, match=r"no file 'missing.pt2'"):
        load_model("missing.pt2")
    bad = tmp_path / "bad.pt2"
    bad.write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"no torch.export file \(BadZipFile"):
        load_model(str(bad))
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("bad/x", "y")
    with pytest.raises(
        ModelError, match=r"bad.pt2' holds the entry 'x', which .*torch.export.save"
    ):
        load_model(str(bad))


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemError('code of the file ran')",))


def rewrite(path: str, change) -> str:
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    for name in members:
        members[name] = change(name, members[name])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, content in members.items():
            new.writestr(name, content)
    return path


def test_pt2_never_runs_a_pickle_in_its_sample_inputs(tmp_path):
    buffer = io.BytesIO()
    torch.save((Evil(),), buffer)
    path = export(tmp_path, (torch.ones(2, 4),))
    rewrite(path, lambda n, c: buffer.getvalue() if n.endswith("sample_inputs/model.pt") else c)
    with pytest.raises(ModelError, match=r"sample_inputs.* Python objects") as caught:
        load_model(path)
    assert "code of the file ran" not in str(caught.value)


def test_pt2_never_runs_a_pickled_constant(tmp_path):
    meta = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"evil": meta}})
    path = export(tmp_path, (torch.ones(2, 4),))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/constants/opaque_obj_0", pickle.dumps(Evil()))
    rewrite(path, lambda n, c: config.encode() if n.endswith("constants_config.json") else c)
    with pytest.raises(ModelError, match=r"constant 'evil' .* pickled Python object"):
        load_model(path)
