"""Keys of the store cover all code that shapes what is kept under them."""

from __future__ import annotations

import textwrap

import pytest

import bitwright.methods.quadratic as quadratic
from bitwright.engine.code import PACKAGE, code_version, source_files
from bitwright.methods.catalogue import METHODS
from bitwright.pipeline.tabulate import solve_and_measure
from bitwright.solving import solve
from bitwright.solving.parallel import solve_parallel
from bitwright.solving.samples import split_samples


@pytest.fixture
def package(tmp_path):
    """A package in which `a` imports `deep.b`, and that one `c` within a function."""
    root = tmp_path / "pack"
    files = {
        "__init__.py": "",
        "a.py": "from pack.deep import b\nimport os\n",
        "deep/__init__.py": "",
        "deep/b.py": "def f():\n    from pack.c import g\n    return g\n",
        "c.py": "g = 1\n",
        "alone.py": "from pack.c import g\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_files_are_those_that_the_imports_reach(package):
    found = {path.relative_to(package).as_posix() for path in source_files(package, "a")}
    assert found == {"a.py", "deep/__init__.py", "deep/b.py", "c.py"}


def test_a_part_that_is_not_there_is_an_error(package):
    (package / "c.py").unlink()
    with pytest.raises(LookupError, match="no module 'c'"):
        source_files(package, "a")
    with pytest.raises(LookupError, match=r"no module 'solving\.gone'"):
        source_files(PACKAGE, "solving.gone")


def test_what_is_solved_and_measured_is_covered():
    """Every module that has a say in the bits is in the key that stands for it."""

    def reached(thing):
        module = thing.__module__.partition(".")[2]
        return {p.relative_to(PACKAGE).as_posix() for p in source_files(PACKAGE, module)}

    solved = reached(solve_parallel)
    for name in ("numerics/affine.py", "graph/rows.py", "solving/collect.py", "solving/work.py"):
        assert name in solved
    assert "methods/quadratic.py" in reached(type(METHODS["quadratic"]))
    assert "numerics/coordinate.py" in reached(type(METHODS["quadratic"]))
    measured = reached(solve_and_measure)
    assert {"sensitivity/measure.py", "sensitivity/sample_loss.py", "graph/variants.py"} <= measured
    assert "solving/samples.py" in reached(split_samples)


def test_methods_differ(monkeypatch):
    versions = {code_version(solve, type(m)) for m in METHODS.values()}
    assert len(versions) >= 4
    assert code_version(solve) == code_version(solve) != code_version(quadratic.QuadraticSolver)


def test_a_users_own_code_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    seen = set()
    for index, body in enumerate(("return 1", "return 2")):
        name = f"own_method_{index}"
        (tmp_path / f"{name}.py").write_text(f"class Own:\n    def solve(self):\n        {body}\n")
        seen.add(code_version(__import__(name).Own))
    assert len(seen) == 2
    space: dict = {"__name__": "nowhere"}
    exec(textwrap.dedent("class Lost:\n    pass\n"), space)
    with pytest.raises(LookupError, match=r"nowhere\.Lost cannot be read"):
        code_version(space["Lost"])
