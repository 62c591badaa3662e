from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bitwright.errors import DataError, ModelError, RecipeError
from bitwright.sources.specs import (
    Spec,
    load_function,
    load_object,
    parse_data,
    parse_model,
    resolve_spec,
)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def call(spec: str):
    return load_function(parse_model(spec), ModelError).call()


@pytest.mark.parametrize(
    ("spec", "kind", "target", "function"),
    [
        ("a/net.py:tiny", "file", "a/net.py", "tiny"),
        ("C:\\a\\net.py:tiny", "file", "C:\\a\\net.py", "tiny"),
        ("pkg.mod:tiny", "module", "pkg.mod", "tiny"),
        ("timm:resnet18.a1_in1k", "timm", "resnet18.a1_in1k", ""),
        ("torchvision:resnet18", "torchvision", "resnet18", ""),
        ("hf:a/b", "hf", "a/b", ""),
        ("net.pt2", "pt2", "net.pt2", ""),
    ],
)
def test_model_forms(spec, kind, target, function):
    parsed = parse_model(spec)
    assert (parsed.kind, parsed.target, parsed.function) == (kind, target, function)


def test_data_forms(tmp_path):
    assert parse_data("none").kind == "none"
    assert parse_data("x.npz").kind == "npz"
    assert parse_data("x.jsonl").kind == "jsonl"
    assert parse_data(str(tmp_path)).kind == "folder"
    assert parse_data("d.py:f").kind == "file"
    assert parse_data("pkg:f").kind == "module"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "MODEL 'resnet18' is not understood. A MODEL is FILE.py:FUNCTION"),
        ("", "MODEL '' is not understood"),
        ("net.pth", "is a file of weights: the network itself is missing"),
        ("timm:", "names no network. Write timm:NAME"),
        ("hf:", "names no network. Write hf:FOLDER"),
        ("nowhere.py", "no file 'nowhere.py'"),
    ],
)
def test_wrong_models(spec, message):
    with pytest.raises(ModelError, match=message):
        parse_model(spec)


LONG = "a" * 5000


@pytest.mark.parametrize(
    "spec",
    [LONG, f"{LONG}.pt2", f"{LONG}.py:f", f"a.py:{LONG}", f"hf:{LONG}", "a/" * 3000, f"{LONG}:f"],
)
def test_specs_longer_than_any_name(spec):
    for parse, error in ((parse_model, ModelError), (parse_data, DataError)):
        with pytest.raises(
            error, match=r"\.\.\.' has \d+ characters: a name has up to 255"
        ) as said:
            parse(spec)
        assert len(str(said.value)) < 300


@pytest.mark.parametrize("spec", ["m:f\n", "m\n:f", "a.py:f\n", "timm:a\nb", "x\r.pt2"])
def test_specs_with_a_line_break(spec):
    for parse, error in ((parse_model, ModelError), (parse_data, DataError)):
        with pytest.raises(error, match=r"holds a line break. Write it as one line"):
            parse(spec)
    with pytest.raises(ModelError, match=r"control character '\\x00'"):
        parse_model("a\0.pt2")
    with pytest.raises(RecipeError, match="line break"):
        load_object("m:f\n")


@pytest.mark.parametrize("spec", ["model.onnx", "deep/MODEL.ONNX"])
def test_an_onnx_file_is_known_by_its_ending(spec):
    assert parse_model(spec) == Spec(spec, "onnx", spec)


def test_a_file_without_function_lists_its_functions(tmp_path):
    path = write(tmp_path, "net.py", "def tiny(): pass\ndef _no(): pass\n")
    with pytest.raises(ModelError, match=r"Write .*net.py:FUNCTION. Functions there: tiny"):
        parse_model(str(path))
    with pytest.raises(ModelError, match="names a file but no function"):
        parse_model(f"{path}:")


def test_wrong_data(tmp_path):
    with pytest.raises(DataError, match=r"no file or folder .* Data are FILE.py:FUNCTION"):
        parse_data(str(tmp_path / "missing"))
    path = write(tmp_path, "a.csv", "1,2")
    with pytest.raises(DataError, match="a file of an unknown kind"):
        parse_data(str(path))


def test_resolve_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_spec("net.py:f") == f"{tmp_path / 'net.py'}:f"
    assert resolve_spec("hf:net") == f"hf:{tmp_path / 'net'}"
    assert resolve_spec("x.npz") == str(tmp_path / "x.npz")
    for same in ("timm:resnet18", "torchvision:resnet18", "pkg.mod:f", "none"):
        assert resolve_spec(same) == same


# ---- functions -------------------------------------------------------------------------------


def test_model_and_data_of_one_file_share_the_module(tmp_path):
    path = write(tmp_path, "both.py", "shared = []\ndef a(): return shared\ndef b(): return shared")
    assert call(f"{path}:a") is call(f"{path}:b")
    assert str(tmp_path) not in sys.path


def test_two_files_of_one_name_do_not_mix(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "net.py", f"def f(): return {name!r}")
    assert call(f"{tmp_path}/one/net.py:f") == "one"
    assert call(f"{tmp_path}/two/net.py:f") == "two"


def test_an_edited_file_is_read_again(tmp_path):
    path = write(tmp_path, "net.py", "def f(): return 1")
    assert call(f"{path}:f") == 1
    write(tmp_path, "net.py", "def f(): return 22")
    assert call(f"{path}:f") == 22


def test_neighbours_can_be_imported(tmp_path):
    write(tmp_path, "neighbour_a7.py", "value = 7")
    path = write(tmp_path, "net.py", "from neighbour_a7 import value\ndef f(): return value")
    assert call(f"{path}:f") == 7


def test_dataclasses_in_a_users_file_work(tmp_path):
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    x: int = 3\n"
    )
    assert call(f"{write(tmp_path, 'net.py', text)}:A").x == 3


def test_module_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "mod_b81.py", "def f(): return 5")
    assert call("mod_b81:f") == 5
    assert call("collections:OrderedDict") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", r"importing .*net.py failed at .*net.py:1: SyntaxError"),
        ("x = 1\ny = 1 / 0\n", r"importing .*net.py failed at .*net.py:2: ZeroDivisionError"),
        ("import not_there_x\n", "net.py:1: ModuleNotFoundError: No module named 'not_there_x'"),
        ("import sys\nsys.exit(3)\n", "net.py:2: SystemExit: 3"),
        ("def tinny(): pass\n", "unknown function 'tiny' in .*Did you mean 'tinny'"),
        ("x = 1\n", "unknown function 'tiny' .*defines no public function"),
        ("tiny = 3\n", "is of type int, not a function"),
        ("def tiny(a, b=1, *, c): pass\n", r"needs arguments \(a, c\) but is called with none"),
    ],
)
def test_wrong_user_files(tmp_path, text, message):
    path = write(tmp_path, "net.py", text)
    with pytest.raises(ModelError, match=message):
        load_function(parse_model(f"{path}:tiny"), ModelError)


def test_a_failed_import_is_tried_again(tmp_path):
    path = write(tmp_path, "net.py", "1 / 0")
    for _ in range(2):
        with pytest.raises(ModelError, match="ZeroDivisionError"):
            load_function(parse_model(f"{path}:f"), ModelError)


def test_missing_file_names_the_nearest(tmp_path):
    write(tmp_path, "networks.py", "")
    with pytest.raises(ModelError, match=r"no file .*network.py.* Did you mean 'networks.py'"):
        load_function(parse_model(f"{tmp_path}/network.py:f"), ModelError)
    with pytest.raises(DataError, match="There is no folder"):
        load_function(parse_data(f"{tmp_path}/none/network.py:f"), DataError)


def test_missing_module():
    with pytest.raises(ModelError, match="Did you mean 'timm:resnet18'"):
        load_function(parse_model("tim:resnet18"), ModelError)
    with pytest.raises(DataError, match=r"no module 'nowhere_q' on this machine. Install it"):
        load_function(parse_data("nowhere_q.sub:f"), DataError)


def test_a_module_that_fails_inside_is_not_called_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "mod_c92.py", "import absent_thing")
    with pytest.raises(ModelError, match=r"mod_c92.py:1: ModuleNotFoundError.*absent_thing"):
        load_function(parse_model("mod_c92:f"), ModelError)


def test_load_object_takes_functions_with_arguments(tmp_path):
    path = write(tmp_path, "metric.py", "def score(outputs, labels): return 3")
    assert load_object(f"{path}:score")(1, 2) == 3
    with pytest.raises(RecipeError, match=r"'score' is not understood. Write FILE"):
        load_object("score")
    with pytest.raises(RecipeError, match=r"unknown function 'scor' in .*Did you mean 'score'"):
        load_object(f"{path}:scor")
